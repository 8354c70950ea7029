"""`tlac ablate`: a factorial of prompts, encoders, templates, matching, methods and class orders; what matters."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from tlac.cli import options
from tlac.cli.options import check_template, load_served, open_policy, open_store, print_json
from tlac.errors import IncompleteRunError, UnknownNameError, UsageError
from tlac.runtime.formatting import dollars, interval, percent

if TYPE_CHECKING:
    from tlac.analysis.ablation import Effect
    from tlac.cli.progress import LiveView
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.runner import Runner
    from tlac.results.record import Run

# what a backend file says of stage 2: a number held by a schema, a name in words, or a name held by a schema
_CHOICES: dict[str, dict[str, Any]] = {
    "index": {"choice_by_index": True, "names_in_schema": UNSET},
    "name": {"choice_by_index": False, "names_in_schema": UNSET},
    "schema": {"choice_by_index": True, "names_in_schema": True},
}


@click.command()
@click.option("--backend", required=True, help="LMM to ask.")
@click.option("--dataset", required=True, help="Dataset, or folder:PATH.")
@click.option("--prompts", multiple=True, default=("default",), show_default=True, help="Prompt set; may be repeated.")
@click.option(
    "--levels",
    multiple=True,
    metavar="FACTOR=LEVEL,...",
    help="Levels of a further factor: hints=0,30,30:spread, names in stage 1; choice=index,name,schema, of stage 2.",
)
@click.option("--encoder", "encoders", multiple=True, default=("clip-vit-b-16",), show_default=True, help="The same.")
@click.option(
    "--template", "templates", multiple=True, default=("a photo of a {}",), show_default=True, help="The same."
)
@click.option("--matching", "matchings", multiple=True, default=("ladder",), show_default=True, help="The same.")
@click.option("--method", "methods", multiple=True, default=("tlac",), show_default=True, help="The same.")
@click.option(
    "--shuffle-classes", "orders", multiple=True, type=int, metavar="SEED", help="Class order, beside its own."
)
@options.root_option
@options.limit_option
@options.seed_option
@options.max_cost_option
@options.offline_option
@options.store_option
@options.out_option
@options.json_option
def ablate(  # noqa: PLR0913, PLR0917 - one parameter per option
    backend: str,
    dataset: str,
    prompts: tuple[str, ...],
    levels: tuple[str, ...],
    encoders: tuple[str, ...],
    templates: tuple[str, ...],
    matchings: tuple[str, ...],
    methods: tuple[str, ...],
    orders: tuple[int, ...],
    root: Path | None,
    limit: int | None,
    seed: int,
    max_cost: float | None,
    offline: bool,
    store: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run every combination of prompts, encoders, templates, matching rules, methods, class orders and levels.

    Answers that are stored are not paid for again: encoders, templates and matching rules need no new ones. Each
    cell is a run of its own in --out. The table of effects says what each level does in place of the first one
    given, all else equal, with 95 % intervals. A sample whose call failed in any cell is left out of it, as `tlac
    compare` leaves it out; in a cell's own row it counts as wrong.

    \b
    Examples:
      tlac ablate --backend gemini --dataset dtd --prompts default --prompts name --method slac --method tlac
      tlac ablate --backend gemini --dataset caltech101 --levels hints=0,10,30 --levels choice=index,name
      tlac ablate --backend embedded --dataset imagenet-samples --encoder minilm --matching paper --matching ladder
    """

    from msgspec import structs

    from tlac.analysis.ablation import describe_cell, effects, is_compared
    from tlac.cli.progress import show_runs
    from tlac.config.prompts import load_prompts, with_hints
    from tlac.config.registry import open_dataset, open_method
    from tlac.config.schemas import load_dataset_config, load_encoder_config
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.runner import Runner
    from tlac.evaluation.suite_runner import describe_failures
    from tlac.results.record import summary

    asked = load_served(backend, store, offline)
    further = _read_levels(levels)
    config = replace(load_dataset_config(dataset, root), is_offline=offline)
    opened = open_dataset(config)
    for method in methods:
        open_method(method)
    configs = [
        RunConfig(
            asked,
            asked if not choice else replace(asked, spec=structs.replace(asked.spec, **_CHOICES[choice])),
            opened,
            method,
            load_encoder_config(encoder),
            load_prompts(with_hints(prompt_set, hints)),
            matching,
            template,
            limit,
            seed,
            order,
            aliases=config.spec.aliases,
        )
        # what needs new answers varies slowest
        for prompt_set in dict.fromkeys(prompts)
        for hints in further.get("hints", ("0",))
        for choice in further.get("choice", ("",))
        for method in dict.fromkeys(methods)
        for order in dict.fromkeys((None, *orders))
        for encoder in dict.fromkeys(encoders)
        for template in dict.fromkeys(map(check_template, templates))
        for matching in dict.fromkeys(matchings)
    ]
    with open_store(store) as answers:
        policy = open_policy(max_cost, has_view=not as_json)
        runner = Runner(answers, offline, policy)
        # a level that can't be had is known before those beside it are paid
        configs = list(map(runner.resolve, configs))
        with nullcontext() if as_json else show_runs(len(configs), max_cost, policy.activity) as view:
            runs = [_run(runner, one, out, view) for one in configs]
    found, compared = effects(runs), int(is_compared(runs).sum())
    if as_json:
        cells = [{**summary(run), **describe_cell(run)} for run in runs]
        print_json({"cells": cells, "compared": compared, "effects": [asdict(effect) for effect in found]})
    else:
        _print(runs, found, compared)
    if incomplete := [run for run in runs if not run.record.is_complete]:
        raise IncompleteRunError(
            f"{len(incomplete)} of {len(runs)} cells are incomplete ({describe_failures(incomplete[0])}); "
            "the same command asks for what is missing"
        )


