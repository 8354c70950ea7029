"""`tlac estimate`: what a run would take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import json_option, matching_option, open_store, print_json, prompts_option, store_option

if TYPE_CHECKING:
    from tlac.evaluation.estimate import StageEstimate


@click.command()
@click.option("--backend", required=True, help="LMM that would be asked.")
@click.option("--dataset", required=True, help="Dataset, or folder:PATH.")
@click.option("--method", default="tlac", show_default=True, help="slac or tlac.")
@prompts_option
@matching_option
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option("--limit", type=click.IntRange(min=1), help="As in tlac bench.")
@click.option("--seed", default=0, show_default=True, help="As in tlac bench.")
@click.option("--concurrency", type=click.IntRange(min=1), help="As in tlac bench.  [default: the backend's own]")
@click.option("--batch", is_flag=True, help="Through the provider's batch interface, at its price.")
@store_option
@json_option
def estimate(store: Path | None, as_json: bool, **given: Any) -> None:
    """Tell calls, tokens, cost and time of a run before it is started. Asks no LMM, needs no key.

    The more answers of that backend on that dataset are stored, the better it knows: run `tlac bench` with
    --limit 20 first.

    \b
    Examples:
      tlac estimate --backend gemini --dataset imagenet-samples
      tlac estimate --backend gpt-4o --dataset folder:my-photos --method slac --json
      tlac estimate --backend claude --dataset cifar100-samples --batch
    """
    from dataclasses import asdict

    from tlac.cli.options import read_inquiry
    from tlac.evaluation.estimate import estimate as reckon
    from tlac.evaluation.run_config import choose_samples

    inquiry, dataset = read_inquiry(given)
    samples = list(choose_samples(dataset, given["limit"], given["seed"]))
    concurrency = given["concurrency"] or inquiry.backend.spec.limits.concurrency
    with open_store(store) as opened:
        found = reckon(inquiry, dataset, samples, opened, concurrency, given["batch"])
    if as_json:
        print_json({"backend": inquiry.backend.name, "dataset": dataset.name, "n": len(samples), **asdict(found)})
        return
    click.echo(f"{inquiry.backend.name} on {dataset.name}: {len(samples):,} samples, {inquiry.method}")
    for name, stage in (("stage 1", found.stage1), ("stage 2", found.stage2)):
        click.echo(f"{name}: {_stage_line(stage)}")
    cost = "unknown: no price is known for this model" if found.cost_usd is None else f"${found.cost_usd:.4f}"
    click.echo(f"cost: {cost}")
    if given["batch"] and found.time_s:
        click.echo(f"time: at most {_duration(found.time_s)}, a day for each stage; batches are often done much sooner")
    else:
        click.echo(f"time: about {_duration(found.time_s)} with {concurrency} calls in flight")


def _stage_line(stage: StageEstimate) -> str:
    if not stage.calls:
        return f"no calls, {stage.stored:,} answers are stored"
    basis = f"learned from {stage.learned_from:,} stored answers" if stage.learned_from else "by rule of thumb"
    return (
        f"{stage.calls:,} calls, {stage.stored:,} answers are stored; about {stage.prompt_tokens:,} prompt and "
        f"{stage.completion_tokens:,} completion tokens, {basis}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
