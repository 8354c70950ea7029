"""The library's front door: Classifier for images, match for answers that people already have."""

from __future__ import annotations

import html
import io
import os
import re
import warnings
import weakref
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from tlac.cache.store import Store, store_folder
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.datasets.base import require_printable
from tlac.datasets.text_files import NamedClasses, read_classes
from tlac.errors import CallError, ConfigError, InputError, MissingAnswersError, TlacError, UsageError, one_line
from tlac.evaluation.collect import collect
from tlac.evaluation.label import label_block
from tlac.evaluation.run_config import ClassList, RunConfig
from tlac.evaluation.runner import Runner
from tlac.images import shrink_image
from tlac.interfaces import TextEncoder, combination_of, sees_image
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.served import with_served_revision
from tlac.results.labels import Label
from tlac.results.usage import UsageLedger
from tlac.runtime import aio
from tlac.runtime.formatting import printable
from tlac.runtime.safe_files import is_url, read_url
from tlac.scoring.matching import DEFAULT_TEMPLATE, find_rule, normalise
from tlac.scoring.predictions import Predictions
from tlac.scoring.scorer import Scorer
from tlac.types import LMMResponse, Outcome, Sample, Transcript, Turn

ImageLike: TypeAlias = str | Path | bytes | bytearray | memoryview | PIL.Image.Image | NDArray[Any] | Sample
"""A path or URL, an image file's bytes, a PIL image, an array (h, w), (h, w, 3) or (h, w, 4) of uint8 or floats in
[0, 1], or a dataset's sample."""

DEFAULT_ENCODER = "clip-vit-b-16"
_MOST_SHOWN = 50
_DEEP_GREY, _PNG_MODES = ("I", "F"), ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# somebody waits for this one image: a bench is more patient
_IMPATIENT = CallPolicy(tries=4, identical_tries=3, total_wait_s=60.0, breaker_pauses_s=(2.0, 5.0))
_ERRORS: dict[str, type[TlacError]] = {
    "missing": MissingAnswersError,
    "sample": InputError,
    "call": CallError,
    "stopped": CallError,
}


