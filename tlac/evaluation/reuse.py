"""Finds a run that is already there: complete, asked in the same words, scored the same way, on the same images."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tlac.errors import InputError
from tlac.evaluation.run_config import RunConfig
from tlac.images import identify
from tlac.results.folder import load_run, read_record
from tlac.results.record import Run, RunRecord
from tlac.scoring.predictions import OUTCOMES, Predictions, digest_texts
from tlac.types import Outcome


class Finished:
    """The complete runs in a folder; an unreadable one is passed over. The latest that fits a spec is given."""

    def __init__(self, out: Path) -> None:
        self._records: list[tuple[Path, RunRecord]] = []
        for path in sorted(out.glob("[!.]*/run.json"), reverse=True):
            try:
                record = read_record(path.parent)
            except InputError:
                continue
            if record.is_complete:
                self._records.append((path.parent, record))

    def find(self, spec: RunConfig, retry: Collection[Outcome] = ()) -> Run | None:
        """The latest run of the same resolved spec, on images that still have the bytes it saw.

        A run with an outcome in `retry` does not fit: it is to be asked again.
        """
        for folder, record in self._records:
            if record.digests == spec.digests and _is_same(record, spec):
                try:
                    run = load_run(folder)
                except InputError:
                    continue
                outcomes = {OUTCOMES[code] for code in np.unique(run.predictions.outcome)}
                if not outcomes & set(retry) and _saw_these_images(run.predictions, spec):
                    return run
        return None


def _is_same(record: RunRecord, spec: RunConfig) -> bool:
    asks = spec.backend is not None
    wanted = {
        "dataset": spec.dataset.name,
        "split": spec.dataset.split,
        "method": spec.method,
        "encoder": spec.encoder.name,
        "backend": spec.backend_name,
        "matching": spec.matching if asks else "similarity",
        "limit": spec.limit,
        # without a limit nothing is drawn, and the seed changes nothing
        "seed": record.seed if spec.limit is None else spec.seed,
        "shuffle_classes": spec.shuffle_classes,
        "abstain_below": spec.abstain_below,
        "calibration": spec.calibration,
        # the templates of a method that asks nobody are among its digests
        "template": spec.template if asks else record.template,
    }
    # a run without stage 2 has no trials, whatever was wished for
    trials = record.order_trials.trials if record.order_trials else 0
    has_trials = trials == spec.order_trials or record.calls.stage2.asked + record.calls.stage2.from_store == 0
    is_same = all(getattr(record, name) == value for name, value in wanted.items())
    return is_same and has_trials and record.versions.get("tlac") == version("tlac")


def _saw_these_images(predictions: Predictions, spec: RunConfig) -> bool:
    if len(spec.samples) != len(predictions):
        return False
    seen = zip(spec.samples, predictions.samples, digest_texts(predictions.image_sha256), strict=True)
    try:
        return all(
            sample.id == name and identify(sample.source, sample.id).sha256 == sha256 for sample, name, sha256 in seen
        )
    except InputError:
        return False
