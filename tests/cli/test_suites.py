"""Suites and matrices through `tlac bench`, with an LMM and an encoder of the tests' own."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fakes import FakeLMM, LetterEncoder, Shown, make_png
from tests.support.table_files import write_parquet, write_shard
from tlac.config.files import trust
from tlac.errors import ConfigError, SampleError
from tlac.types import LMMRequest

PROJECT = """
encoders:
  letters: {adapter: letters, model: letters}
backends:
  fake: {adapter: fake, model: fake}
  other: {adapter: fake, model: other}
  keyless: {adapter: fake, model: keyless}
  indexed: {adapter: fake, model: indexed, choice_by_index: true}
datasets:
  one: {loader: csv, protocol: ours, options: {path: one.csv}}
  two: {loader: csv, protocol: ours, options: {path: two.csv}}
suites:
  pair: {datasets: [one, two], methods: [slac, tlac]}
"""
NAMES = ("cat", "dog", "emu", "owl")


class BatchManager:
    """A working directory with datasets, and the LMMs that answer there."""

    def __init__(self, folder: Path, command: Callable[..., Shown]) -> None:
        self.folder = folder
        self._command = command
        self.lmms: dict[str, FakeLMM] = {}
        self.answer: Callable[[LMMRequest], str] = tell
        self.describe(PROJECT)
        for place, name in enumerate(("one", "two")):
            self.write(name, range(4 * place, 4 * place + 4))

    def describe(self, project: str) -> None:
        """Write the project's own descriptions, and trust them: they may take the place of shipped ones."""
        path = self.folder / "tlac.yaml"
        path.write_text(project)
        trust(path)

    def write(self, name: str, seeds: range) -> None:
        (self.folder / name).mkdir()
        with (self.folder / f"{name}.csv").open("w", newline="") as opened:
            lines = csv.writer(opened)
            lines.writerow(["path", "label"])
            for seed in seeds:
                (self.folder / name / f"{seed}.png").write_bytes(make_png(seed))
                lines.writerow([f"{name}/{seed}.png", NAMES[seed % 4]])

    def open_lmm(self, backend) -> FakeLMM:
        if backend.name == "keyless":
            raise ConfigError("keyless: set KEYLESS_API_KEY, or try --backend embedded")
        return self.lmms.setdefault(backend.name, FakeLMM(self._reply))

    def _reply(self, request: LMMRequest) -> str:
        # `answer` may be another one by then
        return self.answer(request)

    def asked(self) -> int:
        return sum(len(lmm.asked) for lmm in self.lmms.values())

    def bench(self, *arguments: object) -> Shown:
        return self._command("bench", "--encoder", "letters", "--no-report", *arguments)

    def document(self, *arguments: object, code: int = 0) -> dict:
        shown = self.bench(*arguments, "--json")
        assert shown.code == code, shown.err
        return json.loads(shown.out)


def seed_of(request: LMMRequest) -> int:
    source = request.images[0].source
    content = source if isinstance(source, bytes) else source.read_bytes()
    return [make_png(seed) for seed in range(8)].index(content)


def tell(request: LMMRequest) -> str:
    """The right animal, but for image 3; in stage 1 in words that are no class name."""
    if request.stage == "stage2":
        return request.choice.answer.split()[-1]
    seed = seed_of(request)
    return f"maybe a {NAMES[0 if seed == 3 else seed % 4]}"


