"""What to run: backend, dataset, method and all that changes the result; and the questions that come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from tlac.config.prompts import Hints, PromptSet, load_prompts
from tlac.config.registry import base_name, open_method
from tlac.config.schemas import Backend, EncoderConfig
from tlac.errors import EncoderUnavailableError, MissingAnswersError, UsageError
from tlac.evaluation.class_order import class_order, draw_spread
from tlac.evaluation.prompter import BoundLMM, NearestClassFinder, TwoStagePrompter
from tlac.hashing import dataset_digest, sha256_of
from tlac.interfaces import (
    ClassFinder,
    Dataset,
    Engine,
    ImageMethod,
    MatchingRule,
    Method,
    TextEncoder,
    combination_of,
    details_of,
    looks_again,
    notes_of,
    prompts_of,
    second_sample_of,
    sees_image,
)
from tlac.lmms.served import served_version
from tlac.results.folder import Attachment, name_run
from tlac.results.record import OrderTrials, RunRecord, ShortlistRecall
from tlac.results.usage import UsageLedger
from tlac.runtime.libraries import installed_versions
from tlac.scoring.clip_zero_shot import find_templates
from tlac.scoring.confidence import Calibration, require_encoder
from tlac.scoring.matching import DEFAULT_TEMPLATE, apply_template, find_rule, note_unused_aliases
from tlac.scoring.metrics import Counts, Metrics
from tlac.scoring.predictions import Predictions
from tlac.scoring.scorer import Scorer
from tlac.scoring.similarity import MIN_CLASSES
from tlac.types import Sample

IMAGES = "+images"
"""Marks the fingerprint of an encoder whose image side took part."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """A dataset without labels: the class names, which are all of it that a question needs, and perhaps images."""

    classes: tuple[str, ...]
    prompt: str = "default"
    name: str = "images"
    split: str = "all"
    protocol: str = ""
    images: Sequence[Sample] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.images)


@dataclass(frozen=True)
class RunConfig:
    """What to run. `limit` takes that many samples at random, with `seed`, in the dataset's order.

    The backends are None for a method that asks no LMM. `ensemble` are further backends of a method that asks several,
    `aliases` further names of classes. A prediction less sure than `abstain_below` has no class; `calibration` says how
    sure it is, None for confidence that needs no labels (see `tlac.scoring.confidence`). `shuffle_classes` is the seed
    of the order in which stage 2 is shown the class names, None for the dataset's own; `order_trials` asks it that many
    more times, with rotated lists. `budget_per_image` is what `tlac.evaluation.estimate.fit_budget` goes by.
    `fingerprint` is the text encoder's, once `resolve` has seen it.
    """

    backend: Backend | None
    stage2_backend: Backend | None
    dataset: Dataset
    method: str
    encoder: EncoderConfig
    prompts: PromptSet
    matching: str
    template: str = DEFAULT_TEMPLATE
    limit: int | None = None
    seed: int = 0
    shuffle_classes: int | None = None
    order_trials: int = 0
    ensemble: tuple[Backend, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    abstain_below: float | None = None
    calibration: Calibration | None = None
    budget_per_image: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        """Raise UnknownNameError for a matching rule that there is not."""
        find_rule(self.matching)

    @property
    def rule(self) -> MatchingRule:
        """The matching rule."""
        return find_rule(self.matching)

    @cached_property
    def opened_method(self) -> Method | ImageMethod:
        """The method with its options. Raises UnknownNameError, UsageError."""
        return open_method(self.method)

    @property
    def asking_method(self) -> Method:
        """The method, where it asks an LMM. Raises UsageError where it looks at the image itself."""
        if isinstance(self.opened_method, ImageMethod):
            raise UsageError(f"the method {self.method} asks no LMM: use `tlac bench`")
        return self.opened_method

    @property
    def asked(self) -> tuple[Backend, Backend]:
        """The backends of both stages. Raises UsageError where none is given."""
        if self.backend is None or self.stage2_backend is None:
            raise UsageError(f"the method {self.method} asks an LMM: name one with --backend")
        return self.backend, self.stage2_backend

    @property
    def backend_name(self) -> str:
        """Who is asked, as results name it: all backends of an ensemble, the encoder where none is asked."""
        if self.backend is None:
            return self.encoder.name
        return "+".join(backend.name for backend in (self.backend, *self.ensemble))

    @property
    def sources(self) -> dict[str, str]:
        """The files that describe backends, encoder, prompts and dataset, by what they describe."""
        found = {"dataset": getattr(self.dataset, "described_in", ""), "encoder": self.encoder.source}
        if self.backend is not None and self.stage2_backend is not None:
            found |= {"backend": self.backend.source, "stage2_backend": self.stage2_backend.source}
            found |= {"prompts": self.prompts.source}
            found |= {f"ensemble {backend.name}": backend.source for backend in self.ensemble}
        return {what: source for what, source in found.items() if source}

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that class names are put into where the image itself is compared with them."""
        name = getattr(self.opened_method, "templates", "paper")
        return find_templates(name, self.dataset.prompt, self.template)

    @property
    def further_prompts(self) -> dict[str, PromptSet]:
        """The prompt sets that the method asks in beside the run's own, by name, about the same domain."""
        domain, drawn = self.prompts.domain, self.prompts.drawn
        found = {name: replace(load_prompts(name), drawn=drawn) for name in prompts_of(self.opened_method)}
        return {name: prompts.about(domain) if domain else prompts for name, prompts in found.items()}

    @cached_property
    def hints(self) -> tuple[str, ...]:
        """The class names that stage 1 shows of many; none where it shows all. Raises UsageError where they are not
        fewer than all."""
        shown = self.prompts.spec.hints
        if shown is not None and shown.count == "all":
            return ()
        return self.prompts.draw_hints(self.dataset.classes) if self.backend is not None else ()

    @property
    def spread_hints(self) -> frozenset[Hints]:
        """The hints of all prompt sets of the run that are spread over the class list."""
        sets = (self.prompts, *self.further_prompts.values()) if self.backend is not None else ()
        return frozenset(one.spec.hints for one in sets if one.spec.hints is not None and one.spec.hints.spread)

    def with_spread_hints(self, encoder: TextEncoder) -> RunConfig:
        """This config with the hints that are spread drawn, once for the whole run, by the embeddings of the class
        names, which stand in the template of the paper whatever the run's own; itself where there are none to draw.

        Raises UsageError where they can't be drawn.
        """
        wanted, names = self.spread_hints, sorted(set(self.dataset.classes))
        if wanted <= self.prompts.drawn.keys():
            return self
        try:
            texts = [apply_template(DEFAULT_TEMPLATE, self.rule.class_text(name)) for name in names]
            vectors = encoder.encode(texts).vectors
        except (EncoderUnavailableError, MissingAnswersError) as error:
            raise UsageError(
                f"hints that are spread are drawn with the text encoder {self.encoder.name}, which can't be had: "
                f"{error}; or leave spread out"
            ) from error
        # as many as there are, or more, are refused where they are shown
        drawn = {
            hints: draw_spread(names, vectors, hints.count, hints.seed)
            for hints in wanted
            if hints.count != "all" and hints.count < len(names)
        }
        return replace(self, prompts=replace(self.prompts, drawn=drawn))

    @cached_property
    def alias_notes(self) -> tuple[str, ...]:
        """What there is to say of aliases that name no class."""
        return note_unused_aliases(self.dataset.classes, self.aliases) if self.aliases else ()

    @cached_property
    def class_order(self) -> tuple[int, ...]:
        """The indices of the classes in the order in which stage 2 is shown them."""
        return class_order(len(self.dataset.classes), self.shuffle_classes)

    @cached_property
    def samples(self) -> Sequence[Sample] | Dataset:
        """The samples that are asked about."""
        return choose_samples(self.dataset, self.limit, self.seed)

    def resolve(self, encoder: TextEncoder) -> RunConfig:
        """This config as it is run with its text encoder: what hangs on that is drawn, and all of it goes together.

        Itself where it is resolved already. Raises UsageError.
        """
        if self.fingerprint:
            return self
        resolved = replace(self.with_spread_hints(encoder), fingerprint=encoder.fingerprint)
        resolved.check()
        return resolved

    def check(self) -> None:
        """Raise UsageError for what does not go together: with the method, the calibration with the text encoder,
        and hints with the class list."""
        method = self.opened_method
        is_vote = combination_of(method) == "vote"
        if is_vote and not self.ensemble:
            raise UsageError(f"the method {self.method} asks several backends: give --backend more than once")
        if is_vote and self.shuffle_classes is not None:
            raise UsageError(f"the method {self.method} has no --shuffle-classes: shuffle a run of each backend")
        if self.order_trials and base_name(self.method) not in ("slac", "tlac"):
            raise UsageError(f"--order-trials asks the second stage of tlac again, which {self.method} does not have")
        if sees_image(method) and len(self.dataset.classes) < MIN_CLASSES:
            raise UsageError(
                f"the method {self.method} needs {MIN_CLASSES} classes or more: leave its image option out"
            )
        if self.calibration is not None:
            require_encoder(self.calibration, self.scale)
        self._check_prompts(method)

    def _check_prompts(self, method: Method | ImageMethod) -> None:
        """Raise as `load_prompts`, `draw_hints` and `relook_words` do, and UsageError for a second sample in the same
        words: all of it is known before anybody is asked."""
        self.hints  # noqa: B018 - draws them
        second, further = second_sample_of(method), self.further_prompts
        own = [self.stage1_words(self.prompts)] if self.backend is not None else []
        for name in prompts_of(method):
            words = self.stage1_words(further[name])
            if name == second and words in own:
                raise UsageError(
                    f"the method {self.method}: its second sample would ask in the same words as the first: name "
                    "another prompt set, such as second=name or second=default:hints=30"
                )
            own.append(words)
        if looks_again(method):
            self.prompts.relook_words(has_answer=False)

    def stage1_words(self, prompts: PromptSet) -> tuple[str, str]:
        """As `PromptSet.stage1_words`, about this dataset."""
        return prompts.stage1_words(self.dataset.prompt, prompts.draw_hints(self.dataset.classes))

    @property
    def asks_by_number(self) -> bool:
        """As `BackendSpec.asks_by_number`, in these prompts."""
        second = self.stage2_backend
        return second is not None and second.spec.asks_by_number and not self.prompts.spec.free_text

    @property
    def scale(self) -> str:
        """The text encoder's fingerprint, marked where the image takes part in scores and margins."""
        return scale_of(self.opened_method, self.fingerprint)

    @cached_property
    def digests(self) -> dict[str, str]:
        """What tells the results of this run, once it is resolved, from all others': digests (sha256, hex) of all that
        goes into it, and the text encoder's fingerprint with its scale."""
        found = {"dataset": dataset_digest(self.dataset), "encoder": self.scale}
        if self.backend is None or self.stage2_backend is None:
            return {**found, "templates": sha256_of(self.templates)}
        found |= {
            "prompts": self.prompts.digest,
            "backend": self.backend.digest,
            "stage2_backend": self.stage2_backend.digest,
        }
        # "panel" is what an ensemble was called when the first runs were written
        found |= {f"panel {backend.name}": backend.digest for backend in self.ensemble}
        found |= {"aliases": sha256_of(dict(self.aliases))} if self.aliases else {}
        if self.spread_hints:
            # they hang on the encoder that drew them, which is not always the one that scores
            found["spread hints"] = sha256_of(sorted(self.prompts.drawn.values()))
        return found | {f"prompts {name}": prompts.digest for name, prompts in self.further_prompts.items()}

    def record(self, result: RunResult, metrics: Metrics, started_at: datetime, wall_s: float) -> RunRecord:
        """The record of a run of this config, once it is resolved, that has come to this."""
        backend, stage2, spent = self.backend, self.stage2_backend, result.ledger
        templates = self.templates if backend is None else (self.template,)
        asked = [one for one in (backend, stage2, *self.ensemble) if one is not None]
        return RunRecord(
            run=name_run(f"{started_at:%Y%m%d-%H%M%S}", self.dataset.name, self.backend_name, self.method),
            created_at=started_at.isoformat(timespec="seconds"),
            backend=self.backend_name,
            # where no LMM is asked, the model that looks at the image stands in its place
            model=backend.spec.model if backend else self.encoder.spec.model,
            stage2_backend=stage2.name if stage2 else "",
            stage2_model=stage2.spec.model if stage2 else "",
            matching=self.matching if backend else "similarity",
            template=templates[0] if len(templates) == 1 else f"{len(templates)} templates",
            prompts=self.prompts.name if backend else "",
            hints=self.hints,
            choice_by_index=stage2.spec.choice_by_index and not self.prompts.spec.free_text if stage2 else None,
            names_in_schema=stage2 is not None and stage2.spec.names_in_schema is True,
            prompt=self.dataset.prompt if backend else "",
            dataset=self.dataset.name,
            split=self.dataset.split,
            protocol=self.dataset.protocol,
            method=self.method,
            encoder=self.encoder.name,
            is_complete=metrics.failed == 0 and (result.order is None or result.order.failed == 0),
            stopped=result.stopped,
            calls=spent.calls,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            answers_cost_usd=spent.answers_cost_usd,
            wall_s=round(wall_s, 3),
            concurrency=result.concurrency,
            limit=self.limit,
            seed=self.seed,
            truncated_texts=result.truncated_texts,
            truncated_classes=result.truncated_classes,
            digests=self.digests,
            # with what servers of one's own served
            versions=installed_versions()
            | {f"served by {one.name}": served for one in asked if (served := served_version(one))},
            classes=self.dataset.classes,
            shuffle_classes=self.shuffle_classes,
            order_trials=result.order,
            shortlist_recall=result.shortlist_recall,
            ensemble=tuple(one.name for one in self.ensemble),
            aliases=dict(self.aliases),
            abstain_below=self.abstain_below,
            calibration=self.calibration,
            budget_per_image=dict(self.budget_per_image),
            dataset_notes=(*notes_of(self.dataset), *self.alias_notes, *result.notes),
            dataset_details=details_of(self.dataset),
            sources=self.sources,
        )


