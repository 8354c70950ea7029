"""What a method may ask about one image: stage 1 (say what it shows) and stage 2 (name the class).

Binds backends, prompts and one dataset's class list. Does not know stores, providers or scoring.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tlac.config import Backend
from tlac.interfaces import LMM
from tlac.keys import response_key
from tlac.matching import ClassIndex
from tlac.prompts import PromptSet
from tlac.types import ChoiceTask, Image, LMMRequest, Stage, Turn


@dataclass(frozen=True, slots=True)
class Respondent:
    """A backend together with the LMM that speaks for it."""

    backend: Backend
    lmm: LMM

    async def answer(self, request: LMMRequest) -> Turn:
        """Ask, and keep the request's key beside what came back. Raises CallError."""
        return Turn(request.stage, response_key(request), await self.lmm.ask(request))

    def params(self, stage: Stage) -> dict[str, Any]:
        """The sampling parameters of a stage: the backend's common ones and on top of them the stage's own."""
        spec = self.backend.spec
        return {**spec.params, **(spec.stage1_params if stage == "stage1" else spec.stage2_params)}


class Interview:
    """The questions of one run: who is asked, in which words, about which classes.

    `accepts_exact` says that an answer which is a class name needs no second stage.
    """

    def __init__(
        self,
        stage1: Respondent,
        stage2: Respondent,
        prompts: PromptSet,
        classes: Sequence[str],
        prompt: str = "default",
        accepts_exact: bool = True,
    ) -> None:
        self.stage1 = stage1
        self.stage2 = stage2
        self.prompts = prompts
        self.prompt = prompt
        self._index = ClassIndex(classes)
        self._accepts_exact = accepts_exact

    async def describe(self, image: Image, repeat: int = 0) -> Turn:
        """Stage 1: what does the image show? `repeat` numbers further samples of the same question."""
        backend = self.stage1.backend
        return await self.stage1.answer(
            LMMRequest(
                stage="stage1",
                model=backend.spec.model,
                messages=self.prompts.stage1_messages(image, self.prompt),
                params=self.stage1.params("stage1"),
                revision=backend.spec.revision,
                preparation=backend.preparation,
                repeat=repeat,
            )
        )

    async def choose(self, answer: str) -> Turn:
        """Stage 2: which class did that answer mean? No image is shown."""
        backend = self.stage2.backend
        task = ChoiceTask(answer, self._index.classes, backend.spec.choice_by_index)
        return await self.stage2.answer(
            LMMRequest(
                stage="stage2",
                model=backend.spec.model,
                messages=self.prompts.stage2_messages(task),
                params=self.stage2.params("stage2"),
                revision=backend.spec.revision,
                choice=task,
            )
        )

    def needs_choice(self, answer: str) -> bool:
        """Whether stage 2 has anything left to decide about this answer."""
        return not (self._accepts_exact and self._index.find(answer.strip().rstrip(".")) is not None)


class Method(Protocol):
    """A way of asking. `ask` yields each turn as it is had, so that none is lost when a later one fails."""

    name: str

    def ask(self, image: Image, interview: Interview) -> AsyncIterator[Turn]:
        """The turns about one image, stage 1 first. Raises CallError."""
        ...
