"""Text encoder adapters, found through the entry points tlac.encoders."""