def _read_levels(levels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Class names that stage 1 shows, and the form in which stage 2 chooses, by factor."""
    found = {}
    for given in levels:
        factor, _, names = given.partition("=")
        if factor not in ("hints", "choice"):
            raise UnknownNameError("factor of --levels", factor, ("hints", "choice"))
        found[factor] = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
        if factor == "choice" and not _CHOICES.keys() >= {*found[factor]}:
            raise UsageError(f"--levels {given}: such as hints=0,10,30 or choice=index,name,schema")
    return found


def _run(runner: Runner, spec: RunConfig, out: Path, view: LiveView | None) -> Run:
    from tlac.evaluation.collect import INTERRUPTED
    from tlac.evaluation.suite_runner import describe_failures

    order = "" if spec.shuffle_classes is None else f" order {spec.shuffle_classes}"
    title = f"{spec.method} {spec.prompts.name} {spec.encoder.name} {spec.matching}{order}"
    total = min(len(spec.dataset), spec.limit or len(spec.dataset))
    stopped = IncompleteRunError(f"stopped in {title}; the same command goes on from there")
    try:
        with view.cell(title, total) if view is not None else nullcontext() as progress:
            run = runner.run(spec, out, progress)
    except KeyboardInterrupt as interrupt:
        runner.finish()
        raise stopped from interrupt
    if run.record.stopped == INTERRUPTED:
        raise stopped
    # where asking has ended, or every call failed, the cells to come would fare no better
    if run.record.stopped or (run.metrics.failed and run.metrics.failed == run.metrics.n):
        raise IncompleteRunError(
            f"{title} is incomplete: {describe_failures(run)}; the same command asks for what is missing"
        )
    return run


def _print(runs: list[Run], found: list[Effect], compared: int) -> None:
    from tlac.analysis.ablation import describe_cell
    from tlac.cli.tables import print_table, print_truncations

    # a factor with one level would say the same in every row
    varied = list(dict.fromkeys(effect.factor for effect in found))
    cells = []
    for run in sorted(runs, key=lambda run: -(run.metrics.accuracy or 0.0)):
        described, metrics = describe_cell(run), run.metrics
        figures = (
            str(metrics.n),
            percent(metrics.accuracy),
            interval(metrics.accuracy_ci95, 0, "-"),
            percent(metrics.coverage),
            str(metrics.failed),
            dollars(run.record.cost_usd),
        )
        cells.append((*(described[factor] for factor in varied), *figures))
    print_table(varied, ("n", "top-1", "95 % CI", "cover", "failed", "cost"), cells)
    print_truncations(runs)
    if found:
        left_out = runs[0].metrics.n - compared
        click.echo()
        click.echo(
            f"effects on {compared:,} of {runs[0].metrics.n:,} samples"
            + (
                f"; left out: {left_out:,} with a failed call in one of the cells, or without a label"
                if left_out
                else ""
            )
        )
        print_table(("factor", "level"), ("mean top-1", "effect", "95 % CI", "cells"), map(_effect_row, found))


def _effect_row(effect: Effect) -> tuple[str, ...]:
    gap = effect.difference
    return (
        effect.factor if effect.against is None else "",
        effect.level,
        percent(effect.accuracy),
        f"{100 * gap.value:+.1f}" if gap else "-",
        f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}" if gap else "-",
        str(effect.cells),
    )
