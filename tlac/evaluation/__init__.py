"""Phase 1: what is asked, in which order, about every sample."""
