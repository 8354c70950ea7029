"""Forms a run's questions from its spec: who is asked, in which words, about which classes, in which order.

Does not know stores or scoring, nor who carries the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tlac.asking.interview import Aids, Interview, Respondent
from tlac.asking.proposing import Proposer
from tlac.config import Backend
from tlac.errors import UsageError
from tlac.method_names import open_method, prompts_of
from tlac.prompts import load_prompts
from tlac.run_spec import RunSpec


def seat_interview(
    spec: RunSpec,
    shown: Sequence[int],
    respondent: Callable[[Backend], Respondent],
    proposer: Proposer | None = None,
) -> Interview:
    """The questions to the run's backends; `shown` are the indices of the classes in the order in which they are shown.

    `respondent` gives who speaks for a backend; `proposer` finds places in the list that is shown.
    Raises UsageError where the spec names no backend.
    """
    if spec.backend is None or spec.stage2_backend is None:
        raise UsageError(f"the method {spec.method} asks an LMM: name one with --backend")
    classes = [spec.dataset.classes[place] for place in shown]
    prompts = {name: load_prompts(name) for name in prompts_of(open_method(spec.method))}

    def seat(stage1: Backend, stage2: Backend, panel: tuple[Interview, ...]) -> Interview:
        return Interview(
            respondent(stage1),
            respondent(stage2),
            spec.prompts,
            classes,
            spec.dataset.prompt,
            spec.rule.skips_stage2_on_exact,
            aids=Aids(proposer, prompts, panel, spec.aliases),
        )

    return seat(spec.backend, spec.stage2_backend, tuple(seat(backend, backend, ()) for backend in spec.panel))
