"""A run holds no transcript and no record for each prediction: these are columns, those lie in a file."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

from tests.support.fakes import LetterEncoder
from tlac.evaluation.collect import TranscriptBuffer
from tlac.results.predictions import PREDICTIONS, encode_predictions, read_predictions
from tlac.scoring.matching import LadderMatching
from tlac.scoring.metrics import measure
from tlac.scoring.scorer import Scorer
from tlac.types import LMMResponse, Outcome, Prediction, Transcript, Turn

SAMPLES = 5_000
# what a block or two hold
AT_ONCE = 1_100


def transcripts() -> Iterator[Transcript]:
    for number in range(SAMPLES):
        response = LMMResponse(Outcome.ANSWERED, ("aaa", "abb", "bbb a")[number % 3], cost_usd=0.5)
        yield Transcript(f"s{number}", f"{number:064x}", number % 2, Turn("stage1", f"{number:064x}", response))


def alive(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


def test_a_run_holds_few_of_its_records_at_a_time(tmp_path: Path) -> None:
    # other tests may hold some
    before = alive(Prediction)
    buffer = TranscriptBuffer()
    for transcript in transcripts():
        buffer.put(transcript)
    assert alive(Transcript) < AT_ONCE
    scored = Scorer(("aaa", "bbb"), LetterEncoder(), LadderMatching(), "{}").score(buffer.transcripts)
    assert alive(Transcript) < AT_ONCE

    (tmp_path / PREDICTIONS).write_bytes(b"".join(encode_predictions(scored.predictions)))
    metrics = measure(scored.predictions)
    assert alive(Prediction) == before
    assert (metrics.n, metrics.answered, buffer.ledger.answers_cost_usd) == (SAMPLES, SAMPLES, SAMPLES / 2)
    assert len(scored.predictions.decisions) == 3
    assert read_predictions(tmp_path / PREDICTIONS) == scored.predictions
