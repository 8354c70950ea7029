"""The plug points: LMM, TextEncoder, ImageEncoder, Dataset.

An adapter provides one by having its methods; there is nothing to inherit. Entry points make it known
(see tlac.registry). Does not know any adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from tlac.types import Encoding, Float32Array, LMMRequest, LMMResponse, Sample


@runtime_checkable
class LMM(Protocol):
    """Something that answers questions about images, or about words alone."""

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Answer one request.

        A refusal, an empty and a truncated answer are responses. Raises CallError (one of its kinds)
        where there is no response.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Something that turns texts into vectors whose product is their similarity."""

    @property
    def fingerprint(self) -> str:
        """Tells this encoder's vectors from all others': model, weights, revision. Known before loading."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Encode n texts. The row of a text does not depend on its neighbours.

        Raises EncoderUnavailableError where weights or packages can't be had.
        """
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Something that turns images into vectors in the space of a text encoder's."""

    @property
    def fingerprint(self) -> str:
        """Tells this encoder's vectors from all others'. Known before loading."""
        ...

    def encode(self, images: Sequence[Any]) -> Float32Array:
        """Encode n RGB images (PIL.Image): (n, d), rows of length 1. A row does not depend on its neighbours.

        Raises EncoderUnavailableError where weights or packages can't be had.
        """
        ...


@runtime_checkable
class Dataset(Protocol):
    """Labelled images and the class names they are told apart by."""

    @property
    def name(self) -> str:
        """The name that results are listed under."""
        ...

    @property
    def split(self) -> str:
        """The part of the dataset: "all", "base", "novel", and for a labelled split also "test" or the like."""
        ...

    @property
    def protocol(self) -> str:
        """Where split and class names come from, in a few words; results under two protocols don't compare."""
        ...

    @property
    def prompt(self) -> str:
        """The stage-1 prompt of a prompt set that fits these images."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them. A dataset's own list may hold a name twice."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]:
        """The samples in a fixed order; no image is opened."""
        ...