@pytest.fixture
def manager(tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchManager:
    made = BatchManager(tmp_path / "here", tlac_command)
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", made.open_lmm)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    return made


def folders(manager: BatchManager) -> set[str]:
    return {path.name for path in (manager.folder / "runs").iterdir()}


def test_a_suite_is_a_matrix_with_averages(manager: BatchManager) -> None:
    document = manager.document("--backend", "fake", "--backend", "other", "--suite", "pair")
    assert len(document["runs"]) == 8
    (suite,) = document["suites"]
    rows = {(row["backend"], row["method"]): row for row in suite["rows"]}
    assert set(rows) == {("fake", "slac"), ("fake", "tlac"), ("other", "slac"), ("other", "tlac")}
    assert rows["fake", "tlac"]["mean"] == (0.75 + 1.0) / 2
    assert (rows["fake", "tlac"]["complete"], rows["fake", "tlac"]["total"]) == (2, 2)
    assert document["failed"] == []


def test_the_table_says_averages_and_fits_80_columns(manager: BatchManager) -> None:
    shown = manager.bench("--backend", "fake", "--suite", "pair")
    assert "87.50   2 of 2" in shown.out
    assert "\nprotocol ours\n" in shown.out
    assert all(line.startswith("matching ") for line in shown.out.splitlines() if len(line) > 80)
    again = manager.bench("--backend", "fake", "--suite", "pair")
    assert "4 reused: complete before" in again.out


def test_complete_cells_are_reused_and_nobody_is_asked(manager: BatchManager) -> None:
    manager.bench("--backend", "fake", "--suite", "pair")
    before, asked = folders(manager), manager.asked()
    document = manager.document("--backend", "fake", "--suite", "pair")
    assert (folders(manager), manager.asked()) == (before, asked)
    assert all(run["reused"] and run["calls"]["stage1"]["asked"] == 0 for run in document["runs"])
    assert all(run["cost_usd"] == 0 for run in document["runs"])


@pytest.mark.parametrize(
    "change",
    [
        ("--matching", "paper"),
        ("--template", "an image of {}"),
        ("--prompts", "name"),
        ("--limit", "2"),
        ("--shuffle-classes", "1"),
    ],
)
def test_another_setting_is_another_cell(manager: BatchManager, change: tuple[str, str]) -> None:
    manager.bench("--backend", "fake", "--suite", "pair")
    document = manager.document("--backend", "fake", "--suite", "pair", *change)
    assert not any(run["reused"] for run in document["runs"])


def test_an_image_that_changed_is_asked_about(manager: BatchManager) -> None:
    manager.bench("--backend", "fake", "--suite", "pair", "--method", "slac")
    (manager.folder / "one" / "0.png").write_bytes(make_png(5))
    document = manager.document("--backend", "fake", "--suite", "pair", "--method", "slac")
    assert [run["reused"] for run in document["runs"]] == [False, True]


def test_a_cell_that_fails_leaves_the_others_intact_and_the_rerun_does_only_that_cell(manager: BatchManager) -> None:
    shutil.move(manager.folder / "two.csv", manager.folder / "away.csv")
    document = manager.document(
        "--backend", "fake", "--backend", "other", "--suite", "pair", "--method", "slac", code=2
    )
    assert [(run["dataset"], run["backend"]) for run in document["runs"]] == [("one", "fake"), ("one", "other")]
    assert {(cell["dataset"], cell["backend"]) for cell in document["failed"]} == {("two", "fake"), ("two", "other")}
    assert "two.csv: can't be read: No such file" in document["failed"][0]["error"]
    (row, _) = document["suites"][0]["rows"]
    assert (row["mean"], row["complete"], row["total"]) == (0.75, 1, 2)

    shutil.move(manager.folder / "away.csv", manager.folder / "two.csv")
    before, asked = folders(manager), manager.asked()
    document = manager.document("--backend", "fake", "--backend", "other", "--suite", "pair", "--method", "slac")
    assert [run["reused"] for run in document["runs"]] == [True, True, False, False]
    assert (len(folders(manager) - before), manager.asked() - asked) == (2, 8)


def test_an_incomplete_cell_is_not_averaged_and_the_rerun_asks_for_what_is_missing(manager: BatchManager) -> None:
    def flaky(request: LMMRequest) -> str:
        if seed_of(request) == 6:
            raise SampleError("fake: too large")
        return tell(request)

    manager.answer = flaky
    shown = manager.bench("--backend", "fake", "--suite", "pair", "--method", "slac")
    assert shown.code == 3
    assert "two fake slac is incomplete: 1 of 4 samples failed (two/6.png: fake: too large)" in shown.err
    assert "75.0*" in shown.out
    assert "1 of 2" in shown.out
    manager.answer, asked = tell, manager.asked()
    document = manager.document("--backend", "fake", "--suite", "pair", "--method", "slac")
    assert [run["reused"] for run in document["runs"]] == [True, False]
    assert manager.asked() - asked == 1


def test_a_backend_without_its_key_is_named_and_the_others_go_on(manager: BatchManager) -> None:
    shown = manager.bench("--backend", "keyless", "--backend", "fake", "--suite", "pair", "--method", "slac")
    assert shown.code == 2
    assert shown.err.splitlines()[0] == (
        "tlac: keyless: set KEYLESS_API_KEY, or try --backend embedded; going on without it"
    )
    assert "no result for one keyless slac, two keyless slac: keyless: set" in shown.err.splitlines()[-1]
    assert len(folders(manager)) == 2


def test_where_no_backend_is_left_nothing_is_run(manager: BatchManager) -> None:
    shown = manager.bench("--backend", "keyless", "--suite", "pair")
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert not (manager.folder / "runs").exists()


def test_datasets_outside_of_suites_have_their_harmonic_mean_too(manager: BatchManager) -> None:
    asked = ("--backend", "fake", "--dataset", "one", "--dataset", "two", "--method", "tlac")
    halves = ("--split", "base", "--split", "novel")
    (found,) = json.loads(manager.bench(*asked, *halves, "--json").out)["harmonic"]
    assert (found["complete"], found["total"], set(found["by_dataset"])) == (2, 2, {"one", "two"})
    assert found["h"] == pytest.approx(2 * found["base"] * found["novel"] / (found["base"] + found["novel"]))
    assert "H of base and novel in %" in manager.bench(*asked, *halves).out
    alone = manager.bench(*asked, "--split", "base")
    assert "H of base and novel" not in alone.out


def test_both_halves_give_the_harmonic_mean(manager: BatchManager) -> None:
    document = manager.document(
        "--backend", "fake", "--suite", "pair", "--method", "tlac", "--split", "base", "--split", "novel"
    )
    (harmonic,) = document["suites"][0]["harmonic"]
    # image 3 is taken for a class of the other half, and then matched within its own
    assert (harmonic["base"], harmonic["complete"], harmonic["total"]) == (1.0, 2, 2)
    novel = harmonic["novel"]
    assert harmonic["h"] == pytest.approx(2 * novel / (1 + novel))
    shown = manager.bench("--backend", "fake", "--suite", "pair", "--split", "base", "--split", "novel")
    assert "pair, H of base and novel in %" in shown.out


def test_published_rows_stand_beside_ours_and_are_marked(manager: BatchManager) -> None:
    manager.describe(PROJECT + "  training-free: {datasets: [one], methods: [slac]}\n")
    shown = manager.bench("--backend", "fake", "--suite", "training-free")
    assert "TLAC +" in shown.out
    assert "+ published by others on all test images" in shown.out
    document = manager.document("--backend", "fake", "--suite", "training-free")
    assert {row["published"] for row in document["suites"][0]["published"]} == {True}
    assert {row["published"] for row in document["suites"][0]["rows"]} == {False}


def test_what_was_read_off_a_chart_or_published_as_a_difference_says_so(manager: BatchManager) -> None:
    suites = "  base-to-novel: {datasets: [one, imagenet], split: novel, methods: [slac]}\n"
    suites += "  domain-generalization: {datasets: [one], methods: [slac]}\n"
    manager.describe(PROJECT + suites)
    shown = manager.bench("--backend", "fake", "--suite", "base-to-novel", "--suite", "domain-generalization")
    assert "~74.1" in shown.out
    assert "\n~ digitised: read off a chart, to about 0.3 points (0.8 on fgvc_aircraft)\n" in shown.out
    assert "\npublished by others: TLAC over few-shot methods, in points: +3.6 on imagenetv2, +17.0 on" in shown.out
    document = manager.document("--backend", "fake", "--suite", "domain-generalization")
    (gain,) = document["suites"][0]["published_gains"]
    assert gain["by_dataset"]["imagenet-r"] == pytest.approx(0.1259)


def test_datasets_that_are_split_in_other_ways_are_named_with_their_protocols(manager: BatchManager) -> None:
    (manager.folder / "tlac.yaml").write_text(PROJECT.replace("csv, protocol: ours", "csv, protocol: theirs", 1))
    shown = manager.bench("--backend", "fake", "--suite", "pair")
    assert "\nprotocol theirs: one; protocol ours: two\n" in shown.out


def test_choices_by_index_mean_the_datasets_own_classes_in_any_order(manager: BatchManager) -> None:
    def by_index(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return tell(request)
        # the list that is shown, not the dataset's own
        return json.dumps({"class_index": str(request.choice.classes.index(request.choice.answer.split()[-1]))})

    manager.answer = by_index
    arguments = ("--backend", "indexed", "--dataset", "one")
    plain = manager.document(*arguments)["runs"][0]
    shuffled = manager.document(*arguments, "--shuffle-classes", "1")["runs"][0]
    assert plain["accuracy"] == shuffled["accuracy"] == 0.75
    assert (plain["shuffle_classes"], shuffled["shuffle_classes"]) == (None, 1)
    # another order is another question
    assert shuffled["calls"]["stage2"]["asked"] == plain["calls"]["stage2"]["asked"] == 3
    read = [(manager.folder / run["run"] / "predictions.jsonl").read_text() for run in (plain, shuffled)]
    chosen = [[json.loads(line)["predicted"] for line in text.splitlines()] for text in read]
    assert chosen[0] == chosen[1] == [0, 1, 2, 0]


def test_order_trials_tell_how_often_the_choice_changes(manager: BatchManager) -> None:
    def first_of_the_list(request: LMMRequest) -> str:
        return tell(request) if request.stage == "stage1" else request.choice.classes[0]

    manager.answer = first_of_the_list
    arguments = ("--backend", "fake", "--dataset", "one", "--order-trials", "3")
    run = manager.document(*arguments)["runs"][0]
    assert run["order_trials"] == {
        "trials": 3, "asked": 4, "failed": 0, "changed": 4, "change_rate": 1.0, "accuracies": [0.25, 0.25, 0.25],
    }  # fmt: skip
    # three distinct answers, in the list's own order and in three others
    assert run["calls"]["stage2"]["asked"] == 12
    manager.answer = tell
    shown = manager.bench("--backend", "other", "--dataset", "one", "--order-trials", "1")
    assert "in 1 other order 0 of 4 stage-2 samples changed, 0.0 % of all choices; top-1 75.0 to 75.0" in shown.out


def test_folder_csv_parquet_and_shard_give_identical_predictions(manager: BatchManager) -> None:
    import datasets

    datasets.disable_progress_bars()
    # what write_parquet and write_shard hold
    labels = [0, 2, 1, 2]
    names = ["cat", "dog", "emu"]
    with (manager.folder / "same.csv").open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["path", "label"])
        for seed, label in enumerate(labels):
            path = manager.folder / "same" / names[label] / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png(seed))
            lines.writerow([path.relative_to(manager.folder).as_posix(), names[label]])
    write_parquet(manager.folder / "table")
    write_shard(manager.folder / "shards" / "test-0.tar")
    (manager.folder / "shards" / "classnames.txt").write_text("\n".join(names))
    addresses = ("folder:same", "csv:same.csv", "hf:table", "hf:shards")
    found = {}
    for address in addresses:
        run = manager.document("--backend", "fake", "--dataset", address)["runs"][0]
        lines = (manager.folder / run["run"] / "predictions.jsonl").read_text().splitlines()
        predictions = sorted(map(json.loads, lines), key=lambda one: one["image_sha256"])
        for one in predictions:
            # each source has names of its own for the same image
            del one["sample"]
        found[address] = predictions
    assert len(found["folder:same"]) == 4
    assert all(found[address] == found["folder:same"] for address in addresses)
    # the first source was asked about, the others are the same questions
    assert sum(request.stage == "stage1" for request in manager.lmms["fake"].asked) == 4


def test_a_subset_is_taken_and_named(manager: BatchManager) -> None:
    shown = manager.bench("--backend", "fake", "--dataset", "one", "--subset", "val")
    assert shown.code == 2
    assert "has no subset 'val'" in shown.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--backend", "fake"), "nothing to run on: name a dataset with --dataset"),
        (("--dataset", "one"), "the method tlac asks an LMM: name one, such as --backend embedded"),
        (("--backend", "fake", "--suite", "pear"), "unknown suite 'pear': did you mean 'pair'?"),
        (("--backend", "fake", "--suite", "pair", "--order-trials", "9"), "can be rotated 3 times at most"),
    ],
)
def test_wrong_use_is_one_clear_line(manager: BatchManager, arguments: tuple[str, ...], complaint: str) -> None:
    shown = manager.bench(*arguments)
    assert shown.code == 2
    assert complaint in shown.err.splitlines()[-1]
    assert manager.asked() == 0
