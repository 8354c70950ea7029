from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_runs import made_run, written
from tlac.analysis.leaderboard import load_runs, rank_runs
from tlac.errors import InputError
from tlac.results.folder import load_run


def run(name: str, right: int, **changes):
    return made_run([(0, 0)] * right + [(0, 1)] * (10 - right), run=name, **changes)


def ranks(*runs) -> list[tuple[str, int | None]]:
    return [(row["run"], row["rank"]) for row in rank_runs(runs)]


def test_better_runs_stand_higher_and_equal_ones_share_a_rank() -> None:
    assert ranks(run("a", 3), run("b", 9), run("c", 9), run("d", 5)) == [("b", 1), ("c", 1), ("d", 3), ("a", 4)]


def test_an_incomplete_run_stands_last_without_a_rank_however_good() -> None:
    assert ranks(run("a", 10, is_complete=False), run("b", 1)) == [("b", 1), ("a", None)]
    row = rank_runs([run("a", 10, is_complete=False)])[0]
    assert (row["is_complete"], row["accuracy"]) == (False, 1.0)


def test_runs_on_other_samples_are_ranked_apart() -> None:
    found = rank_runs(
        [run("a", 3), run("b", 2, limit=10, seed=1), run("c", 9, dataset="dtd"), run("d", 1, split="base")]
    )
    assert [(row["run"], row["rank"], row["drawn"]) for row in found] == [
        ("a", 1, "all"), ("b", 1, "10, seed 1"), ("d", 1, "all"), ("c", 1, "all"),
    ]  # fmt: skip


def test_runs_on_two_versions_of_a_dataset_say_which() -> None:
    found = rank_runs(
        [
            run("a", 3, digests={"dataset": "0123456789"}),
            run("b", 9, digests={"dataset": "abcdef0123"}),
            run("c", 1),
            run("d", 1, dataset="dtd"),
        ]
    )
    assert [(row["run"], row["rank"], row["drawn"]) for row in found] == [
        ("a", 1, "all, version 012345"), ("b", 1, "all, version abcdef"), ("c", 1, "all, version d"), ("d", 1, "all"),
    ]  # fmt: skip


def test_a_run_without_labels_has_no_rank() -> None:
    assert [row["rank"] for row in rank_runs([made_run([(None, 1)])])] == [None]


def test_cost_is_that_of_a_correct_answer() -> None:
    assert rank_runs([run("a", 4)])[0]["cost_per_correct_usd"] == 0.25
    assert rank_runs([run("a", 0)])[0]["cost_per_correct_usd"] is None
    assert rank_runs([run("a", 4, answers_cost_usd=None)])[0]["cost_per_correct_usd"] is None


def test_the_leaderboard_is_read_as_a_data_frame_that_leads_to_its_runs(tmp_path: Path) -> None:
    for made in (run("a", 4), run("b", 9, is_complete=False), run("c", 8)):
        written(made, tmp_path)
    frame = load_runs(str(tmp_path))
    assert frame["run"].tolist() == ["c", "a", "b"]
    assert frame["rank"].fillna(0).tolist() == [1, 2, 0]
    assert frame["is_complete"].tolist() == [True, True, False]
    assert frame["accuracy_low"].le(frame["accuracy"]).all()
    assert load_run(frame["folder"][0]).record.run == "c"
    (tmp_path / "a" / "predictions.jsonl").write_text("{}\n")
    with pytest.warns(UserWarning, match=r"passed over: .*a/predictions.jsonl: line 1") as caught:
        assert len(load_runs(tmp_path)) == 2
    assert caught[0].filename == __file__


def test_a_folder_without_runs_gives_an_empty_frame_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert len(load_runs(tmp_path)) == 0
    with pytest.raises(InputError, match="gone: no such folder"):
        load_runs(tmp_path / "gone")
