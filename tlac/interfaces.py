"""The plug points: LMM, TextEncoder, ImageEncoder, Dataset.

An adapter provides one by having its methods; there is nothing to inherit. Entry points make it known
(see tlac.config.registry). Does not know any adapter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tlac.errors import PermanentError, TlacError
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


def notes_of(dataset: Dataset) -> tuple[str, ...]:
    """What a dataset says of itself beside a number: files skipped, classes without images, names that are alike.

    A loader may leave `notes` out.
    """
    return tuple(getattr(dataset, "notes", ()))


def details_of(dataset: Dataset) -> dict[str, str]:
    """What a loader chose, such as the columns of a table; it may leave `details` out."""
    return dict(getattr(dataset, "details", {}))


class UndecidedError(TlacError):
    """Whether the provider has a batch can't be known yet: to be asked again, and nothing submitted until then."""


class UnknownBatchError(PermanentError):
    """The provider has no such batch, or not for this key."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The most that a provider takes in one batch."""

    requests: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A batch that may or may not have reached the provider.

    `custom_ids` are those of its requests, `since` when it was written down, `taken` the provider's ids of other
    batches.
    """

    tag: str
    since: datetime
    custom_ids: Collection[str] = field(repr=False)
    taken: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is: `state` in the provider's own word, `is_over` when nothing more will be answered.

    `reason` is the provider's complaint about a batch that it refused as a whole.
    """

    state: str
    is_over: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request: a response, or the reason why there is none."""

    custom_id: str
    response: LMMResponse | None
    reason: str = ""


class BatchInterface(Protocol):
    """One backend's batch interface. Every method but `form` and `line` asks the provider, and blocks.

    They raise TransientError where asking again may help, PermanentError or SampleError where it would not;
    `status` and `cancel` UnknownBatchError where the provider has no such batch.
    """

    @property
    def limits(self) -> BatchLimits:
        """What fits into one batch."""
        ...

    @property
    def discount(self) -> float:
        """The share of the live price that a batch saves, in [0, 1]."""
        ...

    async def form(self, request: LMMRequest) -> bytes:
        """The request as the provider's JSON, the very one that a live call would send.

        Raises SampleError for an image that can't be used, ConfigError for parameters that would be refused.
        """
        ...

    def line(self, custom_id: str, body: bytes) -> bytes:
        """One line of a batch's file, with its end: a request under our own id (at most 64 of A-Z a-z 0-9 _ -)."""
        ...

    def submit(self, file: Path, tag: str) -> str:
        """Hand in a file of lines, marked with our tag; the provider's id of the batch."""
        ...

    def find(self, intent: Intent) -> str | None:
        """The provider's id of the batch that was to be submitted, None where the provider has none.

        Raises UndecidedError where that can't be known yet.
        """
        ...

    def status(self, job: str) -> BatchStatus:
        """How far the batch is."""
        ...

    def results(self, job: str) -> Iterator[BatchResult]:
        """What became of the requests of a batch that is over; in any order, perhaps not all, perhaps some twice.

        A response costs what it cost in the batch, and has neither latency nor time.
        """
        ...

    def cancel(self, job: str) -> None:
        """Have the rest of the batch not answered."""
        ...
