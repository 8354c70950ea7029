from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, answer
from tests.support.fakes import FakeLMM, LetterEncoder
from tests.support.file_server import running_file_server
from tests.support.made_runs import written
from tlac.cache.store import Store
from tlac.errors import MissingAnswersError
from tlac.evaluation.estimate import reprice
from tlac.evaluation.runner import Runner
from tlac.results.record import Run

BACKEND = "adapter: litellm\nmodel: m\nprices: {prompt: 100.0, completion: 1000.0}\n"


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(answer))
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    return Runner(store).run(SPEC, tmp_path / "runs")


def test_answers_are_priced_by_their_usage_each_once(run: Run, store: Store, tmp_path: Path) -> None:
    (tmp_path / "config" / "backends").mkdir(parents=True)
    (tmp_path / "config" / "backends" / "fake.yaml").write_text(BACKEND)
    found = reprice(run.folder, store)
    # FakeLMM said 10 prompt and 2 completion tokens, and 0.001 USD, for each of 9 + 2 distinct answers
    assert (found["answers"], found["then_usd"]) == (11, pytest.approx(0.011))
    assert found["now_usd"] == pytest.approx(11 * (10 * 100 + 2 * 1000) / 1e6)
    assert found["now_table"].startswith("litellm 1.")


def test_a_model_without_a_price_has_no_cost(run: Run, store: Store) -> None:
    assert reprice(run.folder, store)["now_usd"] is None


def test_answers_that_are_not_in_the_store_are_counted(run: Run, tmp_path: Path) -> None:
    with Store(tmp_path / "other") as other, pytest.raises(MissingAnswersError, match="11 of 11 answers"):
        reprice(run.folder, other)


def test_a_run_folder_has_nothing_fetched(run: Run, store: Store, tmp_path: Path) -> None:
    """Its backend may be named after an address by whoever made it."""
    with running_file_server() as server:
        backend = f"pack:{server.base}/answers.jsonl"
        reprice(written(replace(run, record=replace(run.record, backend=backend)), tmp_path / "strange"), store)
        assert server.ranges == []