@dataclass(frozen=True, slots=True)
class Classification(Label):
    """What an image was taken for: a row of labels (see `tlac.results.labels.Label`), and what decided.

    `label` is None where there is no class, for which `outcome` and `reason` say why; `index` is its place in the class
    list, `score` its cosine in [-1, 1] with the answer. `decided_by` is "exact", "choice" or "similarity", `choice`
    what stage 2 named.
    """

    index: int | None = None
    score: float | None = None
    decided_by: str | None = None
    choice: str | None = None

    @property
    def class_name(self) -> str | None:
        """The label, under its earlier name."""
        return self.label

    def top(self, k: int = 5) -> tuple[tuple[str, float], ...]:
        """The k best classes (at most 5) as (class name, cosine), best first."""
        return self.candidates[:k]

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as JSON can hold them."""
        return {**asdict(self), "outcome": str(self.outcome)}

    def _repr_html_(self) -> str:
        """The image beside its label, for notebooks. What a model or a file said is text in it, and never markup."""
        small = shrink_image(Path(self.path), self.path, 96)
        picture = f'<img src="data:image/webp;base64,{b64encode(small).decode()}"> ' if small else ""
        sure = f" ({self.confidence:.2f})" if self.confidence is not None else ""
        lines = (self.path, f"{self.label}{sure}" if self.label else str(self.outcome), self.answer or self.reason)
        return f"<div>{picture}{'<br>'.join(map(html.escape, lines))}</div>"


class Classifications(list[Classification]):
    """Results in the order of the images."""

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row an image. Raises ConfigError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("to_pandas needs the package pandas: pip install pandas") from error
        return pandas.DataFrame([one.to_dict() for one in self], columns=[one.name for one in fields(Classification)])

    def _repr_html_(self) -> str:
        more = f"<div>and {len(self) - _MOST_SHOWN:,} more</div>" if len(self) > _MOST_SHOWN else ""
        return "".join(one._repr_html_() for one in self[:_MOST_SHOWN]) + more


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


def check_classes(classes: Sequence[str], source: str = "classes") -> tuple[str, ...]:
    """The class names, if one can classify with them. `source` is how messages call them, such as their file.

    Names that differ in any sign are different ones ("C", "C++", "c"). Warns of a name that stands twice, as two of
    ImageNet's do: an answer in words means its first class. Raises UsageError for fewer than two different names, and
    for one without any letter, digit or sign; InputError for one with control characters.
    """
    given = tuple(classes)
    for name in given:
        if not isinstance(name, str):
            raise UsageError(f"{source}: {name!r} is no text: give names, such as 'red car'")
    names = tuple(name.strip() for name in given)
    counts = Counter(names)
    if len(counts) < 2:
        raise UsageError(f"{source}: {len(counts)} given, at least two are needed{_remedy(names, source)}")
    for name in counts:
        if not normalise(name):
            raise UsageError(f"{source}: {name!r} holds no letter or digit: name each class in words")
        require_printable(source, name)
    twins = [name for name, count in counts.items() if count > 1]
    if twins:
        more = f" and {len(twins) - 1} more" if len(twins) > 1 else ""
        warnings.warn(
            f"{source}: {twins[0]!r}{more} stands more than once: only a number tells these classes apart, words mean "
            "the first",
            stacklevel=3,
        )
    if any(all(re.match(rf"{number}\W", name) for number, name in enumerate(names, start)) for start in (0, 1)):
        warnings.warn(
            f"{source}: each name begins with its number ({names[0]!r}), which is taken for a part of the name",
            stacklevel=3,
        )
    elif all(re.match(r"[-*\u2022] |([\"']).*\1$", name) for name in names):
        warnings.warn(
            f"{source}: each name has a mark or quotes ({names[0]}), which are taken for a part of the name",
            stacklevel=3,
        )
    if comment := next((name for name in names if name.startswith("# ")), None):
        warnings.warn(f"{source}: {comment!r} begins as a comment does, and is taken for a class", stacklevel=3)
    return names


def _remedy(names: Sequence[str], source: str) -> str:
    """What to do about fewer than two classes."""
    if source == "classes":
        return ", such as 'red car, old car'"
    if any("," in name for name in names):
        return f": write one class a line; {printable(names[0], 40)!r} looks like a list with commas"
    return ": write one class a line"


def _named_classes(classes: Sequence[str] | str | Path) -> NamedClasses:
    """Classes as callers give them. Raises UsageError for what has no order: stage 2 would be asked anew each time."""
    if isinstance(classes, (str, Path)):
        return read_classes(str(classes))
    if not isinstance(classes, Iterable) or isinstance(classes, (Set, bytes)):
        raise UsageError(f"classes: a {type(classes).__name__} is no list of names: give one, such as sorted(names)")
    return NamedClasses(tuple(classes))


class Classifier:
    """Classifies images with an LMM. Answers are kept in the store and never paid for twice.

    `classes` are names, or text as the command line takes it: "red car, old car", or a file of names. `backend`,
    `stage2_backend`, `encoder` and `prompts` are names or paths of YAML files, `matching` is "ladder" or "paper",
    `describe` says what the images are, `store` is a folder (default: the platform's cache folder).

    >>> with Classifier("gemini", classes="red car, old car, red apple") as classifier:  # doctest: +SKIP
    ...     for result in classifier.stream(paths, max_cost=5.0):
    ...         print(result.path, result.label, result.confidence)
    'red car'
    """

    def __init__(  # noqa: PLR0913 - the front door takes by keyword what the layers below take as records
        self,
        backend: str | Path,
        classes: Sequence[str] | str | Path,
        *,
        method: str = "tlac",
        encoder: str | Path = DEFAULT_ENCODER,
        matching: str = "ladder",
        prompts: str | Path = "default",
        template: str = DEFAULT_TEMPLATE,
        stage2_backend: str | Path | None = None,
        describe: str | None = None,
        store: str | Path | None = None,
        offline: bool = False,
    ) -> None:
        given = _named_classes(classes)
        self.classes = check_classes(given.names, given.source)
        folder = Path(store) if store else store_folder()
        first = with_served_revision(load_backend(str(backend), offline), folder, offline)
        second = (
            with_served_revision(load_backend(str(stage2_backend), offline), folder, offline)
            if stage2_backend
            else first
        )
        words = replace(load_prompts(str(prompts)), descriptions=given.descriptions)
        config = RunConfig(
            first,
            second,
            ClassList(self.classes),
            method,
            load_encoder_config(str(encoder)),
            words if describe is None else words.about(describe),
            matching,
            template,
            aliases=given.aliases,
        )
        for remark in config.alias_notes:
            warnings.warn(f"classes: {remark}", stacklevel=2)
        if combination_of(config.asking_method) == "vote":
            raise UsageError(f"the method {method} asks several backends: use `tlac bench`")
        if sees_image(config.opened_method):
            raise UsageError(f"the method {method} scores images too, which a run alone does: use `tlac bench`")
        self._store = Store(folder)
        # whoever forgets to close it: its store is closed when it is forgotten itself, but not when Python ends, where
        # nothing is left to lose
        self._finalizer = weakref.finalize(self, aio.deferred(partial(_close_forgotten, self._store)))
        self._finalizer.atexit = False
        self._is_offline, self._process = offline, os.getpid()
        self._runner = Runner(self._store, is_offline=offline, policy=_IMPATIENT)
        self._prepared = self._runner.prepare(config)

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; every answer is in it already. A closed classifier can't be asked any more."""
        if self._finalizer.detach() is not None:
            self._store.close()

    def classify(self, image: ImageLike) -> Classification:
        """Classify one image: a path or URL, an image file's bytes, a PIL image or a numpy array.

        Raises InputError for an image that can't be read, CallError where the LMM gave no response.
        """
        return self.classify_many([image], raise_errors=True)[0]

    def classify_many(
        self,
        images: Iterable[ImageLike],
        *,
        raise_errors: bool = False,
        max_cost: float | None = None,
        progress: bool = False,
    ) -> Classifications:
        """Classify images concurrently: a result for each, in their order, also for one that failed.

        With `raise_errors` the first failure is raised as `classify` raises it, once all images were asked about. An
        iterator is read to its end first, as by `stream`.
        """
        return _gathered(self._results(images, max_cost, progress), raise_errors)

    def stream(
        self, images: Iterable[ImageLike], *, max_cost: float | None = None, progress: bool = False
    ) -> Generator[Classification, None, None]:
        """Classify images concurrently; yield results as they come, in the order of the images. A failed image is a
        result without a label.

        Asking goes on while you look at a result; leave the loop to end it: calls in flight are waited for. `max_cost`
        is a hard cap in USD on what is spent here; `progress` shows a bar on stderr. An iterator of images is read to
        its end before the first is asked about: cut one that is slow, long or endless into parts (`itertools.islice`).
        """
        for _, result in self._results(images, max_cost, progress):
            yield result

    async def aclassify(self, image: ImageLike) -> Classification:
        """As classify, in async code."""
        return (await self.aclassify_many([image], raise_errors=True))[0]

    async def aclassify_many(self, images: Iterable[ImageLike], *, raise_errors: bool = False) -> Classifications:
        """As classify_many, in async code."""
        prepared, samples = self._prepared, self._samples(images)
        method = prepared.config.asking_method
        transcripts, _ = await aio.on_loop(collect(samples, prepared.prompter, method, prepared.concurrency))
        scored = prepared.scorer.score(transcripts, combination_of(method))
        return _gathered(_present(transcripts, scored.predictions, prepared.config, UsageLedger()), raise_errors)

    def _results(
        self, images: Iterable[ImageLike], max_cost: float | None, progress: bool
    ) -> Iterator[tuple[Transcript, Classification]]:
        samples, runner, prepared = self._samples(images), self._runner, self._prepared
        if max_cost is not None:
            # a cap of its own takes a stack of its own around the backend
            runner = Runner(self._store, self._is_offline, replace(_IMPATIENT, budget=Budget(max_cost)))
            prepared = runner.prepare(prepared.config)
        usage = UsageLedger()
        with aio.closing_at_exit(runner.stream(prepared, samples)) as blocks, _bar(len(samples), progress) as advance:
            for transcripts, predictions in blocks:
                for found in _present(transcripts, predictions, prepared.config, usage):
                    advance()
                    yield found

    def _samples(self, images: Iterable[ImageLike]) -> list[Sample]:
        if not self._finalizer.alive:
            raise UsageError("the classifier is closed: make another one")
        if os.getpid() != self._process:
            raise UsageError("the classifier was made before this process was forked: make one in each process")
        if isinstance(images, (str, Path, bytes)):
            raise UsageError("one image is given where several are expected: use classify, or a list of it")
        if not isinstance(images, (Sequence, np.ndarray)):
            images = map(_copied, images)
        return [_sample(image, position) for position, image in enumerate(images)]


def _close_forgotten(store: Store) -> None:
    # while Python ends no thread can be started any more, and so no lost database be put back
    with suppress(RuntimeError):
        store.close()


def _present(
    transcripts: Sequence[Transcript], predictions: Predictions, config: RunConfig, usage: UsageLedger
) -> Iterator[tuple[Transcript, Classification]]:
    labels = label_block(transcripts, predictions, config, usage)
    for transcript, (label, found) in zip(transcripts, labels, strict=True):
        own = {one.name: getattr(label, one.name) for one in fields(label)}
        yield (
            transcript,
            Classification(
                **own, index=found.predicted, score=found.score, decided_by=found.decided_by, choice=found.choice
            ),
        )


def _gathered(results: Iterable[tuple[Transcript, Classification]], raise_errors: bool) -> Classifications:
    gathered = list(results)
    for transcript, _ in gathered:
        if raise_errors and transcript.failure is not None:
            raise _ERRORS[transcript.failure](transcript.reason)
    return Classifications(result for _, result in gathered)


@contextmanager
def _bar(total: int, is_shown: bool) -> Iterator[Callable[[], None]]:
    if not is_shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=total)
        yield lambda: bar.advance(task)


