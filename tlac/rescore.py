"""Scores a run again from its stored answers: another encoder, template, matching rule, or method slac.

Asks no LMM, by construction: it has none. Does not know the dataset's files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from tlac.accounting import Calls, StageCalls, Tokens
from tlac.calibrating import require_encoder
from tlac.confidence import Calibration, abstain
from tlac.config import load_encoder_config
from tlac.embeddings import keep_embeddings
from tlac.errors import MissingAnswersError, UsageError
from tlac.image_vectors import ImageVectors
from tlac.matching import MatchingRule, find_rule
from tlac.method_names import IMAGES, combination_of, open_method, scale_of, sees_image
from tlac.metrics import measure
from tlac.offline import forbid_downloads
from tlac.order import class_order, restore_choices
from tlac.registry import open_encoder, open_image_encoder
from tlac.report.folder import inherited_files
from tlac.runs import Run, RunRecord, free_name, name_run, read_predictions, read_record, write_run
from tlac.scoring import Scorer
from tlac.store import Store
from tlac.types import Failure, LMMResponse, Outcome, Prediction, Stage, Transcript, Turn

# predictions whose answers are read from the store at a time
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Rescoring:
    """What is to be different; None keeps what the run had. `method` can only become "slac".

    A run's own calibration is kept for its own encoder alone.
    """

    encoder: str | None = None
    template: str | None = None
    matching: str | None = None
    method: str | None = None
    abstain_below: float | None = None
    calibration: Calibration | None = None


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
    order = class_order(len(parent.classes), parent.shuffle_classes)
    transcripts = restore_choices(list(_recall(predictions, store, order, is_slac=method == "slac")), order)
    _require_choices(transcripts, parent, method, rule)
    stored_encoder = keep_embeddings(open_encoder(encoder), encoder, store, is_offline=True)
    scorer = Scorer(parent.classes, stored_encoder, rule, template, parent.aliases)
    opened = open_method(method)
    images = None
    if sees_image(opened):
        images = ImageVectors(open_image_encoder(encoder, method), store, is_offline=True).find(transcripts).by_sha256
    scored = scorer.score(transcripts, combination_of(opened), images)
    scale = scale_of(opened, stored_encoder.fingerprint)
    if change.calibration is not None:
        require_encoder(change.calibration, scale)
    # margins of another encoder, or with the image and without, mean something else
    had_images = parent.digests.get("encoder", "").endswith(IMAGES)
    own = parent.calibration if encoder.name == parent.encoder and had_images == sees_image(opened) else None
    calibration = change.calibration or own
    abstain_below = parent.abstain_below if change.abstain_below is None else change.abstain_below
    weighed = abstain(scored.predictions, abstain_below, calibration)
    metrics = measure(weighed)
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
        digests={**parent.digests, "encoder": scale},
        parent=parent.run,
        order_trials=None,
        abstain_below=abstain_below,
        calibration=calibration,
        panel=() if method == "slac" else parent.panel,
        full_choices=None if method == "slac" else parent.full_choices,
    )
    return Run(write_run(out, record, weighed, metrics, inherited_files(folder)), record, weighed, metrics)


def _method(parent: RunRecord, change: Rescoring) -> str:
    if not parent.prompts:
        raise UsageError(f"{parent.run} asked no LMM: a run of {parent.method} has no answers to score again")
    method = change.method or parent.method
    if method not in (parent.method, "slac"):
        raise UsageError(
            f"a run of {parent.method} can be scored again as {parent.method} or slac, not as {method}: "
            f"that asks other questions; use `tlac bench --method {method}`"
        )
    return method


def _recall(
    predictions: Sequence[Prediction], store: Store, order: Sequence[int], is_slac: bool
) -> Iterator[Transcript]:
    for start in range(0, len(predictions), _BATCH):
        batch = predictions[start : start + _BATCH]
        keys = dict.fromkeys(
            key for prediction in batch for key in (prediction.keys[:1] if is_slac else prediction.keys)
        )
        answers = _Answers(dict(store.responses(list(keys))), store.path)
        yield from _recall_batch(batch, answers, order, is_slac)


def _recall_batch(
    predictions: Sequence[Prediction], answers: _Answers, order: Sequence[int], is_slac: bool
) -> Iterator[Transcript]:
    for prediction in predictions:
        failed = prediction.outcome is Outcome.FAILED
        # what failed in stage 2 alone has all that slac needs
        if failed and (not is_slac or prediction.stage1_key is None):
            failure = Failure("call", prediction.reason)
            yield Transcript(prediction.sample, prediction.image_sha256, prediction.label, failure=failure)
            continue
        stage1 = answers.turn("stage1", prediction.stage1_key, prediction)
        stage2 = None if is_slac else answers.turn("stage2", prediction.stage2_key, prediction)
        if stage2 is not None:
            # a turn knows the places in the list that was shown
            offered = tuple(sorted(map(order.index, prediction.shortlist))) or None
            stage2 = replace(stage2, offered=offered, is_relook=prediction.looked_again)
        further = [
            replace(found, member=member)
            for member, stage, key in (() if is_slac else prediction.further)
            if (found := answers.turn(stage, key, prediction))
        ]
        yield Transcript(
            prediction.sample, prediction.image_sha256, prediction.label, stage1, stage2, further=tuple(further)
        )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Responses by key, and the folder of the store that they were looked for in."""

    found: Mapping[str, LMMResponse]
    place: Path

    def turn(self, stage: Stage, key: str | None, prediction: Prediction) -> Turn | None:
        if key is None:
            return None
        response = self.found.get(key)
        if response is None:
            raise MissingAnswersError(
                f"the {stage} answer about {prediction.sample} ({key[:12]}) is not in the store {self.place}; "
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
    turns = [turn for transcript in transcripts for turn in transcript.turns]
    return Calls(
        StageCalls(0, sum(turn.stage == "stage1" for turn in turns)),
        StageCalls(0, sum(turn.stage == "stage2" for turn in turns)),
    )
