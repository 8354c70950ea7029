"""Provider batches: half the price, answers within a day, into the same store."""