def _copied(image: ImageLike) -> ImageLike:
    """A picture or array of its own: what yields images may fill the same one anew, as Pillow does with a GIF's frames
    and OpenCV with a video's."""
    if isinstance(image, (PIL.Image.Image, np.ndarray)):
        # what is broken fails by name when it is read
        with suppress(Exception):
            return image.copy()
    return image


def _sample(image: ImageLike, position: int) -> Sample:
    if isinstance(image, str):
        return Sample(image, partial(read_url, image) if is_url(image) else Path(image))
    if isinstance(image, Sample):
        return image
    if isinstance(image, Path):
        return Sample(str(image), image)
    name = f"image {position}"
    if isinstance(image, (bytes, bytearray, memoryview)):
        return Sample(name, bytes(image))
    return Sample(name, partial(_encode, image, name))


def _encode(picture: object, name: str) -> bytes:
    """A PIL image or an array as the bytes of an image file."""
    try:
        if not isinstance(picture, PIL.Image.Image):
            picture = _from_array(np.asarray(picture), type(picture).__name__)
        content = io.BytesIO()
        # grey of 32 bits, which `tlac.images` scales, is nothing that PNG has, nor is what is not RGB
        kind = "TIFF" if picture.mode in _DEEP_GREY else "PNG"
        (picture if picture.mode in (*_DEEP_GREY, *_PNG_MODES) else picture.convert("RGB")).save(content, kind)
    except Exception as error:
        raise InputError(f"{name}: can't be made an image: {one_line(error)}") from error
    return content.getvalue()


