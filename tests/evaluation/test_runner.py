from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder
from tlac.cache.store import Store
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import EncoderUnavailableError, MissingAnswersError, PermanentError, SampleError
from tlac.evaluation.run_config import choose_samples
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.record import summary
from tlac.types import Encoding, LMMRequest, LMMResponse, Outcome, Sample


@pytest.fixture
def bench(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Runner, FakeLMM]]:
    def opened(reply: Callable[[LMMRequest], str | LMMResponse] = answer, **options) -> tuple[Runner, FakeLMM]:
        lmm = FakeLMM(reply)
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        return Runner(store, **options), lmm

    return opened


def test_a_run_is_measured_and_written(bench, tmp_path: Path) -> None:
    runner, _ = bench()
    run = runner.run(SPEC, tmp_path / "runs")
    assert run.record.is_complete
    assert run.metrics.accuracy == 1.0
    assert {decided_by: values.n for decided_by, values in run.metrics.by_decision.items()} == {"choice": 6, "exact": 3}
    assert run.folder.parent == tmp_path / "runs"
    lines = (run.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [f"{number}.png" for number in range(9)]


def test_stage_2_is_paid_for_once_per_distinct_answer(bench, tmp_path: Path) -> None:
    runner, lmm = bench()
    run = runner.run(SPEC, tmp_path)
    assert sum(request.stage == "stage2" for request in lmm.asked) == 2
    assert (run.record.calls.stage1.asked, run.record.calls.stage1.from_store) == (9, 0)
    assert (run.record.calls.stage2.asked, run.record.calls.stage2.from_store) == (2, 4)
    assert run.record.cost_usd == pytest.approx(0.011)
    assert run.record.tokens.prompt == 110


def test_a_second_run_asks_nobody_and_writes_the_same_bytes(bench, tmp_path: Path) -> None:
    first = bench()[0].run(SPEC, tmp_path)
    runner, lmm = bench()
    second = runner.run(SPEC, tmp_path)
    assert lmm.asked == []
    assert (second.record.cost_usd, second.record.answers_cost_usd) == (0, pytest.approx(0.011))
    read = [(run.folder / "predictions.jsonl").read_bytes() for run in (first, second)]
    assert read[0] == read[1]
    assert first.folder != second.folder


def test_concurrency_changes_no_byte(bench, tmp_path: Path) -> None:
    runs = [bench(policy=CallPolicy(concurrency=number))[0].run(SPEC, tmp_path / str(number)) for number in (1, 7)]
    assert runs[0].predictions == runs[1].predictions


def test_a_run_with_failed_calls_is_incomplete_and_the_same_command_finishes_it(bench, tmp_path: Path) -> None:
    broken = {"2.png", "5.png"}

    def flaky(request: LMMRequest) -> str:
        text = answer(request)
        if text == "a big truck":
            raise SampleError("fake: too large")
        return text

    run = bench(flaky)[0].run(SPEC, tmp_path)
    assert not run.record.is_complete
    assert (run.metrics.failed, run.metrics.accuracy) == (3, pytest.approx(6 / 9))
    assert broken <= {prediction.sample for prediction in run.predictions if prediction.outcome is Outcome.FAILED}
    runner, lmm = bench()
    assert runner.run(SPEC, tmp_path).record.is_complete
    assert sum(request.stage == "stage1" for request in lmm.asked) == 3


def test_a_permanent_error_stops_the_run_and_says_why(bench, tmp_path: Path) -> None:
    def refuse(request: LMMRequest) -> str:
        raise PermanentError("fake: the key was refused")

    runner, lmm = bench(refuse, policy=CallPolicy(concurrency=1))
    run = runner.run(SPEC, tmp_path)
    assert (run.record.stopped, run.record.is_complete, len(lmm.asked)) == ("fake: the key was refused", False, 1)


def test_offline_missing_answers_are_counted_and_named(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    runner, lmm = bench(is_offline=True)
    with pytest.raises(MissingAnswersError, match=r"9 of 9 samples .*0\.png, 1\.png, 2\.png, \.\.\.") as caught:
        runner.run(SPEC, tmp_path / "runs")
    assert caught.value.exit_code == 4
    assert lmm.asked == []
    assert not (tmp_path / "runs").exists()


class LateEncoder(LetterEncoder):
    """Loads for as long as nobody was asked, and then can't be had, or can."""

    def __init__(self, is_sound: bool) -> None:
        super().__init__()
        self.is_sound, self.asked = is_sound, threading.Event()

    def encode(self, texts: Sequence[str]) -> Encoding:
        assert self.asked.wait(60)
        if not self.is_sound:
            raise EncoderUnavailableError("no weights: try --encoder minilm")
        return super().encode(texts)

    def reply(self, request: LMMRequest) -> str:
        self.asked.set()
        return answer(request)


def test_an_encoder_is_loaded_while_the_first_calls_are_in_flight(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = LateEncoder(is_sound=True)
    runner, _ = bench(encoder.reply)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: encoder)
    assert runner.run(SPEC, tmp_path).metrics.accuracy == 1.0


class UntilLoaded(Cars):
    """Gives its fifth sample once the encoder's fate is known."""

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            for thread in threading.enumerate() if number == 4 else ():
                if thread.name.startswith("tlac-encoder"):
                    thread.join(60)
            yield sample


def test_once_an_encoder_can_not_be_had_no_further_sample_is_asked_about(
    bench, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = LateEncoder(is_sound=False)
    runner, lmm = bench(encoder.reply, policy=CallPolicy(concurrency=1))
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: encoder)
    with pytest.raises(EncoderUnavailableError, match="no weights"):
        runner.run(replace(SPEC, dataset=UntilLoaded()), tmp_path / "runs")
    assert 1 <= sum(request.stage == "stage1" for request in lmm.asked) <= 4
    # and what they were asked is kept
    assert len(list(store.entries())) == len(lmm.asked)
    assert not list((tmp_path / "runs").glob("*"))


def test_each_stage_can_have_its_own_backend(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, lmm = bench()
    other = FakeLMM(answer)
    second = Backend("other", "other.yaml", BackendSpec(adapter="fake", model="text-only"))
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: other if backend is second else lmm)
    run = runner.run(replace(SPEC, stage2_backend=second), tmp_path)
    assert {request.stage for request in lmm.asked} == {"stage1"}
    assert {request.model for request in other.asked} == {"text-only"}
    assert (run.record.backend, run.record.stage2_backend) == ("fake", "other")


def test_a_limit_draws_the_same_samples_for_the_same_seed() -> None:
    def ids(seed: int) -> list[str]:
        return [sample.id for sample in choose_samples(Cars(size=100), 10, seed)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert len(ids(1)) == 10
    assert ids(1) == sorted(ids(1), key=lambda name: int(name.split(".")[0]))


def test_the_record_holds_what_repeating_needs(bench, tmp_path: Path) -> None:
    record = bench()[0].run(SPEC, tmp_path).record
    assert record.digests.keys() == {"dataset", "prompts", "backend", "stage2_backend", "encoder"}
    assert {"tlac", "python", "numpy"} <= record.versions.keys()
    assert record.classes == Cars().classes


def test_a_run_whose_answers_are_stored_reads_no_image(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Files(Cars):
        def __iter__(self) -> Iterator[Sample]:
            for sample in super().__iter__():
                yield replace(sample, source=tmp_path / sample.id)

    for sample in Cars():
        path = tmp_path / sample.id
        path.write_bytes(sample.source)
    runner, _ = bench(lambda request: "an old car" if request.stage == "stage1" else "lorry")
    # a file that has only just been written may change again within the file system's clock
    monkeypatch.setattr("tlac.cache.image_hashes.time.time_ns", lambda: 2**62)
    spec = replace(SPEC, dataset=Files())
    runner.run(spec, tmp_path / "runs")
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    run = runner.run(spec, tmp_path / "runs")
    assert run.record.calls.stage1.from_store == 9
    assert [path for path in read if path.suffix == ".png"] == []


def test_choices_that_name_no_class_are_counted_and_said(bench, tmp_path: Path) -> None:
    def undecided(request: LMMRequest) -> str:
        return "something with wheels" if request.stage == "stage1" else "none of them"

    runner, _ = bench(undecided)
    run = runner.run(SPEC, tmp_path / "runs")
    assert run.metrics.unread_choices == run.metrics.n > 0
    assert summary(run)["unread_choices"] == run.metrics.n
    assert replace(run, record=replace(run.record, matching="paper")).unread_choices == 0


def test_aliases_that_name_no_class_are_told_once_and_recorded(bench, tmp_path: Path) -> None:
    said: list[str] = []
    runner, _ = bench(policy=CallPolicy(on_message=said.append))
    aliases = {"red car": ("coupe", "saloon"), "old car": ("saloon", "oldtimer"), "boat": ("ship",)}
    runs = [runner.run(replace(SPEC, aliases=aliases, method=method), tmp_path) for method in ("tlac", "slac")]
    notes = (
        "1 of 3 names with aliases are no class: 'boat'",
        "2 aliases tell no class apart and are left out: 'saloon'",
    )
    assert [run.record.dataset_notes[-2:] for run in runs] == [notes, notes]
    assert [line for line in said if "aliases" in line] == [f"cars: {note}" for note in notes]


def test_an_image_that_stands_twice_is_told_once_and_recorded_and_so_are_its_two_labels(bench, tmp_path: Path) -> None:
    said: list[str] = []
    runner, _ = bench(policy=CallPolicy(on_message=said.append))

    class Twins(Cars):
        def __iter__(self) -> Iterator[Sample]:
            first, second, *rest = super().__iter__()
            yield from (first, replace(second, source=first.source), *rest)

    runs = [runner.run(replace(SPEC, dataset=Twins(), method=method), tmp_path) for method in ("tlac", "slac")]
    note = "1 sample has the image of another, byte for byte; 1 image has several labels, such as 0.png and 1.png"
    assert [run.record.dataset_notes for run in runs] == [(note,), (note,)]
    assert [line for line in said if "byte" in line] == [f"cars: {note}"]
