"""`tlac bench`: backends x datasets x methods, one run each, a table at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import (
    check_template,
    encoder_option,
    json_option,
    matching_option,
    open_store,
    print_json,
    prompts_option,
    store_option,
    template_option,
)
from tlac.errors import IncompleteRunError, TlacError

if TYPE_CHECKING:
    from tlac.bench import Bench, RunSpec
    from tlac.calls.surround import Care
    from tlac.runs import Run


@dataclass(frozen=True, slots=True)
class _Cell:
    """One run of the matrix, and how it ended."""

    title: str
    run: Run | None
    error: TlacError | None


@click.command()
@click.option("--backend", "backends", multiple=True, required=True, help="LMM to ask; may be given several times.")
@click.option("--stage2-backend", help="LMM of the second stage.  [default: that of the first]")
@click.option("--dataset", "datasets", multiple=True, required=True, help="Dataset, or folder:PATH; may be repeated.")
@click.option("--method", "methods", multiple=True, default=("tlac",), show_default=True, help="slac or tlac.")
@encoder_option
@prompts_option
@matching_option
@template_option
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option("--split", default="all", show_default=True, help="Classes: all, base or novel.")
@click.option("--limit", type=click.IntRange(min=1), help="Take this many samples, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Samples in flight.  [default: the backend's own]")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Hard cap in USD for all runs of this command.")
@click.option("--retry", type=click.Choice(["refused", "empty", "truncated"]), multiple=True, help="Ask these again.")
@click.option("--offline", is_flag=True, help="Ask nobody: use stored answers alone.")
@store_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@json_option
def bench(**given: Any) -> None:
    """Run backends on datasets and measure them.

    Every answer is stored the moment it arrives: when a run is cut short, the same command goes on where
    it stopped. Exit codes: 0 complete, 2 wrong use, 3 incomplete, 4 answers missing under --offline.

    \b
    Examples:
      tlac bench --backend embedded --encoder minilm --dataset imagenet-samples
      tlac bench --backend gemini --backend claude --dataset cifar10-samples --method slac --method tlac
      tlac bench --backend gpt-4o --dataset folder:my-photos --limit 100 --json
    """
    # here, not above: these import numpy
    from tlac.bench import Bench
    from tlac.cli.tables import print_runs
    from tlac.runs import summary

    specs = _specs(given)
    with open_store(given["store"]) as store:
        runner = Bench(store, given["offline"], _care(given), _outcomes(given["retry"]))
        for spec in specs:
            # a missing key is known before the first run starts
            runner.respondent(spec.backend)
            runner.respondent(spec.stage2_backend)
        cells = [_run_cell(runner, spec, given) for spec in specs]
    runs = [cell.run for cell in cells if cell.run is not None]
    if given["as_json"]:
        print_json({"runs": [summary(run) for run in runs]})
    elif runs:
        print_runs(runs)
    _raise_worst(cells)


def _specs(given: dict[str, Any]) -> list[RunSpec]:
    from tlac.bench import RunSpec
    from tlac.config import load_backend, load_dataset_config, load_encoder_config
    from tlac.matching import find_rule
    from tlac.prompts import load_prompts
    from tlac.registry import load_plugin, open_dataset

    backends = [load_backend(name) for name in given["backends"]]
    stage2 = load_backend(given["stage2_backend"]) if given["stage2_backend"] else None
    for method in given["methods"]:
        load_plugin("tlac.methods", method)
    encoder = load_encoder_config(given["encoder"])
    prompts = load_prompts(given["prompts"])
    rule = find_rule(given["matching"])
    template = check_template(given["template"])
    datasets = [open_dataset(load_dataset_config(name, given["root"], given["split"])) for name in given["datasets"]]
    return [
        RunSpec(
            backend, stage2 or backend, dataset, method, encoder, prompts, rule, template, given["limit"], given["seed"]
        )
        for dataset in datasets
        for backend in backends
        for method in given["methods"]
    ]


def _care(given: dict[str, Any]) -> Care:
    from tlac.calls.budget import Budget
    from tlac.calls.surround import Care

    budget = Budget(given["max_cost"]) if given["max_cost"] is not None else None
    return Care(budget, given["concurrency"], say=lambda text: click.echo(f"tlac: {text}", err=True))


def _outcomes(names: tuple[str, ...]) -> list[Any]:
    from tlac.types import Outcome

    return [Outcome(name) for name in names]


def _run_cell(runner: Bench, spec: RunSpec, given: dict[str, Any]) -> _Cell:
    from tlac.cli.progress import show_progress

    title = f"{spec.dataset.name} {spec.backend.name} {spec.method}"
    total = min(len(spec.dataset), spec.limit or len(spec.dataset))
    try:
        with show_progress(title, total, given["as_json"]) as progress:
            run = runner.run(spec, given["out"], progress, not given["no_report"])
    except KeyboardInterrupt as interrupt:
        click.echo("tlac: stopping; waiting for the calls in flight (Ctrl-C again gives them up)", err=True)
        runner.finish()
        raise IncompleteRunError(
            f"stopped in {title}; every answer so far is stored, and the same command goes on from there"
        ) from interrupt
    except TlacError as error:
        return _Cell(title, None, error)
    return _Cell(title, run, None)


def _raise_worst(cells: list[_Cell]) -> None:
    """Say what went wrong in each cell, and raise the last so that its exit code is the command's."""
    errors = [_complaint(cell) for cell in cells]
    found = [error for error in errors if error is not None]
    for error in found[:-1]:
        click.echo(f"tlac: {error}", err=True)
    if found:
        raise found[-1]


def _complaint(cell: _Cell) -> TlacError | None:
    if cell.error is not None or cell.run is None:
        return cell.error
    record, metrics = cell.run.record, cell.run.metrics
    if record.is_complete:
        return None
    first = next(prediction for prediction in cell.run.predictions if prediction.outcome == "failed")
    reason = record.stopped or f"{first.sample}: {first.reason}"
    return IncompleteRunError(
        f"{cell.title} is incomplete: {metrics.failed} of {metrics.n} samples failed ({reason}); "
        "the same command asks for what is missing"
    )
