"""Where models run: on a GPU where torch finds one, else on the CPU.

On a GPU rows differ from the CPU's in their last bits, as two processors' do. bfloat16 changes more than that, and is
part of an encoder's fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tlac.config.schemas import EncoderConfig
from tlac.errors import ConfigError

_DTYPES = ("float32", "bfloat16")


def pick_device() -> str:
    """The device that torch runs models on: "cuda", "mps" or "cpu". CUDA_VISIBLE_DEVICES= hides GPUs from it."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_dtype(config: EncoderConfig) -> str:
    """The option `dtype`: float32 unless it says bfloat16. Raises ConfigError for another."""
    dtype = config.spec.options.get("dtype", "float32")
    if dtype not in _DTYPES:
        raise ConfigError(f"{config.source}: option 'dtype' is {dtype!r}; known: {', '.join(_DTYPES)}")
    return str(dtype)


def place(model: Any, config: EncoderConfig) -> Any:
    """The model for inference, in its type of numbers, on the device. Raises ConfigError for an unknown type."""
    import torch

    placed = model.to(device=pick_device(), dtype=getattr(torch, check_dtype(config)))
    return placed.eval().requires_grad_(False)


def device_of(model: Any) -> Any:
    """The device that a model's numbers lie on, and so are to be given to it."""
    return next(iter(model.parameters())).device


@contextmanager
def exact(device: Any) -> Iterator[None]:
    """No TF32 in convolutions, which torch uses on NVIDIA's GPUs unless told otherwise: it has 10 bits of a float32."""
    import torch

    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield
