"""Small CLIP models."""

from __future__ import annotations

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3}


MODELS = {
    "tlac-tiny": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "tlac-tiny-custom": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True},
    "tlac-tiny-both-ways": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": {**TEXT, "no_causal_mask": True}},
    "tlac-tiny-eos": {
        "embed_dim": 24,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
        "custom_text": True,
    },
}