def scale_of(method: object, fingerprint: str) -> str:
    """The text encoder's fingerprint as digests and calibrations name it: with the image, beside words or alone,
    scores and margins have another scale."""
    if isinstance(method, ImageMethod):
        return f"{fingerprint}+image-alone"
    if not sees_image(method):
        return fingerprint
    return f"{fingerprint}+average{IMAGES}" if combination_of(method) == "average" else f"{fingerprint}{IMAGES}"


RunEngine: TypeAlias = Engine[RunConfig, Backend]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run has come to: predictions, or the files of shards that hold them, in order, and what they sum up to.

    `notes` are what there is to say of the samples, `calls` is the content of calls.jsonl, None where nobody was asked.
    `stopped` says why asking ended early.
    """

    predictions: Predictions | Sequence[Path]
    counts: Counts
    truncated_texts: int
    truncated_classes: int
    notes: tuple[str, ...] = ()
    ledger: UsageLedger = field(default_factory=UsageLedger)
    calls: Attachment | None = None
    stopped: str | None = None
    order: OrderTrials | None = None
    shortlist_recall: ShortlistRecall | None = None
    concurrency: int = 1


@runtime_checkable
class ScoringEngine(Protocol):
    """An engine that also scores what it has fetched, in the block of `Engine.fetch`."""

    def score(self, config: RunConfig) -> RunResult | None:
        """Score the samples of the run that was fetched as the `Runner` does; None, after a message, where it is left
        to that. Raises KeyboardInterrupt where it is given up."""
        ...


def choose_samples(dataset: Dataset, limit: int | None, seed: int) -> Sequence[Sample] | Dataset:
    """All samples, or `limit` of them drawn at random with `seed`, in the dataset's order."""
    if limit is None or limit >= len(dataset):
        return dataset
    chosen = set(random.Random(seed).sample(range(len(dataset)), limit))  # noqa: S311 - a sample, not a secret
    return [sample for position, sample in enumerate(dataset) if position in chosen]


