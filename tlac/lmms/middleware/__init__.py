"""Middleware: LMMs that wrap an LMM, between a method and a provider."""
