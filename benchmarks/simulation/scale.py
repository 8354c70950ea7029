"""What 100 million images take: calls, tokens, money, days, bytes. Prints the tables of docs/scale.md."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulation.model import Cluster, Service, bounds, simulate

IMAGES = 100_000_000
CLASSES = 1000
# two names of three words each beside the class name, as in benchmarks/perf/workload.py
EXACT_SHARE, PHRASES_A_CLASS = 0.54, 2
# tokens as counted in benchmarks/perf/RESULTS.md: (224,467 for 100 + 46 calls, 454,813 for 100 + 100)
STAGE1_TOKENS, STAGE2_TOKENS, ANSWER_TOKENS = 282, 4266, 8
# measured by tests/benchmarks/test_simulation.py, which holds these figures against a real log, store and results file
LOG_BYTES, INDEX_BYTES, DATABASE_BYTES, RESULT_BYTES = 910, 16, 1120, 146
PROMPT_USD, COMPLETION_USD = 0.30, 2.50
_SIMULATED_CALLS = 40_000
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A service, a cluster, and whether first answers repeat (names) or never do (sentences)."""

    name: str
    service: Service
    cluster: Cluster
    repeats: bool
    is_paid_by_token: bool = True


SCENARIOS = (
    Scenario("10,000 requests a minute, names", Service(1.0, 0.5, 512, 10_000), Cluster(2), True),
    Scenario("10,000 requests a minute, sentences", Service(1.0, 0.5, 512, 10_000), Cluster(2), False),
    Scenario("30 M tokens a minute, names", Service(1.0, 0.5, 4096, 60_000, 30e6), Cluster(4), True),
    Scenario("30 M tokens a minute, sentences", Service(1.0, 0.5, 4096, 60_000, 30e6), Cluster(4), False),
    Scenario("own servers, 2,048 in flight, names", Service(2.0, 0.3, 2048), Cluster(4), True, False),
    Scenario("own servers, 2,048 in flight, sentences", Service(2.0, 0.3, 2048), Cluster(4), False, False),
)


def distinct_choices(images: int, classes: int, seed: int = 0) -> int:
    """How many stage-2 questions so many images leave: each class has its phrases, and a class name needs none."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable draw
    seen: set[tuple[int, int]] = set()
    for number in range(images):
        if chance.random() >= EXACT_SHARE:
            seen.add((number % classes, chance.randrange(PHRASES_A_CLASS)))
        if len(seen) == classes * PHRASES_A_CLASS:
            break
    return len(seen)


def reckon(scenario: Scenario) -> tuple[str, ...]:
    """A line of the table: some of the calls of each stage simulated, and their steady rate carried on to all."""
    choices = distinct_choices(IMAGES, CLASSES) if scenario.repeats else IMAGES
    seconds, rates = 0.0, []
    for calls, tokens in ((IMAGES, STAGE1_TOKENS), (choices, STAGE2_TOKENS)):
        found = simulate(scenario.service, scenario.cluster, min(calls, _SIMULATED_CALLS), tokens + ANSWER_TOKENS)
        rates.append(found.calls_a_second)
        seconds += calls / found.calls_a_second
    prompt_tokens = IMAGES * STAGE1_TOKENS + choices * STAGE2_TOKENS
    cost_usd = (prompt_tokens * PROMPT_USD + (IMAGES + choices) * ANSWER_TOKENS * COMPLETION_USD) / 1e6
    allowed = bounds(scenario.service, scenario.cluster, STAGE1_TOKENS + ANSWER_TOKENS)
    return (
        scenario.name,
        f"{scenario.cluster.workers}",
        f"{choices:,}",
        f"{prompt_tokens / 1e9:,.1f} G",
        f"{cost_usd:,.0f}" if scenario.is_paid_by_token else "",
        f"{rates[0]:,.0f}",
        f"{seconds / _SECONDS_A_DAY:.1f}",
        min(allowed, key=lambda name: allowed[name]),
    )


def time_table() -> str:
    """The scenarios, a line each, as Markdown."""
    head = "scenario|workers|stage-2 calls|prompt tokens|USD|stage-1 calls/s|days|breaks first"
    return _markdown(head.split("|"), [reckon(scenario) for scenario in SCENARIOS])


def storage_table() -> str:
    """What lies on disk after all images, as Markdown."""
    sizes = (
        ("answer logs, attached", LOG_BYTES, "kept: they are the store"),
        ("their index", INDEX_BYTES, "kept"),
        ("results as parquet", RESULT_BYTES, "kept"),
        ("the store's database", DATABASE_BYTES, "in place of the logs, after `tlac cache merge`"),
    )
    rows = [(name, f"{size:,}", f"{size * IMAGES / 1e9:,.0f} GB", until) for name, size, until in sizes]
    return _markdown(("what", "bytes an answer", "100 M answers", ""), rows)


def workers_table() -> str:
    """Calls a second with more and more workers and no rate limit, as Markdown."""
    rows, service = [], Service(1.0, 0.5, 16_384)
    for count in (1, 2, 4, 8, 16):
        cluster = Cluster(count)
        found = simulate(service, cluster, 4 * _SIMULATED_CALLS, STAGE1_TOKENS + ANSWER_TOKENS)
        allowed = bounds(service, cluster, STAGE1_TOKENS + ANSWER_TOKENS)
        rows.append((f"{count}", f"{found.calls_a_second:,.0f}", min(allowed, key=lambda name: allowed[name])))
    return _markdown(("workers", "calls/s", "what bounds it"), rows)


TABLES: dict[str, Callable[[], str]] = {"time": time_table, "storage": storage_table, "workers": workers_table}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
