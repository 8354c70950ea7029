"""What a method may ask about one image: stage 1 (say what it shows) and stage 2 (name the class).

Binds backends, prompts and one dataset's class list. Does not know stores, providers or scoring.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from tlac.config.prompts import PromptSet
from tlac.config.schemas import Backend
from tlac.errors import UsageError
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.scoring.clip_zero_shot import ImageScorer
from tlac.scoring.matching import ClassIndex
from tlac.scoring.scorer import Scored, Scorer
from tlac.types import ChoiceTask, Image, ImagePart, LMMRequest, Sample, Stage, Transcript, Turn


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


class NearestClassFinder:
    """Asks a Scorer, off the event loop, for the classes nearest to an answer."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[tuple[str, int], NearestClasses] = {}
        self._waiting: set[str] = set()
        # one batch at a time: what arrives meanwhile goes into the next
        self._lock = asyncio.Lock()

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """The `count` classes nearest to the answer. Raises EncoderUnavailableError, MissingAnswersError."""
        self._waiting.add(answer)
        async with self._lock:
            if (answer, count) not in self._known:
                batch = sorted(text for text in self._waiting | {answer} if (text, count) not in self._known)
                self._waiting.clear()
                found = await asyncio.to_thread(self._scorer.nearest, batch, count)
                for text, (indices, scores) in zip(batch, found, strict=True):
                    self._known[text, count] = NearestClasses(indices, scores)
        return self._known[answer, count]


@dataclass(frozen=True, slots=True)
class BoundLMM:
    """A backend together with the LMM that speaks for it."""

    backend: Backend
    lmm: LMM

    async def answer(self, request: LMMRequest) -> Turn:
        """Ask, and keep the request's key beside what came back. Raises CallError."""
        key, task = response_key(request), request.choice
        shows_image = any(isinstance(part, ImagePart) for message in request.messages for part in message.parts)
        return Turn(
            request.stage,
            key,
            await self.lmm.ask(request),
            candidates=task.candidates if task else None,
            has_image=task is not None and shows_image,
        )

    def params(self, stage: Stage) -> dict[str, Any]:
        """The sampling parameters of a stage: the backend's common ones and on top of them the stage's own."""
        spec = self.backend.spec
        return {**spec.params, **(spec.stage1_params if stage == "stage1" else spec.stage2_params)}


@dataclass(frozen=True, slots=True)
class MethodContext:
    """What some methods need beside the two questions.

    `finder` finds the classes nearest to an answer, `prompts` holds further prompt sets by name, `ensemble` the
    same questions to further backends, `aliases` further names of classes.
    """

    finder: NearestClassFinder | None = None
    prompts: Mapping[str, PromptSet] = field(default_factory=dict)
    ensemble: tuple[TwoStagePrompter, ...] = ()
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)


class TwoStagePrompter:
    """The questions of one run: who is asked, in which words, about which classes.

    `accepts_exact` says that an answer which is a class name needs no second stage.
    """

    def __init__(  # noqa: PLR0913 - a question has that many sides
        self,
        stage1: BoundLMM,
        stage2: BoundLMM,
        prompts: PromptSet,
        classes: Sequence[str],
        prompt: str = "default",
        accepts_exact: bool = True,
        *,
        aids: MethodContext | None = None,
    ) -> None:
        self.stage1 = stage1
        self.stage2 = stage2
        self.prompts = prompts
        self.prompt = prompt
        self._accepts_exact = accepts_exact
        self._aids = aids or MethodContext()
        # answers repeat, and the key of a question that lists a thousand classes takes long to make
        self._chosen: dict[tuple[str, tuple[int, ...] | None], Turn] = {}
        self._index = ClassIndex(classes, self._aids.aliases)

    @property
    def ensemble(self) -> tuple[TwoStagePrompter, ...]:
        """The interviews with the further backends of the run."""
        return self._aids.ensemble

    async def ask_stage1(self, image: Image, repeat: int = 0, prompts: str | None = None) -> Turn:
        """Stage 1: what does the image show? `repeat` numbers further samples of the same question.

        `prompts` names one of the further prompt sets, None the run's own.
        """
        backend = self.stage1.backend
        asked_in = self.prompts if prompts is None else self._aids.prompts[prompts]
        return await self.stage1.answer(
            LMMRequest(
                stage="stage1",
                model=backend.spec.model,
                messages=asked_in.stage1_messages(image, self.prompt),
                params=self.stage1.params("stage1"),
                revision=backend.spec.revision,
                preparation=backend.spec.image,
                repeat=repeat,
            )
        )

    async def ask_stage2(
        self, answer: str, candidates: Sequence[int] | None = None, image: Image | None = None
    ) -> Turn:
        """Stage 2: which class did that answer mean? No image is shown, unless one is given.

        `candidates` are the indices of the classes to choose from, in the order in which they are listed.
        """
        backend = self.stage2.backend
        listed = None if candidates is None else tuple(candidates)
        if image is None and (answer, listed) in self._chosen:
            return self._chosen[answer, listed]
        task = ChoiceTask(answer, self._index.classes, backend.spec.choice_by_index, listed)
        turn = await self.stage2.answer(
            LMMRequest(
                stage="stage2",
                model=backend.spec.model,
                messages=self.prompts.relook_messages(image, task) if image else self.prompts.stage2_messages(task),
                params=self.stage2.params("stage2"),
                revision=backend.spec.revision,
                preparation=backend.spec.image,
                choice=task,
            )
        )
        if image is None:
            self._chosen[answer, listed] = turn
        return turn

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """The `count` classes whose names are nearest to the answer, as the run's text encoder has it.

        Raises UsageError where there is no text encoder at hand.
        """
        if self._aids.finder is None:
            raise UsageError(
                "this method needs a text encoder while it asks, and none is at hand here; "
                "go by the method tlac, or by a finished run"
            )
        return await self._aids.finder.nearest(answer, count)

    def needs_choice(self, answer: str) -> bool:
        """Whether stage 2 has anything left to decide about this answer."""
        return not (self._accepts_exact and self._index.find(answer.strip().rstrip(".")) is not None)


class Method(Protocol):
    """A way of asking. `ask` yields each turn as it is had, so that none is lost when a later one fails.

    A method may also have `combine`: how scoring makes one prediction of several members ("first", "fuse" or
    "vote"); `further_prompts`: names of prompt sets that it asks in beside the run's own; and `image`: whether scoring
    also compares the image's own vector with the class names.
    """

    name: str

    def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """The turns about one image, stage 1 first. Raises CallError."""
        ...


@runtime_checkable
class ImageMethod(Protocol):
    """A way of classifying that looks at the image itself and asks no LMM."""

    name: str

    def look(self, samples: Iterable[Sample], scorer: ImageScorer, advance: Callable[[Transcript], None]) -> Scored:
        """The predictions for these samples, in their order. `advance` is told of each as it is done."""
        ...
