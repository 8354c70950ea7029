"""The library's front door: Classifier for images, match for answers that people already have."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlac.cache.store import Store, store_folder
from tlac.config.method_options import combination_of, sees_image
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.errors import CallError, InputError, MissingAnswersError, TlacError, UsageError
from tlac.evaluation.collect import collect
from tlac.evaluation.run_config import ClassList, RunConfig, plan_questions
from tlac.evaluation.runner import Runner
from tlac.interfaces import TextEncoder
from tlac.lmms.middleware.retry import RetryPolicy
from tlac.lmms.middleware.stack import CallPolicy
from tlac.lmms.served import with_served_revision
from tlac.methods.base import NearestClassFinder
from tlac.runtime import aio
from tlac.scoring.confidence import confidence_of
from tlac.scoring.matching import DEFAULT_TEMPLATE, find_rule, normalise
from tlac.scoring.scorer import Scorer
from tlac.types import LMMResponse, Outcome, Prediction, Sample, Transcript, Turn

DEFAULT_ENCODER = "clip-vit-b-16"
# somebody waits for this one image: a bench is more patient
_IMPATIENT = CallPolicy(retry=RetryPolicy(tries=4, identical_tries=3, total_wait_s=60.0, breaker_pauses_s=(2.0, 5.0)))
_ERRORS: dict[str, type[TlacError]] = {
    "missing": MissingAnswersError,
    "sample": InputError,
    "call": CallError,
    "stopped": CallError,
}


@dataclass(frozen=True, slots=True)
class Classification:
    """What an image was taken for.

    `class_name` and `score` (cosine in [-1, 1]) are None where the LMM gave no answer; `outcome` says why.
    `confidence` in [0, 1] ranks classifications (see tlac.scoring.confidence).
    """

    class_name: str | None
    index: int | None
    score: float | None
    margin: float | None
    decided_by: str | None
    outcome: Outcome
    answer: str | None
    choice: str | None
    ranking: tuple[tuple[str, float], ...]
    confidence: float | None = None

    def top(self, k: int = 5) -> tuple[tuple[str, float], ...]:
        """The k best classes (at most 5) as (class name, cosine), best first."""
        return self.ranking[:k]


@dataclass(frozen=True, slots=True)
class Match:
    """The class that an answer was matched to; all fields None where it holds no words.

    `score` is the cosine in [-1, 1] with the class name, `margin` the distance to the next best class.
    """

    index: int | None
    class_name: str | None
    score: float | None
    margin: float | None
    decided_by: str | None


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names, if one can classify with them.

    Names that differ in any sign are different ones ("C", "C++", "c"). Warns of a name that stands twice, as two of
    ImageNet's do: an answer in words means its first class. Raises UsageError for fewer than two different names, and
    for one without any letter, digit or sign.
    """
    names = tuple(name.strip() for name in classes)
    counts = Counter(names)
    if len(counts) < 2:
        raise UsageError(f"classes: {len(counts)} given, at least two are needed, such as 'red car, old car'")
    for name in counts:
        if not normalise(name):
            raise UsageError(f"classes: {name!r} holds no letter or digit: name each class in words")
    twins = [name for name, count in counts.items() if count > 1]
    if twins:
        more = f" and {len(twins) - 1} more" if len(twins) > 1 else ""
        warnings.warn(
            f"classes: {twins[0]!r}{more} stands more than once: only a number tells these classes apart, words mean "
            "the first",
            stacklevel=3,
        )
    return names


