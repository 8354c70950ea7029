"""Scores a run again from its stored answers: another encoder, template, matching rule, or method slac.

Asks no LMM, by construction: it has none. Does not know the dataset's files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from pathlib import Path

from msgspec import structs

from tlac.cache.pack import read_pack
from tlac.cache.remote_pack import find_fetched
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.registry import base_name, open_encoder, open_image_encoder, open_method
from tlac.config.schemas import load_encoder_config
from tlac.encoders.cached import ImageVectors, StoredEncoder
from tlac.errors import MissingAnswersError, UsageError
from tlac.evaluation.class_order import class_order, restore_choices
from tlac.evaluation.run_config import IMAGES, scale_of
from tlac.interfaces import combination_of, sees_image
from tlac.results.folder import inherited_files, name_run, read_record, write_run
from tlac.results.predictions import PREDICTIONS, AskedLine, read_asked
from tlac.results.record import Run, RunRecord
from tlac.results.usage import CALLS, Calls, StageCalls, Tokens, UsageLedger, encode_calls, read_calls
from tlac.runtime.safe_files import is_url
from tlac.runtime.spooled_list import spill
from tlac.scoring.confidence import Calibration, abstain, require_encoder
from tlac.scoring.matching import find_rule
from tlac.scoring.metrics import hinted_classes, measure
from tlac.scoring.predictions import Predictions
from tlac.scoring.scorer import Scorer
from tlac.types import LMMResponse, Outcome, Stage, Transcript, Turn

# predictions whose answers are read from the store at a time: many, since a store reads most of itself faster than
# as many rows by key
_BATCH = 50_000


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
    started, started_at = time.monotonic(), datetime.now(timezone.utc)
    parent = read_record(folder)
    method = _method(parent, change)
    rule = find_rule(change.matching or parent.matching)
    encoder = replace(load_encoder_config(change.encoder or parent.encoder), is_offline=True)
    template = change.template or parent.template
    order = class_order(len(parent.classes), parent.shuffle_classes)
    opened = open_method(method)
    needs_choices = (
        base_name(method) != "slac"
        # what fuses or averages first answers asks for no choice
        and combination_of(opened) in {"first", "vote"}
        and not rule.skips_stage2_on_exact
        and find_rule(parent.matching).skips_stage2_on_exact
    )
    recalled = _recall(folder / PREDICTIONS, _StoredAnswers(store, parent.sources), order, method == "slac")
    if needs_choices:
        recalled = _require_choices(recalled, rule.name)
    ledger = UsageLedger()
    stored_encoder = StoredEncoder(open_encoder(encoder), store)
    by_number = bool(parent.choice_by_index) and not parent.names_in_schema
    scorer = Scorer(parent.classes, stored_encoder, rule, template, parent.aliases, by_number)
    transcripts: Iterable[Transcript] = _counted(restore_choices(recalled, order, scorer.index), ledger)
    images = None
    if sees_image(opened):
        transcripts = spill(transcripts, Transcript)
        images, _ = ImageVectors(open_image_encoder(encoder, method), store, is_offline=True).find(transcripts)
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
    metrics = measure(weighed, hinted_classes(parent.classes, parent.hints))
    stamp = started_at.strftime("%Y%m%d-%H%M%S")
    record = replace(
        parent,
        run=name_run(stamp, parent.dataset, parent.backend, method, encoder.name),
        created_at=started_at.isoformat(timespec="seconds"),
        method=method,
        matching=rule.name,
        encoder=encoder.name,
        template=template,
        is_complete=metrics.failed == 0,
        calls=_count_turns(weighed),
        tokens=Tokens(),
        cost_usd=0.0,
        # the second stages that a run of slac takes no part of were paid for, and not for it
        answers_cost_usd=parent.answers_cost_usd if method == parent.method else ledger.answers_cost_usd,
        wall_s=round(time.monotonic() - started, 3),
        truncated_texts=len(scored.cut_texts),
        truncated_classes=scored.truncated_classes,
        digests={**parent.digests, "encoder": scale},
        parent=parent.run,
        order_trials=None,
        abstain_below=abstain_below,
        calibration=calibration,
        ensemble=() if method == "slac" else parent.ensemble,
        shortlist_recall=None if method == "slac" else parent.shortlist_recall,
    )
    files = inherited_files(folder)
    if CALLS in files and method != parent.method:
        files[CALLS] = _calls_of(weighed, folder)
    return write_run(out, record, weighed, metrics, files)


def _method(parent: RunRecord, change: Rescoring) -> str:
    if not parent.prompts:
        raise UsageError(f"{parent.run} asked no LMM: a run of {parent.method} has no answers to score again")
    method = change.method or parent.method
    if method not in (parent.method, "slac"):
        raise UsageError(
            f"a run of {parent.method} can be scored again as {parent.method} or slac, not as {method}: "
            f"that asks other questions; use `tlac bench --method {method}`"
        )
    if method == "slac" and base_name(parent.method) == "tlac-cascade":
        raise UsageError(
            f"a run of {parent.method} asked some images in other words: use `tlac bench --method slac`, which finds "
            "the answers of its first question in the store"
        )
    return method


class _StoredAnswers:
    """The answers behind a run's predictions, in the store or in the response packs that the run came from."""

    def __init__(self, store: Store, sources: Mapping[str, str]) -> None:
        self._store = store
        asked = [source for what, source in sources.items() if what not in ("dataset", "encoder", "prompts")]
        self._paths = [path for source in dict.fromkeys(asked) if (path := _find_pack(source)) and path.is_file()]
        self._found: dict[str, LMMResponse] = {}

    @cached_property
    def _packed(self) -> Mapping[str, LMMResponse]:
        kept = (one for path in self._paths for one in read_pack(path))
        return {
            one.key: structs.replace(one.response, from_store=True) for one in kept if isinstance(one, StoredAnswer)
        }

    def load(self, keys: Collection[str]) -> None:
        """Have these answers at hand, and no others. Raises InputError for a broken pack."""
        self._found = dict(self._store.responses(list(keys)))
        if len(self._found) < len(keys):
            self._found |= {key: self._packed[key] for key in keys if key in self._packed and key not in self._found}

    def turn(self, stage: Stage, key: str | None, asked: AskedLine) -> Turn | None:
        """The turn under a key that was loaded; None for no key. Raises MissingAnswersError."""
        if key is None:
            return None
        if key not in self._found:
            raise MissingAnswersError(
                f"the {stage} answer about {asked.sample} ({key[:12]}) is not in the store {self._store.path}; "
                "name the run's own store with --store, or import its pack with `tlac cache import`"
            )
        return Turn(stage, key, self._found[key])


