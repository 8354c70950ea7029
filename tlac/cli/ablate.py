"""`tlac ablate`: a factorial of prompts, encoders, templates, matching, methods and class orders; what matters."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import check_template, json_option, open_store, print_json, store_option
from tlac.errors import IncompleteRunError

if TYPE_CHECKING:
    from tlac.analysis.ablation import Effect
    from tlac.cli.progress import LiveView
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.runner import Runner
    from tlac.results.record import Run


@click.command()
@click.option("--backend", required=True, help="LMM to ask.")
@click.option("--dataset", required=True, help="Dataset, or folder:PATH.")
@click.option("--prompts", multiple=True, default=("default",), show_default=True, help="Prompt set; may be repeated.")
@click.option("--encoder", "encoders", multiple=True, default=("clip-vit-b-16",), show_default=True, help="The same.")
@click.option(
    "--template", "templates", multiple=True, default=("a photo of a {}",), show_default=True, help="The same."
)
@click.option("--matching", "matchings", multiple=True, default=("ladder",), show_default=True, help="The same.")
@click.option("--method", "methods", multiple=True, default=("tlac",), show_default=True, help="The same.")
@click.option(
    "--shuffle-classes", "orders", multiple=True, type=int, metavar="SEED", help="Class order, beside its own."
)
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option("--limit", type=click.IntRange(min=1), help="Take this many samples, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Hard cap in USD for all cells together.")
@click.option("--offline", is_flag=True, help="Ask nobody: use stored answers alone.")
@store_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@json_option
def ablate(**given: Any) -> None:
    """Run every combination of prompts, encoders, templates, matching rules, methods and class orders.

    Answers that are stored are not paid for again: only prompts, methods and class orders can need new ones. Each
    cell is a run of its own in --out. The table of effects says what each level does in place of the first one
    given, all else equal, with 95 % intervals.

    \b
    Examples:
      tlac ablate --backend gemini --dataset dtd --prompts default --prompts name --method slac --method tlac
      tlac ablate --backend embedded --dataset imagenet-samples --encoder minilm --matching paper --matching ladder
    """
    from dataclasses import asdict

    from tlac.analysis.ablation import describe_cell, effects
    from tlac.cli.progress import show_runs
    from tlac.evaluation.runner import Runner
    from tlac.lmms.middleware.budget import Budget
    from tlac.lmms.middleware.stack import CallPolicy

    specs = _specs(given)
    budget = Budget(given["max_cost"]) if given["max_cost"] is not None else None
    with open_store(given["store"]) as store:
        runner = Runner(store, given["offline"], CallPolicy(budget))
        with nullcontext() if given["as_json"] else show_runs(len(specs), given["max_cost"]) as view:
            runs = [_run(runner, spec, given["out"], view) for spec in specs]
    found = effects(runs)
    if given["as_json"]:
        cells = [_document(run, describe_cell(run)) for run in runs]
        print_json({"cells": cells, "effects": [asdict(effect) for effect in found]})
    else:
        _print(runs, found)


def _specs(given: dict[str, Any]) -> list[RunConfig]:
    from dataclasses import replace

    from tlac.config.method_options import open_method
    from tlac.config.prompts import load_prompts
    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_backend, load_dataset_config, load_encoder_config
    from tlac.evaluation.run_config import RunConfig
    from tlac.scoring.matching import find_rule

    backend = load_backend(given["backend"])
    config = replace(load_dataset_config(given["dataset"], given["root"]), is_offline=given["offline"])
    dataset = open_dataset(config)
    for method in given["methods"]:
        open_method(method)
    # what needs new answers varies slowest
    asked = product(*map(dict.fromkeys, (given["prompts"], given["methods"], (None, *given["orders"]))))
    scored = map(dict.fromkeys, (given["encoders"], map(check_template, given["templates"]), given["matchings"]))
    cells = product(asked, product(*scored))
    return [
        RunConfig(
            backend,
            backend,
            dataset,
            method,
            load_encoder_config(encoder),
            load_prompts(prompts),
            find_rule(matching),
            template,
            given["limit"],
            given["seed"],
            order,
            aliases=config.spec.aliases,
        )
        for (prompts, method, order), (encoder, template, matching) in cells
    ]


def _run(runner: Runner, spec: RunConfig, out: Path, view: LiveView | None) -> Run:
    order = "" if spec.shuffle_classes is None else f" order {spec.shuffle_classes}"
    title = f"{spec.method} {spec.prompts.name} {spec.encoder.name} {spec.rule.name}{order}"
    total = min(len(spec.dataset), spec.limit or len(spec.dataset))
    try:
        with view.cell(title, total) if view is not None else nullcontext() as progress:
            run = runner.run(spec, out, progress, with_report=False)
    except KeyboardInterrupt as interrupt:
        runner.finish()
        raise IncompleteRunError(f"stopped in {title}; the same command goes on from there") from interrupt
    if not run.record.is_complete:
        raise IncompleteRunError(
            f"{title} is incomplete: {run.metrics.failed} of {run.metrics.n} samples failed; "
            "the same command asks for what is missing"
        )
    return run


def _document(run: Run, cell: dict[str, str]) -> dict[str, Any]:
    metrics, record = run.metrics, run.record
    return {
        **cell,
        "run": str(run.folder),
        "n": metrics.n,
        "accuracy": metrics.accuracy,
        "accuracy_ci95": metrics.accuracy_ci95,
        "cost_usd": record.cost_usd,
        "answers_cost_usd": record.answers_cost_usd,
    }


def _print(runs: list[Run], found: list[Effect]) -> None:
    from rich.console import Console

    from tlac.analysis.ablation import describe_cell
    from tlac.cli.tables import make_table

    # a factor with one level would say the same in every row
    varied = list(dict.fromkeys(effect.factor for effect in found))
    cells = make_table(varied, ("top-1", "95 % CI", "USD"))
    for run in sorted(runs, key=lambda run: -(run.metrics.accuracy or 0.0)):
        described, interval = describe_cell(run), run.metrics.accuracy_ci95
        cost = run.record.cost_usd
        cells.add_row(
            *(described[factor] for factor in varied),
            f"{100 * (run.metrics.accuracy or 0.0):.1f}",
            f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f}" if interval else "-",
            "?" if cost is None else f"{cost:.4f}",
        )
    table = make_table(("factor", "level"), ("mean top-1", "effect", "95 % CI", "cells"))
    for effect in found:
        gap = effect.difference
        table.add_row(
            effect.factor if effect.against is None else "",
            effect.level,
            f"{100 * effect.accuracy:.1f}",
            f"{100 * gap.value:+.1f}" if gap else "-",
            f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}" if gap else "-",
            str(effect.cells),
        )
    console = Console()
    console.print(cells)
    if found:
        console.print()
        console.print(table)
