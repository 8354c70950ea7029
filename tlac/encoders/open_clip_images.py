"""Image encoders of the CLIP family, through open_clip: the other side of tlac.encoders.open_clip.

Does not know what the images show. Images are encoded in batches of one size, padded with copies, so that a
row has the same bits whatever its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tlac.config import EncoderConfig
from tlac.encoders import open_clip_weights
from tlac.encoders.batching import Batch, run_batches
from tlac.encoders.open_clip import OpenClipEncoder
from tlac.types import Float32Array


class OpenClipImageEncoder:
    """An image tower of open_clip, float32, on the CPU, with the preparation that its weights were trained with.

    Takes the same description as the text encoder. Weights are loaded at the first encode.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._text = OpenClipEncoder(config)

    @property
    def fingerprint(self) -> str:
        """The text encoder's, marked as that of images."""
        return f"{self._text.fingerprint}:images"

    def encode(self, images: Sequence[Any]) -> Float32Array:
        """n RGB images as (n, d) float32, rows of length 1; no images give (0, 0).

        Raises EncoderUnavailableError where the weights can't be had.
        """
        if not images:
            return np.zeros((0, 0), np.float32)
        import torch

        tower, prepare = self._loaded
        pixels = torch.stack([prepare(image) for image in images])

        def forward(batch: Batch) -> Any:
            with torch.inference_mode():
                return tower(pixels[list(batch.rows)]).numpy()

        return run_batches([0] * len(images), forward)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return open_clip_weights.load_image_tower(self._config)
