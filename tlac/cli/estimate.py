"""`tlac estimate`: what a run would take, and what the answers of finished runs would cost today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli import options
from tlac.cli.options import PATH, open_store, print_json
from tlac.errors import UsageError
from tlac.runtime.formatting import dollars, duration

if TYPE_CHECKING:
    from tlac.cache.store import Store
    from tlac.evaluation.estimate import Estimate, StageEstimate
    from tlac.evaluation.run_config import RunConfig


@click.command(cls=options.SectionedCommand)
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@options.selection_options
@options.matching_options
@options.concurrency_option
@options.budget_option
@options.batch_option
@options.store_option
@options.json_option
def estimate(  # noqa: PLR0913, PLR0917 - one parameter per option, or per section of them
    runs: tuple[Path, ...],
    what: options.RunSelection,
    scoring: options.MatchingOptions,
    concurrency: int | None,
    budget_per_image: float | None,
    batch: bool,
    store: Path | None,
    as_json: bool,
) -> None:
    """Tell calls, tokens, cost and time of a run before it is started. Asks no LMM, needs no key.

    It takes what `tlac bench` takes, for the methods slac, tlac, tlac-shortlist and tlac-cascade (clip asks nobody).
    The more answers of that backend on that dataset are stored, the better it knows: run `tlac bench` with --limit 20
    first.

    With RUN folders, or folders of them, instead: what their answers would cost at today's prices, beside what they
    did cost. Today's prices are those of live calls, also for answers that came in batches. They come from the
    backend's file, or else from the table inside litellm, whose version is named.

    \b
    Examples:
      tlac estimate --backend gemini --dataset imagenet-samples
      tlac estimate --backend gpt-4o --dataset folder:my-photos --method slac --json
      tlac estimate --backend claude --dataset cifar100-samples --batch
      tlac estimate --backend gemini --backend gpt-4o --suite base-to-novel --data ~/data
      tlac estimate runs/20300101-120000-caltech101-gemini-tlac
    """
    if runs and (what.backends or what.datasets or what.suites):
        raise UsageError(
            "RUN folders are priced as they are: leave --backend, --dataset and --suite out, or the folders"
        )
    if runs:
        with open_store(store, makes_one=False) as opened:
            _reprice(runs, opened, as_json)
        return
    from tlac.evaluation.estimate import estimate as estimate_run

    configs = _plan(what, scoring, store)
    with open_store(store) as opened:
        configs = [options.fit_budget(config, budget_per_image, opened, batch) for config in configs]
        found = [estimate_run(one, list(one.samples), opened, _in_flight(one, concurrency), batch) for one in configs]
    pairs = list(zip(configs, found, strict=True))
    if as_json:
        documents = [{**_describe(config), **asdict(estimated)} for config, estimated in pairs]
        total = {"runs": documents, "cost_usd": _total_usd(pairs)}
        print_json(documents[0] if len(documents) == 1 else total)
        return
    for config, estimated in pairs:
        one = _describe(config)
        click.echo(f"{one['backend']} on {one['dataset']}: {one['n']:,} samples, {one['method']}")
        print_estimate(estimated, f"with {_in_flight(config, concurrency)} calls in flight", batch)
    if len(pairs) > 1:
        total_usd = dollars(_total_usd(pairs), "unknown: no price is known for one of them")
        click.echo(f"all {len(pairs)} runs: {total_usd}; a first stage that runs share is counted once")


def _plan(what: options.RunSelection, scoring: options.MatchingOptions, store: Path | None) -> list[RunConfig]:
    from tlac.cli.bench import plan_runs
    from tlac.config.registry import base_name, open_dataset
    from tlac.config.schemas import load_dataset_config, load_suite
    from tlac.evaluation.estimate import ESTIMATED

    plan = plan_runs(what, [load_suite(name) for name in what.suites], store, asks_servers=False)
    if not plan.parts or not plan.backends:
        raise UsageError("name a --backend, and a --dataset or a --suite; or the folders of finished RUNs")
    asking = {method for _, _, _, methods in plan.parts for method in methods} - plan.without_lmm
    if unknown := sorted(method for method in asking if base_name(method) not in ESTIMATED):
        raise UsageError(
            f"an estimate knows what {', '.join(ESTIMATED)} ask, not {unknown[0]}: name one of these with --method"
        )
    make = scoring.config_maker(what.limit, what.seed)
    parts = list(dict.fromkeys((name, split, methods) for _, name, split, methods in plan.parts))
    opened = {
        (name, split): open_dataset(load_dataset_config(name, what.root, split, what.subset))
        for name, split, _ in parts
    }
    return [
        make(backend, plan.stage2_backend or backend, opened[name, split], method)
        for name, split, methods in parts
        for backend in plan.backends
        for method in methods
        if method not in plan.without_lmm
    ]


def _in_flight(config: RunConfig, concurrency: int | None) -> int:
    return concurrency or config.asked[0].spec.limits.concurrency


def _describe(config: RunConfig) -> dict[str, Any]:
    from tlac.results.record import describe_part

    dataset = config.dataset
    named = {"backend": config.asked[0].name, "dataset": describe_part(dataset.name, dataset.split)}
    return {**named, "method": config.method, "n": len(config.samples)}


def _total_usd(pairs: Sequence[tuple[RunConfig, Estimate]]) -> float | None:
    """What all runs cost together. Runs of one backend on the same images share their first stage."""
    total, shared = 0.0, set()
    for config, estimated in pairs:
        first = (config.asked[0].digest, config.dataset.name, config.dataset.split)
        for stage in (estimated.stage2,) if first in shared else (estimated.stage1, estimated.stage2):
            if stage.cost_usd is None:
                return None
            total += stage.cost_usd
        shared.add(first)
    return total


def print_estimate(found: Estimate, speed: str, is_batch: bool, *, err: bool = False) -> None:
    """Calls, tokens, cost and time in a line each."""

    for name, stage in (("stage 1", found.stage1), ("stage 2", found.stage2)):
        click.echo(f"{name}: {_stage_line(stage)}", err=err)
    click.echo(f"cost: {dollars(found.cost_usd, 'unknown: no price is known for this model')}", err=err)
    if is_batch and found.time_s:
        click.echo(
            f"time: at most {duration(found.time_s)}, a day for each stage; batches are often done much sooner", err=err
        )
    else:
        click.echo(f"time: about {duration(found.time_s)} {speed}", err=err)


def _stage_line(stage: StageEstimate) -> str:
    if not stage.calls:
        return f"no calls, {stage.stored:,} answers are stored"
    basis = f"learned from {stage.learned_from:,} stored answers" if stage.learned_from else "by rule of thumb"
    return (
        f"{stage.calls:,} calls, {stage.stored:,} answers are stored; about {stage.prompt_tokens:,} prompt and "
        f"{stage.completion_tokens:,} completion tokens, {basis}"
    )


def _reprice(runs: Sequence[Path], store: Store, as_json: bool) -> None:
    from tlac.evaluation.estimate import reprice
    from tlac.results.folder import list_runs

    found = [reprice(run, store) for run in list_runs(runs)]
    if as_json:
        print_json({"runs": found})
        return
    for one in found:
        click.echo(
            f"{one['run']}: {one['answers']:,} answers; cost when asked {dollars(one['then_usd'])} "
            f"(prices: {one['then_table']}), at today's prices {dollars(one['now_usd'])} ({one['now_table']})"
        )
