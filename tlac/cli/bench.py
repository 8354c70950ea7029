"""`tlac bench`: backends x datasets x methods, one run each, tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlac.cli import options
from tlac.cli.options import load_served, open_policy, open_store, print_json, say
from tlac.errors import UsageError

if TYPE_CHECKING:
    from tlac.config.schemas import Backend, Suite
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.suite_runner import Plan
    from tlac.interfaces import Dataset
    from tlac.results.record import Cell, Run


@click.command(cls=options.SectionedCommand)
@options.selection_options
@options.matching_options
@options.call_options
@options.store_option
@options.out_option
@click.option(
    "--order-trials",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Ask stage 2 again with K rotated class lists; tell how often its choice changes.",
)
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@click.option(
    "--log",
    "loggers",
    multiple=True,
    metavar="TRACKER",
    help="Also log runs to mlflow, trackio or wandb (extra of that name); may be repeated.",
)
@click.option("--open", "is_opened", is_flag=True, help="Open the report of each run in the browser.")
@options.json_option
def bench(  # noqa: PLR0913, PLR0917 - one parameter per option, or per section of them
    what: options.RunSelection,
    scoring: options.MatchingOptions,
    calls: options.CallOptions,
    store: Path | None,
    out: Path,
    order_trials: int,
    no_report: bool,
    loggers: tuple[str, ...],
    is_opened: bool,
    as_json: bool,
) -> None:
    """Run backends on datasets and measure them.

    Every answer is stored the moment it arrives: when a run is cut short, the same command goes on where
    it stopped. With --suite, cells that are complete in --out under the same settings are not run again.
    A cell that fails leaves the others as they are and is named at the end. So does an experiment tracker. Exit
    codes: 0 complete, 2 usage error, 3 incomplete, 4 answers missing under --offline.

    \b
    Examples:
      tlac bench --backend embedded --encoder minilm --dataset imagenet-samples
      tlac bench --backend gemini --backend claude --dataset cifar10-samples --method slac --method tlac
      tlac bench --backend gpt-4o --dataset folder:my-photos --limit 100 --json
      tlac bench --backend gemini --suite base-to-novel --data ~/data
      tlac bench --backend gemini --suite base-to-novel --split base --split novel --data ~/data
      tlac bench --method clip:templates=coop --dataset dtd --data ~/data
    """
    # here, not above: these import numpy
    from tlac.cli.progress import show_runs
    from tlac.config.schemas import load_encoder_config, load_suite
    from tlac.evaluation.reuse import Finished
    from tlac.evaluation.suite_runner import Matrix, raise_worst

    on_run = _listener(not no_report, loggers)
    suites = [load_suite(name) for name in what.suites]
    if not what.datasets and not suites:
        raise UsageError("nothing to run on: name a dataset with --dataset, or several with --suite samples")
    plan = plan_runs(what, suites, store, is_offline=calls.offline)
    make = scoring.config_maker(what.limit, what.seed)

    def make_config(backend: Backend | None, stage2: Backend | None, dataset: Dataset, method: str) -> RunConfig:
        config = options.fit_budget(make(backend, stage2, dataset, method), calls.budget_per_image, opened, calls.batch)
        # what asks no LMM shows it no list
        return replace(config, order_trials=order_trials) if backend else replace(config, shuffle_classes=None)

    with open_store(store) as opened:
        policy = open_policy(calls.max_cost, calls.concurrency, has_view=not as_json)
        matrix = Matrix(
            runner=calls.open_runner(opened, policy, bool(order_trials)),
            plan=plan,
            make_spec=make_config,
            encoder=load_encoder_config(scoring.encoder),
            out=out,
            finished=Finished(out) if suites else None,
            retry=calls.outcomes,
            show_runs=None if as_json else lambda cells: show_runs(cells, calls.max_cost, policy.activity),
            on_run=on_run,
            on_message=say,
        )
        matrix.check()
        cells = matrix.run()
    _show(cells, suites, as_json)
    if is_opened:
        for folder in dict.fromkeys(cell.run.folder for cell in cells if cell.run is not None):
            click.launch(str(folder / "report.html"))
    raise_worst(cells, say)


def _listener(has_report: bool, names: tuple[str, ...]) -> Callable[[Run, RunConfig], None]:
    """What is done with each finished run. Raises UnknownNameError, and ConfigError where a tracker isn't installed."""
    from tlac.config.registry import load_plugin

    # the thumbnails of the last run: a dataset's runs follow each other
    thumbnails: dict[tuple[str, int], bytes] = {}
    loggers = {name: load_plugin("tlac.loggers", name)() for name in dict.fromkeys(names)}

    def hear(run: Run, config: RunConfig) -> None:
        from tlac.report.run_page import write_report

        if has_report:
            # the dataset is read once more, for its thumbnails
            write_report(run, config.samples, thumbnails)
        for name, log in loggers.items():
            _log(name, log, run)

    return hear


def _log(name: str, log: Callable[[Run], None], run: Run) -> None:
    """Give a run to a tracker; whatever that does, the run is finished and stays as it is."""
    from tlac.runtime.redaction import redact

    try:
        # what trackers print is none of our results
        with redirect_stdout(sys.stderr):
            log(run)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code, when all is done
        say(f"{run.record.run}: not logged to {name}: {redact(str(error)) or type(error).__name__}")


def plan_runs(
    what: options.RunSelection,
    suites: list[Suite],
    store: Path | None,
    *,
    is_offline: bool = False,
    asks_servers: bool = True,
) -> Plan:
    """Which backends are asked about which datasets by which methods. Raises UsageError where a method lacks a backend.

    Backends as in `load_served`.
    """
    from tlac.config.registry import open_method
    from tlac.evaluation.suite_runner import Plan, plan_parts
    from tlac.interfaces import ImageMethod, combination_of

    parts = plan_parts(what.datasets, suites, what.splits, what.methods)
    opened = {method: open_method(method) for method in sorted({name for _, _, _, names in parts for name in names})}
    without_lmm = frozenset(name for name, method in opened.items() if isinstance(method, ImageMethod))
    if (asking := opened.keys() - without_lmm) and not what.backends:
        raise UsageError(f"the method {min(asking)} asks an LMM: name one, such as --backend embedded")
    load = partial(load_served, store=store, is_offline=is_offline, asks_server=asks_servers)
    return Plan(
        parts,
        tuple(map(load, what.backends)),
        load(what.stage2_backend) if what.stage2_backend else None,
        without_lmm,
        what.root,
        what.subset,
        frozenset(name for name, method in opened.items() if combination_of(method) == "vote"),
    )


def _show(cells: list[Cell], suites: list[Suite], as_json: bool) -> None:
    from tlac.cli.tables import harmonics, print_harmonics, print_runs, print_suite, suite_document
    from tlac.evaluation.suite_runner import failures_document
    from tlac.results.record import summary

    # a cell may stand in two suites
    found = {cell.run.folder: (cell.run, cell.is_reused) for cell in cells if cell.run is not None}
    if as_json:
        print_json(
            {
                "runs": [{**summary(run), "reused": is_reused} for run, is_reused in found.values()],
                "harmonic": harmonics(cells),
                "suites": [suite_document(suite, cells) for suite in suites],
                "failed": failures_document(cells),
            }
        )
        return
    if found:
        print_runs(
            [run for run, _ in found.values()], [folder for folder, (_, is_reused) in found.items() if is_reused]
        )
    print_harmonics(cells)
    for suite in suites:
        # published figures alone would look like a result
        if any(cell.run is not None and cell.suite == suite.name for cell in cells):
            print_suite(suite, cells)
