"""LMMs that wrap an LMM: what stands between a method and a provider."""
