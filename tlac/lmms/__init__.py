"""LMM adapters, found through the entry points of the group tlac.lmms."""
