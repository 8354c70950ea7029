"""The records that flow through tlac: sample, request, response, turn, transcript, prediction.

Does not know how any of them is made, stored or shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Int64Array: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
Stage: TypeAlias = Literal["stage1", "stage2"]
FailureKind: TypeAlias = Literal["missing", "sample", "call", "stopped"]
Combination: TypeAlias = Literal["first", "fuse", "average", "vote"]
Source: TypeAlias = Path | bytes | Callable[[], bytes]
"""An image file, its bytes, or what fetches them and raises InputError."""


class Outcome(str, Enum):
    """How an exchange with an LMM ended. Only `ANSWERED` can become a prediction."""

    ANSWERED = "answered"
    REFUSED = "refused"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    UNPARSED = "unparsed"
    FAILED = "failed"
    ABSTAINED = "abstained"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset; `label` is an index into the classes."""

    id: str
    source: Source = field(repr=False)
    label: int | None = None

    @property
    def source_name(self) -> str:
        """What complaints call the image: its path where it is a file, else the sample's id."""
        return str(self.source) if isinstance(self.source, Path) else self.id


@dataclass(frozen=True, slots=True)
class Image:
    """An image known by the sha256 of its original bytes (hex)."""

    sha256: str
    source: Source = field(repr=False)


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an image is made ready for a provider; part of a response's key, and `image` in a backend file.

    The original bytes are sent when they are in one of `formats`, upright, at most `max_side_px` on the
    longer side and at most `max_size_bytes`; otherwise the image is turned upright, scaled down and
    re-encoded as JPEG of `quality` (1 to 95), without metadata. `strip_metadata` always re-encodes.
    """

    max_side_px: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1568
    max_size_bytes: Annotated[int, msgspec.Meta(ge=1)] = 5_000_000
    formats: tuple[str, ...] = ("jpeg", "png", "webp", "gif")
    quality: Annotated[int, msgspec.Meta(ge=1, le=95)] = 90
    strip_metadata: bool = False


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text in a message. `is_prefix` marks what many requests share and a provider may cache."""

    text: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message to an LMM: text and images in the order in which they are shown."""

    role: Literal["system", "user"]
    parts: tuple[TextPart | Image, ...]


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """What stage 2 asks, beside the words it asks it in: which of `classes` did `answer` mean?

    With `by_index` the response is to be JSON, `{"class_index": "17"}`: a class's index as a string. With `by_schema`
    it is `{"class_name": "Maine Coon"}`, asked for by name, and held to the listed names by a schema.
    `candidates` are the indices of the classes that may be chosen, None for all of them; they keep their numbers.
    """

    answer: str
    classes: tuple[str, ...] = field(repr=False)
    by_index: bool = False
    candidates: tuple[int, ...] | None = None
    by_schema: bool = False

    @property
    def indices(self) -> Sequence[int]:
        """The indices that may be chosen, in the order in which they are listed."""
        return range(len(self.classes)) if self.candidates is None else self.candidates

    @property
    def names(self) -> tuple[str, ...]:
        """The names that may be chosen, in the order in which they are listed."""
        return tuple(self.classes[index] for index in self.indices)


@dataclass(frozen=True, slots=True)
class LMMRequest:
    """One question to an LMM, complete: all that changes the answer is in here, and so in its key.

    `params` are sampling parameters as the provider is asked for them (temperature, seed, max_tokens).
    `revision` tells apart what one model name means at different times on a local server.
    `repeat` numbers repeated sampling of the same question, from 0. `cached_key` is filled in by
    tlac.hashing.response_key, which computes a request's key once.
    """

    stage: Stage
    model: str
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    preparation: Preparation = field(default_factory=Preparation)
    choice: ChoiceTask | None = None
    repeat: int = 0
    cached_key: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def texts(self) -> tuple[TextPart, ...]:
        """The texts of all messages, in order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all messages, in order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Image))


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one call as the provider counted them.

    `cached`, `image` and `cache_write` (written to the provider's cache, which Anthropic bills higher) are parts of
    `prompt`, `reasoning` (thoughts) is a part of `completion`.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    image: int = 0
    reasoning: int = 0
    cache_write: int = 0


class LMMResponse(msgspec.Struct, frozen=True, gc=False):
    """What came back. `reason` holds the provider's own words for a refusal or a cut.

    `model_version` is the model as the response names it. `cost_usd` is None where no price is known. `logprob` is the
    natural logarithm of the probability that the model gave to `text` as a whole, the sum over its tokens, at most 0;
    None where it was not asked for (the parameter `logprobs`), or the provider did not tell.
    """

    outcome: Outcome
    text: str
    reason: str = ""
    model_version: str = ""
    usage: Usage = Usage()
    cost_usd: float | None = None
    latency_s: float = 0.0
    created_at: str = ""
    from_store: bool = False
    logprob: float | None = None


SECOND_SAMPLE = -1
"""The member number of a second sample: stage 1 asked again in other words, a witness that never changes the class."""


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One exchange about one sample: its stage, the key of its request and what came back.

    `member` numbers the views, or the backends, of a method that has several; 0 is the first, SECOND_SAMPLE none of
    them. `candidates` are the classes of a stage 2 that was shown some of them, None for all; `has_image` says that it
    saw the image.
    """

    stage: Stage
    key: str
    response: LMMResponse
    member: int = 0
    candidates: tuple[int, ...] | None = None
    has_image: bool = False


class Transcript(msgspec.Struct, frozen=True, gc=False):
    """All that was asked about one sample, as far as it got: the first member's turns, and those of all others.

    `failure` and its `reason` say why a sample has no answer: its answer is missing from the store of an offline run,
    the sample can't be asked about (an image that can't be read, say), its call gave no response, or the run had
    stopped.
    """

    sample: str
    image_sha256: str | None
    label: int | None
    stage1: Turn | None = None
    stage2: Turn | None = None
    further: tuple[Turn, ...] = ()
    failure: FailureKind | None = None
    reason: str = ""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every turn, the first member's before the others'."""
        # no generator: a run asks each of a million transcripts several times
        first = () if self.stage1 is None else (self.stage1,)
        second = () if self.stage2 is None else (self.stage2,)
        return first + second + self.further


