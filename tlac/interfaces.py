"""All plug points: LMM, TextEncoder, ImageEncoder, Dataset, Method, ImageMethod, MatchingRule, BatchInterface, Engine.

A plug-in provides one by having its methods; there is nothing to inherit. Entry points make it known to
`tlac.config.registry`: `tlac.lmms`, `tlac.encoders`, `tlac.image_encoders`, `tlac.datasets`, `tlac.methods`,
`tlac.batch_interfaces`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from tlac.errors import PermanentError, TlacError
from tlac.types import (
    Combination,
    Encoding,
    Float32Array,
    Image,
    LMMRequest,
    LMMResponse,
    MatchDecision,
    NearestClasses,
    Sample,
    Transcript,
    Turn,
)

ScoredT_co = TypeVar("ScoredT_co", covariant=True)
ConfigT_contra = TypeVar("ConfigT_contra", contravariant=True)
BackendT_contra = TypeVar("BackendT_contra", contravariant=True)


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
        """Stable id of the vectors, used in embedding keys: model, weights, revision. Known before loading."""
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
        """Stable id of the vectors, used in embedding keys. Known before loading."""
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


class ClassFinder(Protocol):
    """Finds the classes whose names are nearest to an answer."""

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """The `count` nearest classes. Raises EncoderUnavailableError, MissingAnswersError."""
        ...


class Prompter(ClassFinder, Protocol):
    """The questions that a method may ask about one image, each in the run's own words."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names."""
        ...

    @property
    def ensemble(self) -> Sequence[Prompter]:
        """The same questions to the further backends of the run."""
        ...

    async def ask_stage1(self, image: Image, repeat: int = 0, prompts: str | None = None) -> Turn:
        """What does the image show? `repeat` numbers further samples of the same question, from 0.

        `prompts` names one of the method's further prompt sets, None the run's own. Raises CallError.
        """
        ...

    async def ask_stage2(
        self, answer: str, candidates: Sequence[int] | None = None, image: Image | None = None
    ) -> Turn:
        """Which class did that answer mean? No image is shown, unless one is given; then an empty answer is left out of
        the question.

        `candidates` are the indices of the classes to choose from, in the order in which they are listed, None for
        all. Raises CallError.
        """
        ...

    def needs_choice(self, answer: str) -> bool:
        """Whether stage 2 has anything left to decide about this answer."""
        ...

    def read_choice(self, text: str) -> int | None:
        """The class that a stage-2 answer names, by name or by index, or None."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way of asking. `ask` yields each turn as it is had, so that none is lost when a later one fails.

    A method may also have `combine`: how scoring makes one prediction of several members ("first", "fuse", "average" or
    "vote"); `further_prompts`: names of prompt sets that it asks in beside the run's own, and `second` among them: that
    of a second sample, whose turn is numbered SECOND_SAMPLE; `image`: whether scoring also compares the image's own
    vector with the class names; `is_sequential`: whether what stage 1 said decides how it is asked again; and `relook`:
    whether a question hangs on what stage 2 said. Workers of a cluster put stage 2 off, and refuse such a method.
    """

    @property
    def name(self) -> str:
        """The name that results are listed under."""
        ...

    def ask(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """The turns about one image, stage 1 first. Raises CallError."""
        ...


def combination_of(method: object) -> Combination:
    """How scoring makes one prediction of a method's members."""
    combine: Combination = getattr(method, "combine", "first")
    return combine


def sees_image(method: object) -> bool:
    """Whether scoring also compares the image's own vector with the class names."""
    return bool(getattr(method, "image", False))


def second_sample_of(method: object) -> str:
    """The prompt set of a method's second sample, empty for none."""
    return str(getattr(method, "second", ""))


def looks_again(method: object) -> bool:
    """Whether the method may show the image again after stage 2: a question that hangs on its choice."""
    return bool(getattr(method, "relook", False))


def prompts_of(method: object) -> tuple[str, ...]:
    """The prompt sets that a method asks in beside the run's own."""
    return tuple(getattr(method, "further_prompts", ()))


class ImageScorer(Protocol[ScoredT_co]):
    """Compares images with the class names."""

    def score(self, samples: Iterable[Sample], advance: Callable[[Transcript], None]) -> ScoredT_co:
        """The predictions for these samples, in their order; `advance` is told of each as it is done."""
        ...


@runtime_checkable
class ImageMethod(Protocol):
    """A way of classifying that looks at the image itself and asks no LMM."""

    @property
    def name(self) -> str:
        """The name that results are listed under."""
        ...

    def look(
        self, samples: Iterable[Sample], scorer: ImageScorer[ScoredT_co], advance: Callable[[Transcript], None]
    ) -> ScoredT_co:
        """What the scorer makes of these samples, in their order. `advance` is told of each as it is done."""
        ...


class ClassNames(Protocol):
    """A class list that can be asked which class a text names."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a class is named by its index."""
        ...

    def find(self, text: str) -> int | None:
        """The class that the whole text names, or None."""
        ...

    def read_choice(self, text: str) -> int | None:
        """The class that a stage-2 answer names, by name or by index, or None."""
        ...


class MatchingRule(Protocol):
    """How answers become a decision. `name` stands in every result.

    `skips_stage2_on_exact` says that an answer which is a class name needs no second stage.
    """

    name: str
    skips_stage2_on_exact: bool

    def judge(self, answer: LMMResponse, choice: LMMResponse | None, index: ClassNames) -> MatchDecision:
        """The decision on a first answer and, where stage 2 was asked, its answer."""
        ...

    def class_text(self, name: str) -> str:
        """A class name as it is scored (no template applied)."""
        ...


class Engine(Protocol[ConfigT_contra, BackendT_contra]):
    """Has the answers that a run lacks put into its store ahead of it, from elsewhere than this process."""

    @property
    def paid(self) -> Container[str]:
        """The keys of the answers that this engine has had given: they count as asked by the run."""
        ...

    def fetch(self, config: ConfigT_contra, finder: ClassFinder) -> AbstractContextManager[str | None]:
        """Put what the store lacks for this run into it; `finder` finds places in the class list as it is shown.

        The block begins when nothing more can be had, with why asking ended early (an interrupt, say), else None.
        Raises TlacError; whatever was answered is stored.
        """
        ...

    def rest(self, backend: BackendT_contra) -> LMM:
        """What is asked for an answer that is still missing after `fetch`: it raises CallError and says why.

        Raises ConfigError where the backend can't be asked at all.
        """
        ...


class UndecidedError(TlacError):
    """Whether the provider has a batch can't be known yet: to be asked again, and nothing submitted until then."""


class UnknownBatchError(PermanentError):
    """The provider has no such batch, or no results of it any more, or not for this key."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is: `state` in the provider's own word, `is_over` when nothing more will be answered.

    `reason` is the provider's complaint about a batch that it refused as a whole. `results` counts the requests that
    the provider says it has a result or an error for once the batch is over, None for all of them; `expires_at` is the
    time by which it promises to be done.
    """

    state: str
    is_over: bool
    reason: str = ""
    results: int | None = 0
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request: a response, or the reason why there is none.

    `custom_id` is empty where the provider's line is too broken to say whose it is.
    """

    custom_id: str
    response: LMMResponse | None
    reason: str = ""


class BatchInterface(Protocol):
    """One backend's batch interface. Every method but `form` and `line` asks the provider, and blocks.

    They raise TransientError where asking again may help, PermanentError or SampleError where it would not;
    `status`, `results` and `cancel` UnknownBatchError where the provider has no such batch or results.
    """

    @property
    def max_requests(self) -> int:
        """How many requests fit into one batch."""
        ...

    @property
    def max_bytes(self) -> int:
        """How large the lines of one batch may be together."""
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

    def find(self, tag: str, since: datetime, custom_ids: Collection[str], taken: Collection[str]) -> str | None:
        """The provider's id of a batch that may or may not have reached it; None where the provider has none.

        `custom_ids` are those of its requests, `since` when it was written down, `taken` the provider's ids of other
        batches. Raises UndecidedError where that can't be known yet.
        """
        ...

    def status(self, job: str) -> BatchStatus:
        """How far the batch is."""
        ...

    def results(self, job: str) -> Iterator[BatchResult]:
        """What became of the requests of a batch that is over; in any order, perhaps not all yet, perhaps some twice.

        Gives what can be read before it raises. A response costs what it cost in the batch, and has neither latency
        nor time.
        """
        ...

    def cancel(self, job: str) -> None:
        """Have the rest of the batch not answered."""
        ...
