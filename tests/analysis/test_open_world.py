from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.fakes import LetterEncoder
from tlac.analysis.open_world import find_concepts, measure_open_world
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome, Prediction

PACK = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"


def predictions(*rows: tuple[int | None, str | None]) -> Predictions:
    without = Prediction("", None, None, Outcome.REFUSED, None, None, None, None, None, None, (), None, None)
    return Predictions.of(
        replace(
            without,
            sample=f"{place}.png",
            label=label,
            answer=answer,
            outcome=Outcome.REFUSED if answer is None else Outcome.ANSWERED,
        )
        for place, (label, answer) in enumerate(rows)
    )


def cosine(one: str, other: str) -> float:
    a, b = LetterEncoder().encode([one, other]).vectors.astype(float)
    return float(np.dot(a, b))


def test_concepts_are_what_stands_between_punctuation_and_function_words() -> None:
    assert find_concepts("The image shows a grey cat on a red mat, near two old books.") == [
        "grey cat",
        "red mat",
        "two old books",
    ]
    assert find_concepts("of the") == []


def test_means_are_over_labelled_samples_and_a_refusal_counts_as_nothing() -> None:
    found = measure_open_world(
        predictions((0, "A Grey Cat on a mat"), (1, "a mat"), (1, None), (None, "an owl")),
        ("grey_cat", "owl"),
        LetterEncoder().encode,
    )
    assert found is not None
    assert (found["n"], found["text_inclusion"]) == (3, pytest.approx(1 / 3))
    whole = cosine("A Grey Cat on a mat", "grey cat") + cosine("a mat", "owl")
    assert found["semantic_similarity"] == pytest.approx(whole / 3)
    best = max(cosine("Grey Cat", "grey cat"), cosine("mat", "grey cat")) + cosine("mat", "owl")
    assert found["concept_similarity"] == pytest.approx(best / 3)


def test_what_was_cut_short_is_no_answer_and_a_run_that_failed_has_no_figure() -> None:
    cut, failed = (
        Prediction(f"{one}.png", None, 0, one, text, None, None, None, None, None, (), "1" * 64, None)
        for one, text in ((Outcome.TRUNCATED, "a cat on a"), (Outcome.FAILED, None))
    )
    whole = next(iter(predictions((0, "a cat"))))
    found = measure_open_world(Predictions.of([whole, cut, failed]), ("cat", "dog"), LetterEncoder().encode)
    assert found is not None
    assert (found["n"], found["answered"], found["text_inclusion"]) == (3, 1, pytest.approx(1 / 3))
    assert measure_open_world(Predictions.of([failed]), ("cat", "dog"), LetterEncoder().encode) is None


def test_equal_answers_count_as_often_as_they_were_given() -> None:
    once = measure_open_world(predictions((0, "cat"), (0, "dog")), ("cat", "dog"), LetterEncoder().encode)
    often = measure_open_world(
        predictions((0, "cat"), (0, "dog"), (0, "cat"), (0, "dog")), ("cat", "dog"), LetterEncoder().encode
    )
    assert once is not None
    assert often is not None
    assert (often["n"], often["text_inclusion"]) == (4, once["text_inclusion"])
    assert often["semantic_similarity"] == pytest.approx(once["semantic_similarity"])


def test_nothing_is_measured_without_labels_and_no_answer_at_all_is_0() -> None:
    assert measure_open_world(predictions((None, "cat")), ("cat", "dog"), LetterEncoder().encode) is None
    nothing = measure_open_world(predictions((0, None)), ("cat", "dog"), LetterEncoder().encode)
    assert nothing is not None
    assert (nothing["text_inclusion"], nothing["semantic_similarity"], nothing["concept_similarity"]) == (0, 0, 0)


def test_the_command_measures_a_run_and_writes_none(tlac_command, tmp_path: Path) -> None:
    asked = ("--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    (run,) = json.loads(tlac_command("bench", *asked, "--method", "slac", "--no-report").out)["runs"]
    shown = tlac_command("score", run["run"], "--open-world", "--json")
    assert shown.code == 0, shown.err
    (found,) = json.loads(shown.out)["runs"]
    assert (found["n"], found["encoder"]) == (20, "minilm")
    assert 0.4 < found["semantic_similarity"] < found["concept_similarity"] < 1
    assert len(list(Path(run["run"]).parent.iterdir())) == 1
    table = tlac_command("score", run["run"], "--open-world").out
    assert "text inclusion" in table
    refused = tlac_command("score", run["run"], "--open-world", "--matching", "paper")
    assert (refused.code, "goes with --encoder alone" in refused.err) == (2, True)
