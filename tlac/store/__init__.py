"""The store of answers and text embeddings. Does not know who asks."""

from tlac.documents import StoredAnswer, StoredEmbedding
from tlac.store.explanation import Difference, Explanation, explain
from tlac.store.folder import store_folder
from tlac.store.pruning import Pruned, Selection, prune, prune_damaged, select
from tlac.store.store import AnswerCount, Store, StoreStats
from tlac.store.verification import Problem, Verification, verify_store

__all__ = [
    "AnswerCount",
    "Difference",
    "Explanation",
    "Problem",
    "Pruned",
    "Selection",
    "Store",
    "StoreStats",
    "StoredAnswer",
    "StoredEmbedding",
    "Verification",
    "explain",
    "prune",
    "prune_damaged",
    "select",
    "store_folder",
    "verify_store",
]