def _from_array(values: NDArray[Any], given: str) -> PIL.Image.Image:
    """The picture in an array. Raises TypeError and ValueError for one of another form."""
    if values.dtype == object or values.dtype.kind in "US":
        raise TypeError(f"{given} is no image: give a path, bytes, a PIL image or an array")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in {3, 4}):
        raise ValueError(f"its shape is {values.shape}, and not (h, w), (h, w, 3) or (h, w, 4)")
    if np.issubdtype(values.dtype, np.floating) and values.size and values.min() >= 0 and values.max() <= 1:
        values = np.round(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise TypeError(f"{values.dtype} is neither uint8 nor float in [0, 1]")
    return PIL.Image.fromarray(values)


def match(
    answers: Iterable[str],
    classes: Sequence[str] | str | Path,
    *,
    choices: Sequence[str | None] | None = None,
    encoder: str | Path | TextEncoder = DEFAULT_ENCODER,
    matching: str = "ladder",
    template: str = DEFAULT_TEMPLATE,
) -> list[Match]:
    """Map answers that people already have onto classes; no LMM is asked.

    `choices`, where given, are a second stage's answers, one per answer or None. `encoder` is a name, the
    path of a YAML file, or a TextEncoder. Raises UsageError for a class list that can't be used.
    """
    given = _named_classes(classes)
    names = check_classes(given.names, given.source)
    if isinstance(answers, str):
        raise UsageError("answers: one text is given where several are expected: give a list of it")
    answers = list(answers)
    for position, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise UsageError(f"answers: the one at {position} is {answer!r}, and no text: give '' for a missing one")
    if choices is not None and len(choices) != len(answers):
        raise UsageError(f"choices: {len(choices)} given for {len(answers)} answers; give one each, or None")
    opened = open_encoder(str(encoder)) if isinstance(encoder, (str, Path)) else encoder
    scorer = Scorer(names, opened, find_rule(matching), template)
    said = choices or [None] * len(answers)
    transcripts = [_as_transcript(*given) for given in zip(range(len(answers)), answers, said, strict=True)]
    return [
        Match(one.predicted, _name_of(names, one.predicted), one.score, one.margin, one.decided_by)
        for one in scorer.score(transcripts).predictions
    ]


def _name_of(names: Sequence[str], index: int | None) -> str | None:
    return None if index is None else names[index]


def _as_transcript(position: int, answer: str, choice: str | None) -> Transcript:
    stage1 = Turn("stage1", "", LMMResponse(Outcome.ANSWERED, answer))
    stage2 = Turn("stage2", "", LMMResponse(Outcome.ANSWERED, choice)) if choice else None
    return Transcript(str(position), None, None, stage1, stage2)
