from __future__ import annotations

import json


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


def test_a_wrong_name_is_one_line(tlac_command) -> None:
    shown = tlac_command("estimate", "--backend", "gemni", "--dataset", "cifar10-samples")
    assert (shown.code, shown.err.count("\n")) == (2, 1)


def test_batches_are_told_with_their_price(tlac_command) -> None:
    asked = ("estimate", "--backend", "gpt-4o", "--dataset", "cifar10-samples", "--limit", "5")
    costs = [json.loads(tlac_command(*asked, "--json", *more).out)["cost_usd"] for more in ((), ("--batch",))]
    assert costs[1] == costs[0] / 2
    assert "a day for each stage" in tlac_command(*asked, "--batch").out