def class_finder(config: RunConfig, encoder: TextEncoder) -> NearestClassFinder:
    """Who finds the classes nearest to an answer, as places in the class list as it is shown."""
    shown = [config.dataset.classes[place] for place in config.class_order]
    return NearestClassFinder(Scorer(shown, encoder, config.rule, config.template, config.aliases))


def plan_questions(
    config: RunConfig,
    bind: Callable[[Backend], BoundLMM],
    finder: ClassFinder | None = None,
    order: Sequence[int] | None = None,
) -> TwoStagePrompter:
    """The questions of a run, whoever carries them: this process, a batch, a cluster's worker, a dry run.

    `bind` gives who speaks for a backend, `finder` is a `class_finder`, `order` another order of the classes than the
    run's own. Raises UsageError where the config names no backend.
    """
    places = config.class_order if order is None else order
    classes = [config.dataset.classes[place] for place in places]

    def ask(stage1: Backend, stage2: Backend, ensemble: tuple[TwoStagePrompter, ...] = ()) -> TwoStagePrompter:
        return TwoStagePrompter(
            bind(stage1),
            bind(stage2),
            config.prompts,
            classes,
            config.dataset.prompt,
            config.rule.skips_stage2_on_exact,
            finder,
            config.further_prompts,
            ensemble,
            config.aliases,
        )

    return ask(*config.asked, tuple(ask(backend, backend) for backend in config.ensemble))
