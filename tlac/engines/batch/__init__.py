"""Asking through providers' batch interfaces: half the price, answers within a day, into the same store.

Does not know any provider.
"""
