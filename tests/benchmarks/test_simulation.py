"""docs/scale.md holds what the simulation prints, and the simulation what runs show."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulation.check import TOLERANCE, compare
from benchmarks.simulation.model import Cluster, Service, bounds, simulate
from benchmarks.simulation.scale import DATABASE_BYTES, INDEX_BYTES, LOG_BYTES, RESULT_BYTES, TABLES, distinct_choices
from tests.support.fake_answers import attach
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Limits, load_backend
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.types import Image, LMMRequest, LMMResponse, Outcome, Transcript, Turn, Usage

ROOT = Path(__file__).parents[2]
ALONE = Cluster(workers=1, cpu_s=0.0, limiter_s=0.0)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_holds_the_table_that_is_printed(name: str) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    held = re.search(rf"<!-- make simulate: {name} -->\n\n((?:\|.*\n)+)", page)
    assert held is not None
    assert held[1].strip() == TABLES[name](), "run `make simulate` and put its table into docs/scale.md"


@pytest.mark.parametrize(
    "service",
    [
        Service(1.0, 0.5, 16),
        Service(1.0, 0.5, 64, requests_a_minute=600),
        Service(0.5, 1.0, 8, requests_a_minute=900),
    ],
)
def test_the_model_takes_as_long_as_tlac_s_own_limiter_in_virtual_time(service: Service) -> None:
    calls = 1000
    latencies = iter(np.random.default_rng(3).lognormal(np.log(service.median_s), service.sigma, calls).tolist())

    class Slow:
        async def ask(self, _request: LMMRequest) -> LMMResponse:
            await asyncio.sleep(next(latencies))
            return LMMResponse(Outcome.ANSWERED, "a dog")

    async def ask_all() -> float:
        limits = Limits(concurrency=service.in_flight, requests_per_minute=service.requests_a_minute)
        lmm = LimitedLMM(Slow(), limits, CallPolicy(clock=virtual_clock()))
        await asyncio.gather(*(lmm.ask(LMMRequest("stage1", "any", ())) for _ in range(calls)))
        return now_s()

    predicted = simulate(service, ALONE, calls, 0.0, seed=3).wall_s
    assert run_virtual(ask_all()) == pytest.approx(predicted, rel=0.02)


def test_the_model_foretells_a_measured_run() -> None:
    found = asyncio.run(compare(Service(0.2, 0.3, 8, requests_a_minute=2400), 80))
    # a busy machine makes a run longer, never shorter
    assert -TOLERANCE < found.deviation < 1.0


def test_what_breaks_first_bounds_the_rate() -> None:
    for service, cluster in [
        (Service(1.0, 0.5, 64), Cluster(8)),
        (Service(1.0, 0.5, 4096, 6000), Cluster(8)),
        (Service(1.0, 0.5, 4096), Cluster(1)),
        (Service(1.0, 0.5, 4096), Cluster(64)),
    ]:
        rate = simulate(service, cluster, 20_000, 290).calls_a_second
        assert rate == pytest.approx(min(bounds(service, cluster, 290).values()), rel=0.05)


def test_answers_that_repeat_leave_a_bounded_number_of_choices() -> None:
    assert distinct_choices(1000, 1000) <= 1000
    assert distinct_choices(10**6, 1000) == distinct_choices(10**8, 1000) == 2000


def test_bytes_an_answer_are_those_of_real_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from tlac.engines.ray.logs import AnswerLog
    from tlac.engines.ray.tables import turns_table

    answers = [_answer(number) for number in range(3000)]
    log = AnswerLog(tmp_path / "a.jsonl")
    asyncio.run(log.keep(answers[0]))
    asyncio.run(log.close())
    with Store(tmp_path / "store") as store:
        store.put_entries(answers)
    database_bytes = sum(path.stat().st_size for path in (tmp_path / "store" / "responses").iterdir())
    with Store(tmp_path / "other") as store:
        pack = attach(store, answers)
    transcripts = [
        Transcript(f"{n:08d}.jpg", _digest(n), n % 1000, Turn("stage1", answer.key, answer.response))
        for n, answer in enumerate(answers)
    ]
    table = turns_table(range(len(answers)), transcripts, {})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert (tmp_path / "a.jsonl").stat().st_size == pytest.approx(LOG_BYTES, rel=0.1)
    assert database_bytes / len(answers) == pytest.approx(DATABASE_BYTES, rel=0.1)
    assert (pack / "0.jsonl").stat().st_size / len(answers) == pytest.approx(LOG_BYTES, rel=0.1)
    assert (pack / "index").stat().st_size / len(answers) == pytest.approx(INDEX_BYTES, rel=0.1)
    assert (tmp_path / "t.parquet").stat().st_size / len(answers) == pytest.approx(RESULT_BYTES, rel=0.1)


def _digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _answer(number: int) -> StoredAnswer:
    backend = load_backend("gemini")
    messages = load_prompts("name").stage1_messages(Image(_digest(number), b""), "default")
    request = LMMRequest("stage1", backend.spec.model, messages, backend.spec.params, preparation=backend.spec.image)
    response = LMMResponse(
        Outcome.ANSWERED,
        "an Irish wolfhound",
        model_version="gemini-2.5-flash",
        usage=Usage(282, 8),
        cost_usd=0.0001,
        latency_s=1.234567,
        created_at="2030-01-01T00:00:00+00:00",
    )
    return StoredAnswer.of(request, response, backend.name)
