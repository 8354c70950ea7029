"""The store of answers and text embeddings. Does not know who asks."""

from tlac.documents import StoredAnswer, StoredEmbedding
from tlac.store.folder import store_folder
from tlac.store.store import AnswerCount, Store, StoreStats
from tlac.store.verification import Problem, Verification, verify_store

__all__ = [
    "AnswerCount",
    "Problem",
    "Store",
    "StoreStats",
    "StoredAnswer",
    "StoredEmbedding",
    "Verification",
    "store_folder",
    "verify_store",
]