@dataclass(frozen=True, slots=True)
class NearestClasses:
    """Classes by falling similarity to an answer: their indices and cosines in [-1, 1]. Empty for no words."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def relative_margin(self) -> float:
        """The lead of the best class over the next, as a share of its lead over the last: in [0, 1].

        Encoders differ in how far apart they put everything; this does not depend on it. 0 for fewer than three.
        """
        if len(self.scores) < 3 or self.scores[0] == self.scores[-1]:
            return 0.0
        return (self.scores[0] - self.scores[1]) / (self.scores[0] - self.scores[-1])


class MatchDecision(msgspec.Struct, frozen=True, gc=False):
    """What a matching rule makes of one sample's answers before any similarity is known.

    `text` is what is scored against the class names (no template applied), None where there is nothing to score;
    `also` are the texts of further views, scored with it as one mean vector. `index` is the class where a name or a
    stage-2 choice decided, None where similarity is to decide. `logprob` is that of the answer which named or chose it.

    No rule gives the rest, which `tlac.scoring.scorer` adds: the first `answer` as it was given, the classes whose
    whole name stands in its `words`, and what a `second` sample alone comes to.
    """

    outcome: Outcome
    text: str | None = None
    index: int | None = None
    decided_by: Literal["exact", "choice", "similarity"] | None = None
    choice: str | None = None
    reason: str = ""
    also: tuple[str, ...] = ()
    logprob: float | None = None
    answer: str | None = None
    words: tuple[int, ...] = ()
    second: MatchDecision | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is scored; empty where there is nothing."""
        return () if self.text is None else (self.text, *self.also)


@dataclass(frozen=True, slots=True)
class Encoding:
    """Texts as vectors: `vectors` (n, d) float32 with rows of length 1, `is_truncated` (n,) bool,
    true where a text was longer than the encoder's window."""

    vectors: Float32Array
    is_truncated: BoolArray


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one sample was taken for: a row of `tlac.scoring.predictions.Predictions`.

    `predicted` indexes the dataset's classes, None where there is no answer. `score` is the cosine in
    [-1, 1] between the scored text and the predicted class, `margin` that score less the best score of
    any other class; with slac-fused:image=true, `score` is in standard deviations above the sample's mean
    over the classes (see tlac.scoring.similarity). `top5` holds (index, score) by falling score. `decided_by` says what
    decided. `words` are the classes
    whose whole name stands in the answer: evidence that decides nothing.

    `shortlist` are the classes that stage 2 was shown where it was not shown all, `stage2_with_image` says that it saw
    the image. `further` are (member, stage, key) of the turns of further members, `votes` what each member
    chose. `confidence` in [0, 1] is there where a calibration was given. `second` is what a second sample says for the
    predicted class, in [-1, 1]: 1 where its words are that class's name, -1 where they are another's, else the class's
    lead among the similarities of these words (see `tlac.scoring.confidence.lead`); None without one. `logprob` is the
    log-probability of the answer that named or chose the class, at most 0; None where similarity decided, or it is not
    known.
    """

    sample: str
    image_sha256: str | None
    label: int | None
    outcome: Outcome
    answer: str | None
    choice: str | None
    decided_by: str | None
    predicted: int | None
    score: float | None
    margin: float | None
    top5: tuple[tuple[int, float], ...]
    stage1_key: str | None
    stage2_key: str | None
    words: tuple[int, ...] = ()
    reason: str = ""
    shortlist: tuple[int, ...] = ()
    stage2_with_image: bool = False
    further: tuple[tuple[int, Stage, str], ...] = ()
    votes: tuple[int | None, ...] = ()
    confidence: float | None = None
    second: float | None = None
    logprob: float | None = None
