from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_an_estimate_needs_no_key_and_says_how_it_knows(tlac_command) -> None:
    shown = tlac_command("estimate", "--backend", "gemini", "--dataset", "cifar10-samples")
    assert shown.code == 0, shown.err
    assert "20 samples" in shown.out
    assert "stage 1: 20 calls, 0 answers are stored" in shown.out
    assert "by rule of thumb" in shown.out
    assert "cost: $0.0" in shown.out


def test_json_is_one_document(tlac_command) -> None:
    asked = ("estimate", "--backend", "embedded", "--dataset", "cifar10-samples", "--limit", "5", "--json")
    found = json.loads(tlac_command(*asked).out)
    assert (found["n"], found["stage1"]["calls"], found["cost_usd"]) == (5, 5, 0.0)


def test_an_estimate_takes_what_bench_takes_and_counts_a_shared_first_stage_once(tlac_command) -> None:
    asked = ("estimate", "--backend", "gpt-4o", "--suite", "samples", "--limit", "5")
    found = json.loads(tlac_command(*asked, "--json").out)
    assert [(run["dataset"], run["method"]) for run in found["runs"]] == [
        (dataset, method)
        for dataset in ("imagenet-samples", "cifar10-samples", "cifar100-samples")
        for method in ("slac", "tlac")
    ]
    expected = sum(run["cost_usd"] for run in found["runs"] if run["method"] == "tlac")
    assert found["cost_usd"] == pytest.approx(expected)
    assert "\nall 6 runs: $0.1" in tlac_command(*asked).out


def test_hints_are_a_longer_question_of_the_first_stage(tlac_command) -> None:
    asked = ("estimate", "--backend", "gpt-4o", "--dataset", "imagenet-samples", "--method", "slac", "--json")
    plain = json.loads(tlac_command(*asked).out)["stage1"]
    hinted = json.loads(tlac_command(*asked, "--hints", "300").out)["stage1"]
    assert hinted["calls"] == plain["calls"] == 20
    assert hinted["prompt_tokens"] > plain["prompt_tokens"] + 20 * 300
    spread = json.loads(tlac_command(*asked, "--hints", "300:spread", "--encoder", "minilm").out)["stage1"]
    assert spread["prompt_tokens"] == pytest.approx(hinted["prompt_tokens"], rel=0.02)


def test_answers_to_a_shuffled_class_list_count_as_stored_for_that_order_alone(tlac_command) -> None:
    asked = ("--backend", "embedded", "--encoder", "minilm", "--dataset", "imagenet-samples", "--limit", "6", "--json")
    assert tlac_command("bench", *asked, "--shuffle-classes", "1", "--no-report").code == 0
    orders = (("--shuffle-classes", "1"), ("--shuffle-classes", "2"), ())
    found = [json.loads(tlac_command("estimate", *asked, *order).out)["stage2"] for order in orders]
    assert [stage["stored"] > 0 for stage in found] == [True, False, False]
    assert [stage["calls"] > 0 for stage in found] == [False, True, True]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (("--backend", "gpt-4o"), "name a --backend, and a --dataset or a --suite"),
        (("--backend", "gpt-4o", "--dataset", "cifar10-samples", "--method", "vote"), "not vote"),
        (("--backend", "gpt-4o", "somewhere"), "leave --backend"),
    ],
)
def test_what_can_not_be_estimated_is_said(tlac_command, asked: tuple[str, ...], complaint: str) -> None:
    shown = tlac_command("estimate", *asked)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert complaint in shown.err


def test_a_wrong_name_is_one_line(tlac_command) -> None:
    shown = tlac_command("estimate", "--backend", "gemni", "--dataset", "cifar10-samples")
    assert (shown.code, shown.err.count("\n")) == (2, 1)


def test_batches_are_told_with_their_price(tlac_command) -> None:
    asked = ("estimate", "--backend", "gpt-4o", "--dataset", "cifar10-samples", "--limit", "5")
    costs = [json.loads(tlac_command(*asked, "--json", *more).out)["cost_usd"] for more in ((), ("--batch",))]
    assert costs[1] == costs[0] / 2
    assert "a day for each stage" in tlac_command(*asked, "--batch").out


BUDGET = ("--dataset", "imagenet-samples", "--method", "tlac-cascade", "--budget-per-image")


def test_a_budget_for_each_image_chooses_the_settings_and_says_which(tlac_command) -> None:
    asked = ("estimate", "--backend", "gpt-4o", "--hints", "30", *BUDGET)
    shown = tlac_command(*asked, "1", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["method"] == "tlac-cascade:relook=true,k=25"
    (line,) = shown.err.splitlines()
    assert line.startswith(
        "tlac: gpt-4o on imagenet-samples: tlac-cascade:relook=true,k=25; an image costs up to about $"
    )
    assert [part.split()[0] for part in line[line.index("(") + 1 :].split(", ")] == [
        "name",
        "describe",
        "choose",
        "look",
    ]
    small = tlac_command(*asked, "0.0001")
    assert (small.code, small.err.count("\n")) == (2, 1)
    assert "raise it, or ask once, with --method slac" in small.err
    unpriced = tlac_command("estimate", "--backend", "openai-compatible", *BUDGET, "1")
    assert (unpriced.code, unpriced.err.count("\n")) == (2, 1)
    assert "no price is known" in unpriced.err


def test_a_run_under_a_budget_says_so_in_its_record(tlac_command, tmp_path: Path) -> None:
    bench = ("bench", "--backend", "embedded", "--encoder", "minilm", "--hints", "4", "--limit", "1", *BUDGET, "0")
    shown = tlac_command(*bench, "--json")
    assert shown.code == 0, shown.err
    (run,) = json.loads(shown.out)["runs"]
    record = json.loads((tmp_path / "here" / run["run"] / "run.json").read_text())
    assert record["method"] == "tlac-cascade:relook=true,k=25"
    assert record["budget_per_image"] == {"budget": 0, "name": 0, "describe": 0, "choose": 0, "look": 0}
    other = tlac_command(*bench, "--method", "tlac")
    assert (other.code, "chooses k and relook of tlac-cascade, and not those of tlac" in other.err) == (2, True)


def test_workers_that_put_stage_2_off_ask_nothing_that_hangs_on_it(tlac_command) -> None:
    asked = ("bench", "--backend", "embedded", "--encoder", "minilm", "--dataset", "imagenet-samples", "--limit", "1")
    shown = tlac_command(*asked, "--engine", "ray", "--method", "tlac-cascade:relook=true")
    assert shown.code == 2
    assert (
        "--engine ray puts stage 2 off, and tlac-cascade:relook=true goes by what it says" in shown.err.splitlines()[-1]
    )
