"""Dataset loaders, found through the entry points of the group tlac.datasets."""
