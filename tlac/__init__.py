"""Zero-shot image classification with large multimodal models."""
