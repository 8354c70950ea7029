"""Runs beside each other: pairs, ranks, matrices, money."""
