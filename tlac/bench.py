"""A run, from dataset to run folder: gather answers, score them, measure, write.

Binds the layers below; knows no provider, no encoder's insides, no terminal.
"""

from __future__ import annotations

import asyncio
import platform
import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tlac import loop
from tlac.accounting import count_spending
from tlac.calls.stored import OfflineLMM, StoredLMM
from tlac.calls.surround import Care, surround
from tlac.config import Backend, EncoderConfig
from tlac.embeddings import StoredEncoder, keep_embeddings
from tlac.errors import MissingAnswersError
from tlac.gather import GatherProgress, gather
from tlac.identity import dataset_digest
from tlac.interfaces import Dataset
from tlac.interview import Interview, Method, Respondent
from tlac.matching import DEFAULT_TEMPLATE, MatchingRule
from tlac.metrics import measure
from tlac.offline import forbid_downloads
from tlac.prompts import PromptSet
from tlac.registry import load_plugin, open_encoder, open_lmm
from tlac.report.page import render_run
from tlac.runs import Run, RunRecord, free_name, name_run, write_run
from tlac.scoring import Scorer
from tlac.store import Store
from tlac.types import Outcome, Sample, Transcript

_PACKAGES = ("tlac", "numpy", "litellm", "torch", "open_clip_torch", "sentence-transformers", "diskcache", "pillow")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to run. `limit` takes that many samples at random, with `seed`, in the dataset's order."""

    backend: Backend
    stage2_backend: Backend
    dataset: Dataset
    method: str
    encoder: EncoderConfig
    prompts: PromptSet
    rule: MatchingRule
    template: str = DEFAULT_TEMPLATE
    limit: int | None = None
    seed: int = 0


class Bench:
    """Runs evaluations on one store. LMMs and encoders are opened once and shared by all its runs.

    `care` says how calls are looked after (budget, retries, concurrency in place of the backends' own);
    `retry` are outcomes that are asked again.
    """

    def __init__(
        self,
        store: Store,
        is_offline: bool = False,
        care: Care | None = None,
        retry: Collection[Outcome] = (),
    ) -> None:
        if is_offline:
            forbid_downloads()
        self._store = store
        self._is_offline = is_offline
        self._care = care or Care()
        self._retry = retry
        self._lmms: dict[str, StoredLMM] = {}
        self._encoders: dict[str, StoredEncoder] = {}

    def respondent(self, backend: Backend) -> Respondent:
        """The backend's LMM over the store. Raises ConfigError where a key is missing."""
        if backend.digest not in self._lmms:
            lmm = OfflineLMM() if self._is_offline else surround(open_lmm(backend), backend, self._care)
            self._lmms[backend.digest] = StoredLMM(lmm, self._store, backend.name, self._retry)
        return Respondent(backend, self._lmms[backend.digest])

    def encoder(self, config: EncoderConfig) -> StoredEncoder:
        """The text encoder over the store."""
        if config.name not in self._encoders:
            self._encoders[config.name] = keep_embeddings(open_encoder(config), config, self._store, self._is_offline)
        return self._encoders[config.name]

    def finish(self) -> None:
        """Wait for calls that an interrupted run left in flight: they are paid for, and their answers are kept.

        Another interrupt gives them up.
        """

        async def finish_all() -> None:
            await asyncio.gather(*(lmm.finish() for lmm in self._lmms.values()))

        with suppress(KeyboardInterrupt):
            loop.run(finish_all())

    def run(self, spec: RunSpec, out: Path, progress: GatherProgress | None = None, with_report: bool = True) -> Run:
        """Gather, score, measure and write one run.

        An incomplete run is written too and says so. Raises MissingAnswersError where an offline run lacks
        answers, EncoderUnavailableError before anything is asked, StoreError.
        """
        started, started_at = time.monotonic(), datetime.now(timezone.utc)
        method: Method = load_plugin("tlac.methods", spec.method)()
        stage1, stage2 = self.respondent(spec.backend), self.respondent(spec.stage2_backend)
        scorer = Scorer(spec.dataset.classes, self.encoder(spec.encoder), spec.rule, spec.template)
        if not self._is_offline:
            scorer.encode_classes()
        interview = Interview(
            stage1, stage2, spec.prompts, spec.dataset.classes, spec.dataset.prompt, spec.rule.skips_stage2_on_exact
        )
        concurrency = self._care.concurrency or spec.backend.spec.limits.concurrency
        samples = choose_samples(spec.dataset, spec.limit, spec.seed)
        gathered = loop.run(gather(samples, interview, method, concurrency, progress))
        _require_answers(gathered.transcripts)
        scored = scorer.score(gathered.transcripts)
        metrics = measure(scored.predictions)
        spent = count_spending(gathered.transcripts)
        stamp = started_at.strftime("%Y%m%d-%H%M%S")
        record = RunRecord(
            run=free_name(out, name_run(stamp, spec.dataset.name, spec.backend.name, spec.method)),
            created_at=started_at.isoformat(timespec="seconds"),
            backend=spec.backend.name,
            model=spec.backend.spec.model,
            stage2_backend=spec.stage2_backend.name,
            stage2_model=spec.stage2_backend.spec.model,
            dataset=spec.dataset.name,
            split=spec.dataset.split,
            protocol=spec.dataset.protocol,
            method=spec.method,
            matching=spec.rule.name,
            encoder=spec.encoder.name,
            template=spec.template,
            prompts=spec.prompts.name,
            is_complete=metrics.failed == 0,
            stopped=gathered.stopped,
            calls=spent.calls,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            answers_cost_usd=spent.answers_cost_usd,
            wall_s=round(time.monotonic() - started, 3),
            concurrency=concurrency,
            limit=spec.limit,
            seed=spec.seed,
            truncated_texts=scored.truncated_texts,
            truncated_classes=scored.truncated_classes,
            digests=self._digests(spec),
            versions=_versions(),
            classes=spec.dataset.classes,
            prompt=spec.dataset.prompt,
        )
        attachments = {"report.html": render_run(record, scored.predictions, metrics).encode()} if with_report else {}
        folder = write_run(out, record, scored.predictions, metrics, attachments)
        return Run(folder, record, scored.predictions, metrics)

    def _digests(self, spec: RunSpec) -> dict[str, str]:
        return {
            "dataset": dataset_digest(spec.dataset),
            "prompts": spec.prompts.digest,
            "backend": spec.backend.digest,
            "stage2_backend": spec.stage2_backend.digest,
            "encoder": self.encoder(spec.encoder).fingerprint,
        }


def choose_samples(dataset: Dataset, limit: int | None, seed: int) -> Sequence[Sample] | Dataset:
    """All samples, or `limit` of them drawn at random with `seed`, in the dataset's order."""
    if limit is None or limit >= len(dataset):
        return dataset
    chosen = set(random.Random(seed).sample(range(len(dataset)), limit))  # noqa: S311 - a sample, not a secret
    return [sample for position, sample in enumerate(dataset) if position in chosen]


def _require_answers(transcripts: Sequence[Transcript]) -> None:
    missing = [transcript for transcript in transcripts if transcript.failure and transcript.failure.kind == "missing"]
    if missing:
        first = ", ".join(transcript.sample for transcript in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        reason = missing[0].failure.reason if missing[0].failure else ""
        raise MissingAnswersError(
            f"answers for {len(missing)} of {len(transcripts)} samples are missing: {first}{more} ({reason})"
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
