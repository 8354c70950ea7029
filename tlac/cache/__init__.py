"""The store of answers and text embeddings, and response packs, in which answers travel between machines."""
