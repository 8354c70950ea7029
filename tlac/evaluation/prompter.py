"""The questions of one run: stage 1 (what does the image show?) and stage 2 (which class is that?).

Binds backends, prompts and one class list. Methods see it as a `Prompter`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tlac.config.prompts import PromptSet
from tlac.config.schemas import Backend
from tlac.errors import UsageError
from tlac.hashing import response_key
from tlac.interfaces import LMM, ClassFinder
from tlac.scoring.matching import ClassIndex
from tlac.scoring.scorer import Scorer
from tlac.types import ChoiceTask, Image, LMMRequest, Message, NearestClasses, Stage, Turn


class NearestClassFinder:
    """Asks a Scorer, off the event loop, for the classes nearest to an answer."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[tuple[str, int], NearestClasses] = {}
        self._waiting: set[str] = set()
        # one batch at a time: what arrives meanwhile goes into the next
        self._lock = asyncio.Lock()

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """See `ClassFinder`."""
        self._waiting.add(answer)
        async with self._lock:
            if (answer, count) not in self._known:
                batch = sorted(text for text in self._waiting | {answer} if (text, count) not in self._known)
                self._waiting.clear()
                found = await asyncio.to_thread(self._scorer.nearest, batch, count)
                self._known |= {(text, count): near for text, near in zip(batch, found, strict=True)}
        return self._known[answer, count]


@dataclass(frozen=True, slots=True)
class BoundLMM:
    """A backend together with the LMM that speaks for it."""

    backend: Backend
    lmm: LMM

    async def ask(
        self, stage: Stage, messages: tuple[Message, ...], repeat: int = 0, choice: ChoiceTask | None = None
    ) -> Turn:
        """Ask with the backend's parameters, the stage's own on top, and keep the request's key beside what came back.

        Raises CallError.
        """
        spec = self.backend.spec
        request = LMMRequest(
            stage=stage,
            model=spec.model,
            messages=messages,
            params={**spec.params, **(spec.stage1_params if stage == "stage1" else spec.stage2_params)},
            revision=spec.revision,
            preparation=spec.image,
            repeat=repeat,
            choice=choice,
        )
        key, has_image = response_key(request), choice is not None and bool(request.images)
        response = await self.lmm.ask(request)
        return Turn(stage, key, response, candidates=choice.candidates if choice else None, has_image=has_image)


@dataclass(slots=True)
class TwoStagePrompter:
    """Asks the two questions of a run: whom, in which words, about which classes.

    `accepts_exact` says that an answer which is a class name needs no second stage. The last four are for methods
    that need more: `finder` finds the classes nearest to an answer, `further_prompts` are prompt sets by name,
    `ensemble` the same questions to further backends, `aliases` further names of classes.
    """

    stage1: BoundLMM
    stage2: BoundLMM
    prompts: PromptSet
    classes: Sequence[str]
    prompt: str = "default"
    accepts_exact: bool = True
    finder: ClassFinder | None = None
    further_prompts: Mapping[str, PromptSet] = field(default_factory=dict)
    ensemble: Sequence[TwoStagePrompter] = ()
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _index: ClassIndex = field(init=False, repr=False)
    # by the name of a further prompt set, None for the run's own
    _hints: dict[str | None, tuple[str, ...]] = field(init=False, repr=False)
    # answers repeat, and the key of a question that lists a thousand classes takes long to make
    _chosen: dict[tuple[str, tuple[int, ...] | None], Turn] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        by_number = self.stage2.backend.spec.asks_by_number and not self.prompts.spec.free_text
        self._index = ClassIndex(self.classes, self.aliases, by_number)
        self._hints = {None: self.prompts.draw_hints(self.classes)}
        self._hints.update((name, asked.draw_hints(self.classes)) for name, asked in self.further_prompts.items())

    async def ask_stage1(self, image: Image, repeat: int = 0, prompts: str | None = None) -> Turn:
        """See `Prompter`."""
        asked = self.prompts if prompts is None else self.further_prompts[prompts]
        return await self.stage1.ask("stage1", asked.stage1_messages(image, self.prompt, self._hints[prompts]), repeat)

    async def ask_stage2(
        self, answer: str, candidates: Sequence[int] | None = None, image: Image | None = None
    ) -> Turn:
        """See `Prompter`. An answer is asked about once for each list of candidates, unless an image is shown."""
        spec = self.stage2.backend.spec
        listed = None if candidates is None else tuple(candidates)
        if image is None and (answer, listed) in self._chosen:
            return self._chosen[answer, listed]
        by_index = spec.choice_by_index and not self.prompts.spec.free_text
        task = ChoiceTask(answer, self._index.classes, by_index, listed)
        if by_index and spec.names_in_schema is True and spec.schema_holds(task.names):
            task = replace(task, by_index=False, by_schema=True)
        messages = self.prompts.relook_messages(image, task) if image else self.prompts.stage2_messages(task)
        turn = await self.stage2.ask("stage2", messages, choice=task)
        if image is None:
            self._chosen[answer, listed] = turn
        return turn

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """See `ClassFinder`. Raises UsageError where there is no text encoder at hand."""
        if self.finder is None:
            raise UsageError(
                "this method needs a text encoder while it asks, and none is at hand here; "
                "go by the method tlac, or by a finished run"
            )
        return await self.finder.nearest(answer, count)

    def needs_choice(self, answer: str) -> bool:
        """See `Prompter`."""
        return not (self.accepts_exact and self._index.find(answer) is not None)

    def read_choice(self, text: str) -> int | None:
        """See `Prompter`."""
        return self._index.read_choice(text)