class Classifier:
    """Classifies images with an LMM. Answers are kept in the store and never paid for twice.

    `backend`, `stage2_backend`, `encoder` and `prompts` are names or paths of YAML files, `matching` is
    "ladder" or "paper", `store` a folder (default: the platform's cache folder).

    >>> classifier = Classifier("gemini", classes=["red car", "old car", "red apple"])  # doctest: +SKIP
    >>> classifier.classify("car.jpg").class_name  # doctest: +SKIP
    'red car'
    """

    def __init__(  # noqa: PLR0913 - the front door takes by keyword what the layers below take as records
        self,
        backend: str,
        classes: Sequence[str],
        *,
        method: str = "tlac",
        encoder: str = DEFAULT_ENCODER,
        matching: str = "ladder",
        prompts: str = "default",
        template: str = DEFAULT_TEMPLATE,
        stage2_backend: str | None = None,
        store: str | Path | None = None,
        offline: bool = False,
    ) -> None:
        self.classes = check_classes(classes)
        folder = Path(store) if store else store_folder()
        first = with_served_revision(load_backend(backend), folder, offline)
        second = with_served_revision(load_backend(stage2_backend), folder, offline) if stage2_backend else first
        config = RunConfig(
            first,
            second,
            ClassList(self.classes),
            method,
            load_encoder_config(encoder),
            load_prompts(prompts),
            find_rule(matching),
            template,
        )
        self._method = config.asking_method
        if combination_of(self._method) == "vote":
            raise UsageError(f"the method {method} asks several backends: use `tlac bench`")
        if sees_image(self._method):
            raise UsageError(f"the method {method} scores images too, which a run alone does: use `tlac bench`")
        opened = Store(folder)
        # nobody has to close a classifier: its store is closed when it is forgotten
        weakref.finalize(self, aio.deferred(opened.close)).atexit = False
        runner = Runner(opened, is_offline=offline, policy=_IMPATIENT)
        self._scorer = Scorer(self.classes, runner.encoder(config.encoder), config.rule, template)
        self._prompter = plan_questions(config, runner.bound_lmm, NearestClassFinder(self._scorer))
        self._concurrency = first.spec.limits.concurrency

    def classify(self, image: str | Path | bytes) -> Classification:
        """Classify one image: a path, or an image file's bytes.

        Raises InputError for an image that can't be read, CallError where the LMM gave no response.
        """
        return self.classify_many([image])[0]

    def classify_many(self, images: Sequence[str | Path | bytes]) -> list[Classification]:
        """Classify images concurrently. Raises as classify does, after all images were asked about."""
        return aio.run(self.aclassify_many(images))

    async def aclassify(self, image: str | Path | bytes) -> Classification:
        """As classify, in async code."""
        return (await self.aclassify_many([image]))[0]

    async def aclassify_many(self, images: Sequence[str | Path | bytes]) -> list[Classification]:
        """As classify_many, in async code."""
        samples = [
            Sample(str(image) if not isinstance(image, bytes) else f"image {position}", _source(image))
            for position, image in enumerate(images)
        ]
        gathered = await collect(samples, self._prompter, self._method, self._concurrency)
        for transcript in gathered.transcripts:
            if transcript.failure:
                raise _ERRORS[transcript.failure.kind](transcript.failure.reason)
        scored = self._scorer.score(gathered.transcripts, combination_of(self._method))
        return [self._present(prediction) for prediction in scored.predictions]

    def _present(self, prediction: Prediction) -> Classification:
        index = prediction.predicted
        return Classification(
            self.classes[index] if index is not None else None,
            index,
            prediction.score,
            prediction.margin,
            prediction.decided_by,
            prediction.outcome,
            prediction.answer,
            prediction.choice,
            tuple((self.classes[place], score) for place, score in prediction.top5),
            confidence_of(prediction),
        )


def _source(image: str | Path | bytes) -> Path | bytes:
    return Path(image) if isinstance(image, str) else image


def match(
    answers: Sequence[str],
    classes: Sequence[str],
    *,
    choices: Sequence[str | None] | None = None,
    encoder: str | TextEncoder = DEFAULT_ENCODER,
    matching: str = "ladder",
    template: str = DEFAULT_TEMPLATE,
) -> list[Match]:
    """Map answers that people already have onto classes; no LMM is asked.

    `choices`, where given, are a second stage's answers, one per answer or None. `encoder` is a name, the
    path of a YAML file, or a TextEncoder. Raises UsageError for a class list that can't be used.
    """
    names = check_classes(classes)
    if choices is not None and len(choices) != len(answers):
        raise UsageError(f"choices: {len(choices)} given for {len(answers)} answers; give one each, or None")
    opened = open_encoder(encoder) if isinstance(encoder, str) else encoder
    scorer = Scorer(names, opened, find_rule(matching), template)
    transcripts = [
        _as_transcript(position, answer, choices[position] if choices else None)
        for position, answer in enumerate(answers)
    ]
    return [
        Match(
            prediction.predicted,
            names[prediction.predicted] if prediction.predicted is not None else None,
            prediction.score,
            prediction.margin,
            prediction.decided_by,
        )
        for prediction in scorer.score(transcripts).predictions
    ]


def _as_transcript(position: int, answer: str, choice: str | None) -> Transcript:
    stage1 = Turn("stage1", "", LMMResponse(Outcome.ANSWERED, answer))
    stage2 = Turn("stage2", "", LMMResponse(Outcome.ANSWERED, choice)) if choice else None
    return Transcript(str(position), None, None, stage1, stage2)
