"""Answers that are had elsewhere than in this process: providers' batch interfaces, a Ray cluster."""