def _find_pack(source: str) -> Path | None:
    """The pack of a run's source, one at an address where it was fetched before: run.json has nothing fetched."""
    if is_url(source):
        return find_fetched(source)
    return Path(source) if source.endswith((".jsonl", ".jsonl.zst")) else None


def _recall(path: Path, answers: _StoredAnswers, order: Sequence[int], is_slac: bool) -> Iterator[Transcript]:
    """The transcripts behind the predictions in a file, as they are asked for."""
    pending = read_asked(path)
    while batch := list(islice(pending, _BATCH)):
        needed = [(asked.stage1_key,) if is_slac else asked.keys for asked in batch]
        answers.load({key for keys in needed for key in keys if key is not None})
        for asked in batch:
            yield _transcript(asked, answers, order, is_slac)


def _transcript(asked: AskedLine, answers: _StoredAnswers, order: Sequence[int], is_slac: bool) -> Transcript:
    # what failed in stage 2 alone has all that slac needs
    if asked.outcome is Outcome.FAILED and (not is_slac or asked.stage1_key is None):
        return Transcript(asked.sample, asked.image_sha256, asked.label, failure="call", reason=asked.reason)
    stage1 = answers.turn("stage1", asked.stage1_key, asked)
    if is_slac:
        return Transcript(asked.sample, asked.image_sha256, asked.label, stage1)
    stage2 = answers.turn("stage2", asked.stage2_key, asked)
    if stage2 is not None and (asked.shortlist or asked.stage2_with_image):
        # a turn knows the places in the list that was shown
        candidates = tuple(sorted(map(order.index, asked.shortlist))) or None
        stage2 = structs.replace(stage2, candidates=candidates, has_image=asked.stage2_with_image)
    further = tuple(
        structs.replace(found, member=member)
        for member, stage, key in asked.further
        if (found := answers.turn(stage, key, asked))
    )
    return Transcript(asked.sample, asked.image_sha256, asked.label, stage1, stage2, further)


def _counted(transcripts: Iterable[Transcript], ledger: UsageLedger) -> Iterator[Transcript]:
    for transcript in transcripts:
        ledger.add(transcript.turns)
        yield transcript


def _calls_of(predictions: Predictions, folder: Path) -> Iterator[bytes]:
    """calls.jsonl of a run folder with the calls of first answers alone."""
    keys = {one.stage1_key for one in predictions}
    return encode_calls(
        replace(one, calls=tuple(call for call in one.calls if call.key in keys)) for one in read_calls(folder)
    )


def _require_choices(transcripts: Iterable[Transcript], rule: str) -> Iterator[Transcript]:
    """The transcripts; raises MissingAnswersError after the last where some lack the choice that the rule needs."""
    lacking = 0
    for transcript in transcripts:
        first = transcript.stage1
        if first is not None and first.response.outcome is Outcome.ANSWERED and transcript.stage2 is None:
            lacking += 1
        yield transcript
    if lacking:
        raise MissingAnswersError(
            f"{lacking} samples were decided without stage 2, which matching {rule!r} needs for all; "
            f"`tlac bench --matching {rule}` asks for them"
        )


def _count_turns(predictions: Predictions) -> Calls:
    """The answers behind all samples; all came from the store."""
    further = Counter(stage for turns in predictions.furthers for _, stage, _ in turns)
    stage1, stage2 = (int(keys.any(axis=1).sum()) for keys in (predictions.stage1_key, predictions.stage2_key))
    return Calls(StageCalls(0, stage1 + further["stage1"]), StageCalls(0, stage2 + further["stage2"]))
