"""The tests of tlac; the folders mirror the package."""
