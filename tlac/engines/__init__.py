"""Engines put the answers of a run into its store that were had elsewhere: in provider batches, or on a Ray cluster."""
