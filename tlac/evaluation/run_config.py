"""What to run: backend, dataset, method and all that changes the result, and the digests that tell it apart.

Does not know how it is run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlac.config.method_options import base_name, combination_of, open_method, prompts_of, sees_image
from tlac.config.prompts import PromptSet, load_prompts
from tlac.config.schemas import Backend, EncoderConfig
from tlac.errors import UsageError
from tlac.hashing import dataset_digest, sha256_of
from tlac.interfaces import Dataset
from tlac.methods.base import BoundLMM, MethodContext, NearestClassFinder, TwoStagePrompter
from tlac.scoring.clip_zero_shot import find_templates
from tlac.scoring.confidence import Calibration
from tlac.scoring.matching import DEFAULT_TEMPLATE, MatchingRule
from tlac.scoring.similarity import MIN_CLASSES
from tlac.types import Sample


@dataclass(frozen=True, slots=True)
class Names:
    """Who was asked, in which words, and what decided, as the record names them."""

    backend: str
    model: str
    matching: str
    template: str
    stage2_backend: str = ""
    stage2_model: str = ""
    prompts: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What to run. `limit` takes that many samples at random, with `seed`, in the dataset's order.

    The backends are None for a method that asks no LMM. `ensemble` are further backends of a method that asks several,
    `aliases` further names of classes. A prediction less sure than `abstain_below` has no class; `calibration` says how
    sure it is, None for agreement (see tlac.scoring.confidence). `shuffle_classes` is the seed of the order in which
    stage 2 is shown the class names, None for the dataset's own; `order_trials` asks it that many more times, with
    rotated lists.
    """

    backend: Backend | None
    stage2_backend: Backend | None
    dataset: Dataset
    method: str
    encoder: EncoderConfig
    prompts: PromptSet
    rule: MatchingRule
    template: str = DEFAULT_TEMPLATE
    limit: int | None = None
    seed: int = 0
    shuffle_classes: int | None = None
    order_trials: int = 0
    ensemble: tuple[Backend, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    abstain_below: float | None = None
    calibration: Calibration | None = None

    @property
    def backend_name(self) -> str:
        """Who is asked, as results name it: the backends of a panel together, the encoder where none is asked."""
        if self.backend is None:
            return self.encoder.name
        return "+".join(backend.name for backend in (self.backend, *self.ensemble))

    @property
    def names(self) -> Names:
        """What the record calls them."""
        if self.backend is None or self.stage2_backend is None:
            template = self.templates[0] if len(self.templates) == 1 else f"{len(self.templates)} templates"
            # in an LMM's place stands the model that looks at the image
            return Names(self.backend_name, self.encoder.spec.model, "similarity", template)
        return Names(
            self.backend_name,
            self.backend.spec.model,
            self.rule.name,
            self.template,
            self.stage2_backend.name,
            self.stage2_backend.spec.model,
            self.prompts.name,
            self.dataset.prompt,
        )

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that class names are put into where the image itself is compared with them."""
        name = getattr(open_method(self.method), "templates", "paper")
        return find_templates(name, self.dataset.prompt, self.template)

    def digests(self, fingerprint: str) -> dict[str, str]:
        """The digests (sha256, hex) of all that goes into the run, and the encoder's fingerprint."""
        found = {"dataset": dataset_digest(self.dataset), "encoder": fingerprint}
        if self.backend is None or self.stage2_backend is None:
            return {**found, "templates": sha256_of(self.templates)}
        found |= {
            "prompts": self.prompts.digest,
            "backend": self.backend.digest,
            "stage2_backend": self.stage2_backend.digest,
        }
        found |= {f"panel {backend.name}": backend.digest for backend in self.ensemble}
        return found | ({"aliases": sha256_of(dict(self.aliases))} if self.aliases else {})


def choose_samples(dataset: Dataset, limit: int | None, seed: int) -> Sequence[Sample] | Dataset:
    """All samples, or `limit` of them drawn at random with `seed`, in the dataset's order."""
    if limit is None or limit >= len(dataset):
        return dataset
    chosen = set(random.Random(seed).sample(range(len(dataset)), limit))  # noqa: S311 - a sample, not a secret
    return [sample for position, sample in enumerate(dataset) if position in chosen]


def check_method(spec: RunConfig, method: Any) -> None:
    """Raise UsageError for what does not go together with the method."""
    is_vote = combination_of(method) == "vote"
    if is_vote and not spec.ensemble:
        raise UsageError(f"the method {spec.method} asks several backends: give --backend more than once")
    if is_vote and spec.shuffle_classes is not None:
        raise UsageError(f"the method {spec.method} has no --shuffle-classes: shuffle a run of each backend")
    if spec.order_trials and base_name(spec.method) not in ("slac", "tlac"):
        raise UsageError(f"--order-trials asks the second stage of tlac again, which {spec.method} does not have")
    if sees_image(method) and len(spec.dataset.classes) < MIN_CLASSES:
        raise UsageError(f"the method {spec.method} needs {MIN_CLASSES} classes or more: leave its image option out")


def build_prompter(
    spec: RunConfig,
    shown: Sequence[int],
    bound_lmm: Callable[[Backend], BoundLMM],
    finder: NearestClassFinder | None = None,
) -> TwoStagePrompter:
    """The questions to the run's backends; `shown` are the indices of the classes in the order in which they are shown.

    `bound_lmm` gives who speaks for a backend; `finder` finds places in the list that is shown.
    Raises UsageError where the spec names no backend.
    """
    if spec.backend is None or spec.stage2_backend is None:
        raise UsageError(f"the method {spec.method} asks an LMM: name one with --backend")
    classes = [spec.dataset.classes[place] for place in shown]
    prompts = {name: load_prompts(name) for name in prompts_of(open_method(spec.method))}

    def seat(stage1: Backend, stage2: Backend, ensemble: tuple[TwoStagePrompter, ...]) -> TwoStagePrompter:
        return TwoStagePrompter(
            bound_lmm(stage1),
            bound_lmm(stage2),
            spec.prompts,
            classes,
            spec.dataset.prompt,
            spec.rule.skips_stage2_on_exact,
            aids=MethodContext(finder, prompts, ensemble, spec.aliases),
        )

    return seat(spec.backend, spec.stage2_backend, tuple(seat(backend, backend, ()) for backend in spec.ensemble))
