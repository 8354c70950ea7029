from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fakes import LetterEncoder, Shown
from tlac.cache.store import Store
from tlac.types import LMMResponse, Outcome

PACK = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"
BENCH = ("bench", "--dataset", "cifar10-samples", "--encoder", "minilm", "--method", "tlac", "--json", "--no-report")


def summary(shown: Shown) -> dict:
    assert shown.code == 0, shown.err
    return json.loads(shown.out)["runs"][0]


@pytest.fixture(autouse=True)
def quick_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which text encoder scores is no matter here."""
    for module in ("runner", "rescore"):
        monkeypatch.setattr(f"tlac.evaluation.{module}.open_encoder", lambda config: LetterEncoder())


@pytest.fixture
def run(tlac_command) -> dict:
    """A run on the shipped pack, which is imported."""
    assert tlac_command("cache", "import", PACK).code == 0
    return summary(tlac_command(*BENCH, "--backend", f"pack:{PACK}"))


def test_a_runs_answers_travel_and_give_the_same_bytes(tlac_command, run: dict, tmp_path: Path) -> None:
    pack = tmp_path / "out.jsonl.zst"
    shown = tlac_command("cache", "export", run["run"], "-o", pack, "--with-embeddings", "--provenance", "a test")
    assert shown.code == 0, shown.err
    other = tmp_path / "other"
    assert "added" in tlac_command("cache", "import", pack, "--store", other).out
    scored = summary(tlac_command("score", run["run"], "--store", other, "--json"))
    replayed = summary(tlac_command(*BENCH, "--backend", f"pack:{pack}", "--store", tmp_path / "third"))
    written = {(Path(found["run"]) / "predictions.jsonl").read_bytes() for found in (run, scored, replayed)}
    assert len(written) == 1


@pytest.mark.parametrize("command", [("cache", "stats"), ("cache", "prune", "--yes")])
def test_a_store_that_is_not_there_is_named_and_not_made(
    tlac_command, tmp_path: Path, command: tuple[str, ...]
) -> None:
    shown = tlac_command(*command, "--store", tmp_path / "typo")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == f"tlac: {tmp_path / 'typo'}: no store there; `tlac cache path` prints the default one\n"
    assert not (tmp_path / "typo").exists()


def test_a_backends_answers_on_a_dataset_are_exported(tlac_command, run: dict, tmp_path: Path) -> None:
    name = f"pack:{PACK}"
    shown = tlac_command(
        "cache", "export", "--backend", name, "--dataset", "cifar10-samples", "-o", tmp_path / "a.jsonl"
    )
    assert shown.code == 0, shown.err
    stages = [json.loads(line)["request"]["stage"] for line in (tmp_path / "a.jsonl").read_text().splitlines()[1:]]
    assert stages.count("stage1") == 20
    none = tlac_command(
        "cache", "export", "--backend", name, "--dataset", "cifar100-samples", "-o", tmp_path / "b.jsonl"
    )
    assert none.code == 2
    assert "no answer" in none.err
    assert not (tmp_path / "b.jsonl").exists()


@pytest.mark.parametrize("arguments", [[], ["some-run", "--backend", "x"]])
def test_an_export_is_of_a_run_or_a_backend(tlac_command, arguments: list[str]) -> None:
    shown = tlac_command("cache", "export", *arguments, "-o", "x.jsonl")
    assert shown.code == 2
    assert "one of the three" in shown.err


def test_a_pack_that_contradicts_the_store_is_refused(tlac_command, run: dict, tmp_path: Path) -> None:
    pack = tmp_path / "out.jsonl"
    tlac_command("cache", "export", run["run"], "-o", pack)
    with Store(tmp_path / "other") as other, Store(Path(tmp_path / "store")) as ours:
        entry = next(iter(ours.entries()))
        other.put_entries([replace(entry, response=LMMResponse(Outcome.ANSWERED, "a truck"))])
    shown = tlac_command("cache", "import", pack, "--store", tmp_path / "other")
    assert shown.code == 2
    assert "'answered: a truck'" in shown.err or "a truck" in shown.err
    assert "contradicts 1 stored answers" in shown.err


def test_stats_count_what_is_there(tlac_command, run: dict) -> None:
    stats = json.loads(tlac_command("cache", "stats", "--json").out)
    assert stats["answers"] == sum(count["answers"] for count in stats["counts"]) > 20
    assert "text embeddings" in tlac_command("cache", "stats").out


def test_stats_of_a_dataset_count_its_images_and_class_list(tlac_command, run: dict) -> None:
    def count(dataset: str) -> dict[str, int]:
        counts = json.loads(tlac_command("cache", "stats", "--dataset", dataset, "--json").out)["counts"]
        return {group["stage"]: group["answers"] for group in counts}

    assert count("cifar10-samples") == {"stage1": 20, "stage2": 20}
    assert count("cifar100-samples") == {}


def test_verify_finds_a_sound_store_sound_and_names_a_bad_row(tlac_command, run: dict, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    assert tlac_command("cache", "verify").code == 0
    with closing(sqlite3.connect(tmp_path / "store" / "responses" / "cache.db")) as database, database:
        (row,) = database.execute("SELECT max(rowid) FROM Cache WHERE value LIKE '%stage1%'").fetchone()
        database.execute("UPDATE Cache SET value = '{}' WHERE rowid = ?", (row,))
    shown = tlac_command("cache", "verify")
    assert shown.code == 1
    assert f"responses, row {row}:" in shown.out
    assert "prune --damaged" in shown.err
    assert "forgetting 1 damaged" in tlac_command("cache", "prune", "--damaged", "--yes").out
    assert tlac_command("cache", "verify").code == 0


def test_pruning_asks_first(tlac_command, run: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "would forget" in tlac_command("cache", "prune", "--outcome", "answered", "--dry-run").out
    monkeypatch.setattr("click.confirm", _say_no)
    assert tlac_command("cache", "prune", "--outcome", "answered").code == 1
    assert json.loads(tlac_command("cache", "stats", "--json").out)["answers"] > 0
    assert tlac_command("cache", "prune", "--outcome", "answered", "--yes").code == 0
    assert json.loads(tlac_command("cache", "stats", "--json").out)["answers"] == 0
    assert "nothing to forget" in tlac_command("cache", "prune", "--outcome", "answered").out


def _say_no(question: str, abort: bool) -> None:
    import click

    raise click.Abort


def test_pruning_everything_is_not_a_slip_of_the_hand(tlac_command, run: dict) -> None:
    shown = tlac_command("cache", "prune", "--yes")
    assert shown.code == 2
    assert "say what to forget" in shown.err


def test_explain_tells_stored_from_missing_and_how_the_nearest_differs(tlac_command, run: dict) -> None:
    asked = ("cache", "explain", "cifar10_00_3.png", "--backend", f"pack:{PACK}", "--dataset", "cifar10-samples")
    assert "stage1: stored as" in tlac_command(*asked).out
    shown = tlac_command(*asked, "--prompts", "name")
    assert shown.code == 0, shown.err
    assert "stage1: not stored" in shown.out
    assert "messages.0.parts.1.text" in shown.out
    unknown = tlac_command("cache", "explain", "cifar10_00_4.png", *asked[3:])
    assert "did you mean 'cifar10_00_3.png'" in unknown.err
