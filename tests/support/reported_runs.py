"""Runs as the report finds them, made up: small ones whose numbers a person can work out, and hostile ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import made_runs
from tests.support.fakes import digest, make_png
from tests.support.made_runs import write_run
from tlac.report.run_page import write_report
from tlac.results.predictions import PREDICTIONS, SHARDS, name_shard, read_predictions, write_shard
from tlac.results.record import Run
from tlac.results.usage import CallFacts, Calls, SampleCalls, StageCalls, Tokens, encode_calls
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome, Prediction, Sample

CLASSES = ("red car", "old car", "lorry", "bicycle")
RECORD = replace(
    made_runs.RECORD,
    model="fake-1",
    stage2_model="fake-1",
    template="a photo of a {}",
    calls=Calls(StageCalls(12, 0), StageCalls(5, 3)),
    tokens=Tokens(300, 40, 0),
    cost_usd=0.25,
    answers_cost_usd=0.25,
    digests={"dataset": "d" * 64},
    versions={"tlac": "0.1.0"},
    classes=CLASSES,
)


@dataclass(frozen=True, slots=True)
class MadeRun(Run):
    """A run in no folder, whose calls are at hand."""

    made_calls: tuple[SampleCalls, ...] = ()

    def calls(self) -> tuple[SampleCalls, ...]:
        return self.made_calls


def prediction(number: int, label: int, predicted: int | None, **changes: object) -> Prediction:
    score = round(0.9 - number / 1000, 6)
    others = [index for index in range(len(CLASSES)) if index != predicted]
    answered = Prediction(
        sample=f"{number:03}.png",
        image_sha256=digest(f"image {number}"),
        label=label,
        outcome=Outcome.ANSWERED,
        answer=f"It looks like a {CLASSES[(predicted or 0) % len(CLASSES)]} to me",
        choice=CLASSES[(predicted or 0) % len(CLASSES)],
        decided_by="choice" if number % 2 else "exact",
        predicted=predicted,
        score=score,
        margin=round(score - 0.5, 6),
        top5=((predicted or 0, score), *((index, 0.1) for index in others)),
        stage1_key=digest(f"one {number}"),
        stage2_key=digest(f"two {predicted}"),
    )
    return replace(answered, **changes)  # type: ignore[arg-type]


def refusal(number: int, label: int) -> Prediction:
    return Prediction(
        sample=f"{number:03}.png",
        image_sha256=digest(f"image {number}"),
        label=label,
        outcome=Outcome.REFUSED,
        answer=None,
        choice=None,
        decided_by=None,
        predicted=None,
        score=None,
        margin=None,
        top5=(),
        stage1_key=digest(f"one {number}"),
        stage2_key=None,
        reason="blocked: SAFETY",
    )


def some_predictions() -> tuple[Prediction, ...]:
    """Twelve samples: eight right, three wrong (two lorries taken for old cars), one refused."""
    right = [prediction(number, number % 4, number % 4) for number in range(8)]
    wrong = [prediction(8, 2, 1), prediction(9, 2, 1), prediction(10, 0, 3)]
    return (*right, *wrong, refusal(11, 3))


def some_calls(predictions: Sequence[Prediction]) -> tuple[SampleCalls, ...]:
    return tuple(
        SampleCalls(one.sample, (CallFacts("stage1", one.stage1_key or "", 0.1 * place, 0.001 * place, 9, 2, False),))
        for place, one in enumerate(predictions, start=1)
    )


def some_run(predictions: Sequence[Prediction] | None = None, **changes: object) -> MadeRun:
    found = Predictions.of(predictions if predictions is not None else some_predictions())
    record = replace(RECORD, **changes)  # type: ignore[arg-type]
    return MadeRun(Path("runs") / record.run, record, found, measure(found), some_calls(found))


def write_reported_run(out: Path, run: Run) -> Path:
    """A run folder as a bench writes it, with thumbnails."""
    samples = [Sample(one.sample, make_png(place), one.label) for place, one in enumerate(run.predictions)]
    files = {"calls.jsonl": encode_calls(run.calls())}
    folder = write_run(out, run.record, run.predictions, run.metrics, files)
    write_report(Run(folder, run.record, run.predictions, run.metrics), samples)
    return folder


# what must show as text wherever it comes from; each would set `window.ran` if it were taken for markup or code
HOSTILE = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<img src=x onerror='window.ran = 3'>",
    '" onmouseover="window.ran = 4" style="width:9999px',
    "<!--<script>window.ran = 5//",
    "{{ 7 * 7 }}{% raw %}${window.ran = 6}",
    "</style></title></textarea></select></svg><svg onload='window.ran = 7'>",
    "\u202egnp.eman elif\u2066 \u200f\u2028\u2029 \x00\x07 end",
    "javascript:window.ran=8",
    "]]>&lt;b&gt;&amp;<a href='https://example.com/'>x</a>",
    "A" * 100_000,
)


def hostile_run() -> MadeRun:
    """A run in which every text from outside is one of the hostile ones."""
    classes = HOSTILE
    found = []
    for place, text in enumerate(HOSTILE):
        other = (place + 1) % len(classes)
        found.append(
            prediction(
                place, place, other, sample=text, answer=text, choice=text, words=(place,),
                top5=((other, 0.9), (place, 0.5)),
            )
        )  # fmt: skip
        found.append(replace(refusal(100 + place, place), sample=text, reason=text))
    predictions = Predictions.of(found)
    text = "".join(HOSTILE[:-1])
    record = replace(
        RECORD, run="hostile", backend=text, model=text, stage2_backend=text, stage2_model=text, dataset=text,
        protocol=text, method=text, matching=text, encoder=text, template=text, prompts=text, is_complete=False,
        stopped=text, digests={text: text}, versions={text: text}, classes=classes, prompt=text,
    )  # fmt: skip
    return MadeRun(Path("runs/hostile"), record, predictions, measure(predictions), some_calls(predictions))


def hostile_pair() -> list[MadeRun]:
    """The hostile run and one of another method that is always right, so that they disagree."""
    one = hostile_run()
    right = Predictions.of(
        replace(found, predicted=found.label if found.predicted is not None else None) for found in one.predictions
    )
    record = replace(one.record, run="right", method="<script>window.ran = 9</script>", answers_cost_usd=1.0)
    return [one, replace(one, record=record, predictions=right, metrics=measure(right))]


def with_shards(folder: Path, count: int) -> Path:
    """The run in a folder, with so many shards in place of predictions.jsonl."""
    rows = list(read_predictions(folder / PREDICTIONS))
    (folder / PREDICTIONS).unlink()
    (folder / SHARDS).mkdir()
    for place in range(count):
        part = rows[place * len(rows) // count : (place + 1) * len(rows) // count]
        with (folder / SHARDS / name_shard(place, count)).open("wb") as file:
            write_shard(file, Predictions.of(part))
    return folder
