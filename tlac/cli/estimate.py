"""`tlac estimate`: what a run would take, and what the answers of finished runs would cost today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlac.cli.options import (
    PATH,
    SectionedCommand,
    StoredQuestion,
    batch_option,
    concurrency_option,
    json_option,
    limit_option,
    open_store,
    print_json,
    question_options,
    seed_option,
    store_option,
)
from tlac.errors import UsageError

if TYPE_CHECKING:
    from tlac.cache.store import Store
    from tlac.evaluation.estimate import Estimate, StageEstimate


@click.command(cls=SectionedCommand)
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@question_options
@limit_option
@seed_option
@concurrency_option
@batch_option
@store_option
@json_option
def estimate(  # noqa: PLR0913, PLR0917 - one parameter per option, or per section of them
    runs: tuple[Path, ...],
    question: StoredQuestion,
    limit: int | None,
    seed: int,
    concurrency: int | None,
    batch: bool,
    store: Path | None,
    as_json: bool,
) -> None:
    """Tell calls, tokens, cost and time of a run before it is started. Asks no LMM, needs no key.

    The more answers of that backend on that dataset are stored, the better it knows: run `tlac bench` with
    --limit 20 first.

    With RUN folders instead: what their answers would cost at today's prices, beside what they did cost. Today's
    prices are those of live calls, also for answers that came in batches. They come from the backend's file, or
    else from the table inside litellm, whose version is named.

    \b
    Examples:
      tlac estimate --backend gemini --dataset imagenet-samples
      tlac estimate --backend gpt-4o --dataset folder:my-photos --method slac --json
      tlac estimate --backend claude --dataset cifar100-samples --batch
      tlac estimate runs/20300101-120000-caltech101-gemini-tlac
    """
    if runs and (question.backend or question.dataset):
        raise UsageError("RUN folders are priced as they are: leave --backend and --dataset out, or the folders")
    if runs:
        with open_store(store, makes_one=False) as opened:
            _reprice(runs, opened, as_json)
        return
    from tlac.evaluation.estimate import estimate as estimate_run

    config = question.open(limit, seed)
    backend, _ = config.asked
    samples, dataset = list(config.samples), config.dataset
    in_flight = concurrency or backend.spec.limits.concurrency
    with open_store(store) as opened:
        found = estimate_run(config, samples, opened, in_flight, batch)
    if as_json:
        print_json({"backend": backend.name, "dataset": dataset.name, "n": len(samples), **asdict(found)})
        return
    click.echo(f"{backend.name} on {dataset.name}: {len(samples):,} samples, {config.method}")
    _print(found, f"with {in_flight} calls in flight", batch)


def _print(found: Estimate, speed: str, is_batch: bool) -> None:
    from tlac.runtime.formatting import dollars, duration

    for name, stage in (("stage 1", found.stage1), ("stage 2", found.stage2)):
        click.echo(f"{name}: {_stage_line(stage)}")
    click.echo(f"cost: {dollars(found.cost_usd, 'unknown: no price is known for this model')}")
    if is_batch and found.time_s:
        click.echo(f"time: at most {duration(found.time_s)}, a day for each stage; batches are often done much sooner")
    else:
        click.echo(f"time: about {duration(found.time_s)} {speed}")


def _stage_line(stage: StageEstimate) -> str:
    if not stage.calls:
        return f"no calls, {stage.stored:,} answers are stored"
    basis = f"learned from {stage.learned_from:,} stored answers" if stage.learned_from else "by rule of thumb"
    return (
        f"{stage.calls:,} calls, {stage.stored:,} answers are stored; about {stage.prompt_tokens:,} prompt and "
        f"{stage.completion_tokens:,} completion tokens, {basis}"
    )


def _reprice(runs: Sequence[Path], store: Store, as_json: bool) -> None:
    from tlac.analysis.reprice import reprice
    from tlac.runtime.formatting import dollars

    found = [reprice(run, store) for run in runs]
    if as_json:
        print_json({"runs": [asdict(one) for one in found]})
        return
    for one in found:
        click.echo(
            f"{one.run}: {one.answers:,} answers; cost when asked {dollars(one.then_usd)} (prices: {one.then_table}), "
            f"at today's prices {dollars(one.now_usd)} ({one.now_table})"
        )
