"""The store of answers and text embeddings. Does not know who asks."""

from tlac.documents import StoredAnswer, StoredEmbedding
from tlac.store.folder import store_folder
from tlac.store.store import AnswerCount, Store, StoreStats

__all__ = ["AnswerCount", "Store", "StoreStats", "StoredAnswer", "StoredEmbedding", "store_folder"]
