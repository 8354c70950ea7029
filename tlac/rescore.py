"""Scores a run again from its stored answers: another encoder, template, matching rule, or method slac.

Asks no LMM, by construction: it has none. Does not know the dataset's files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from tlac.accounting import Calls, StageCalls, Tokens
from tlac.config import load_encoder_config
from tlac.embeddings import keep_embeddings
from tlac.errors import MissingAnswersError, UsageError
from tlac.matching import MatchingRule, find_rule
from tlac.metrics import measure
from tlac.offline import forbid_downloads
from tlac.registry import open_encoder
from tlac.runs import Run, RunRecord, free_name, name_run, read_predictions, read_record, write_run
from tlac.scoring import Scorer
from tlac.store import Store
from tlac.types import Failure, Outcome, Prediction, Stage, Transcript, Turn


@dataclass(frozen=True, slots=True)
class Rescoring:
    """What is to be different; None keeps what the run had. `method` can only become "slac"."""

    encoder: str | None = None
    template: str | None = None
    matching: str | None = None
    method: str | None = None


def rescore(folder: Path, store: Store, change: Rescoring, out: Path) -> Run:
    """Score the run in `folder` anew and write it to `out` as a run that names its parent.

    Raises MissingAnswersError where an answer that scoring needs is not in the store, InputError for a folder
    that is no run, UnknownNameError, UsageError for a method that stored answers can't be turned into.
    """
    forbid_downloads()
    started, started_at = time.monotonic(), datetime.now(timezone.utc)
    parent = read_record(folder)
    method = _method(parent, change)
    rule = find_rule(change.matching or parent.matching)
    encoder = load_encoder_config(change.encoder or parent.encoder)
    template = change.template or parent.template
    predictions = tuple(read_predictions(folder / "predictions.jsonl"))
    transcripts = list(_recall(predictions, store, with_stage2=method != "slac"))
    _require_choices(transcripts, parent, method, rule)
    stored_encoder = keep_embeddings(open_encoder(encoder), encoder, store, is_offline=True)
    scored = Scorer(parent.classes, stored_encoder, rule, template).score(transcripts)
    metrics = measure(scored.predictions)
    stamp = started_at.strftime("%Y%m%d-%H%M%S")
    record = replace(
        parent,
        run=free_name(out, name_run(stamp, parent.dataset, parent.backend, method, encoder.name)),
        created_at=started_at.isoformat(timespec="seconds"),
        method=method,
        matching=rule.name,
        encoder=encoder.name,
        template=template,
        is_complete=metrics.failed == 0,
        calls=_recalled(transcripts),
        tokens=Tokens(),
        cost_usd=0.0,
        wall_s=round(time.monotonic() - started, 3),
        truncated_texts=scored.truncated_texts,
        truncated_classes=scored.truncated_classes,
        digests={**parent.digests, "encoder": stored_encoder.fingerprint},
        parent=parent.run,
    )
    return Run(write_run(out, record, scored.predictions, metrics, {}), record, scored.predictions, metrics)


def _method(parent: RunRecord, change: Rescoring) -> str:
    method = change.method or parent.method
    if method not in (parent.method, "slac"):
        raise UsageError(
            f"a run of {parent.method} can be scored again as {parent.method} or slac, not as {method}: "
            f"that asks other questions; use `tlac bench --method {method}`"
        )
    return method


def _recall(predictions: Sequence[Prediction], store: Store, with_stage2: bool) -> Iterator[Transcript]:
    for prediction in predictions:
        failed = prediction.outcome is Outcome.FAILED
        # what failed in stage 2 alone has all that slac needs
        if failed and (with_stage2 or prediction.stage1_key is None):
            failure = Failure("call", prediction.reason)
            yield Transcript(prediction.sample, prediction.image_sha256, prediction.label, failure=failure)
            continue
        yield Transcript(
            prediction.sample,
            prediction.image_sha256,
            prediction.label,
            _turn(store, "stage1", prediction.stage1_key, prediction),
            _turn(store, "stage2", prediction.stage2_key, prediction) if with_stage2 else None,
        )


def _turn(store: Store, stage: Stage, key: str | None, prediction: Prediction) -> Turn | None:
    if key is None:
        return None
    response = store.get_response(key)
    if response is None:
        raise MissingAnswersError(
            f"the {stage} answer about {prediction.sample} ({key[:12]}) is not in the store {store.path}; "
            "name the run's own store with --store, or import its pack with `tlac cache import`"
        )
    return Turn(stage, key, response)


def _require_choices(transcripts: Sequence[Transcript], parent: RunRecord, method: str, rule: MatchingRule) -> None:
    if method == "slac" or rule.skips_stage2_on_exact:
        return
    lacking = [
        transcript
        for transcript in transcripts
        if transcript.stage1 and transcript.stage1.response.outcome is Outcome.ANSWERED and not transcript.stage2
    ]
    if lacking and find_rule(parent.matching).skips_stage2_on_exact:
        raise MissingAnswersError(
            f"{len(lacking)} samples were decided without stage 2, which matching {rule.name!r} needs for all; "
            f"`tlac bench --matching {rule.name}` asks for them"
        )


def _recalled(transcripts: Sequence[Transcript]) -> Calls:
    return Calls(
        StageCalls(0, sum(transcript.stage1 is not None for transcript in transcripts)),
        StageCalls(0, sum(transcript.stage2 is not None for transcript in transcripts)),
    )
