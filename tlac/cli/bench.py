"""`tlac bench`: backends x datasets x methods, one run each, tables at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import (
    check_template,
    encoder_option,
    engine_options,
    json_option,
    matching_option,
    open_engine,
    open_store,
    print_json,
    prompts_option,
    store_option,
    template_option,
)
from tlac.errors import UsageError

if TYPE_CHECKING:
    from tlac.analysis.suite_table import Cell
    from tlac.config.schemas import Backend
    from tlac.config.suites import Suite
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.runner import Runner
    from tlac.evaluation.suite_runner import Matrix, Plan
    from tlac.interfaces import Dataset
    from tlac.lmms.middleware.stack import CallPolicy


@click.command()
@click.option("--backend", "backends", multiple=True, help="LMM to ask; may be given several times.")
@click.option("--stage2-backend", help="LMM of the second stage.  [default: that of the first]")
@click.option(
    "--dataset", "datasets", multiple=True, help="Dataset, or folder:PATH, csv:FILE, hf:REPO; may be repeated."
)
@click.option("--suite", "suites", multiple=True, help="Suite of datasets; gives split and methods too.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="slac, tlac, tlac-shortlist, tlac-relook, slac-fused, vote or clip, with options as in tlac-shortlist:k=40; "
    "may be repeated.  [default: tlac, or the suite's]",
)
@click.option(
    "--relook-below",
    type=click.FloatRange(0, 1),
    help="Show tlac-relook the image again where the lead of the nearest name is smaller.  [default: 0.5]",
)
@click.option("--abstain-below", type=click.FloatRange(0, 1), help="Give no class where confidence is lower.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Confidence as `tlac calibrate` learnt it from other runs."
)
@click.option("--aliases", type=click.Path(path_type=Path), help="YAML file of further names: class: [name, ...].")
@encoder_option
@prompts_option
@matching_option
@template_option
@click.option(
    "--clip-templates",
    type=click.Choice(["paper", "coop", "imagenet"]),
    default="paper",
    show_default=True,
    help="Templates of --method clip: --template alone, CoOp's for the dataset, or the 80 of ImageNet.",
)
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Classes: all, base or novel; base and novel together give H.  [default: all, or the suite's]",
)
@click.option(
    "--subset", type=click.Choice(["test", "val", "train"]), default="test", show_default=True, help="Images."
)
@click.option("--limit", type=click.IntRange(min=1), help="Take this many samples, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
@click.option("--shuffle-classes", type=int, metavar="SEED", help="Show stage 2 the class names in a shuffled order.")
@click.option(
    "--order-trials",
    type=click.IntRange(min=0),
    default=0,
    metavar="K",
    help="Ask stage 2 again with K rotated class lists; tell how often its choice changes.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Calls in flight.  [default: the backend's own]")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Hard cap in USD for all runs of this command.")
@engine_options
@click.option("--retry", type=click.Choice(["refused", "empty", "truncated"]), multiple=True, help="Ask these again.")
@click.option("--offline", is_flag=True, help="Ask nobody: use stored answers alone.")
@store_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@json_option
def bench(**given: Any) -> None:
    """Run backends on datasets and measure them.

    Every answer is stored the moment it arrives: when a run is cut short, the same command goes on where
    it stopped. With --suite, cells that are complete in --out under the same settings are not run again.
    A cell that fails leaves the others as they are and is named at the end. Exit codes: 0 complete, 2 wrong
    use, 3 incomplete, 4 answers missing under --offline.

    \b
    Examples:
      tlac bench --backend embedded --encoder minilm --dataset imagenet-samples
      tlac bench --backend gemini --backend claude --dataset cifar10-samples --method slac --method tlac
      tlac bench --backend gpt-4o --dataset folder:my-photos --limit 100 --json
      tlac bench --backend gemini --suite base-to-novel --data ~/data
      tlac bench --backend gemini --suite base-to-novel --split base --split novel --data ~/data
      tlac bench --method clip --clip-templates coop --dataset dtd --data ~/data
    """
    # here, not above: these import numpy
    from tlac.config.suites import load_suite
    from tlac.evaluation.runner import Runner
    from tlac.evaluation.suite_runner import raise_worst

    suites = [load_suite(name) for name in given["suites"]]
    if not given["datasets"] and not suites:
        raise UsageError("nothing to run on: name a dataset with --dataset, or several with --suite samples")
    plan = _plan(given, suites)
    with open_store(given["store"]) as store:
        policy = _policy(given)
        engine = open_engine(given, store, policy)
        runner = Runner(store, given["offline"], policy, _outcomes(given["retry"]), engine)
        matrix = _matrix(given, runner, plan)
        matrix.check()
        cells = matrix.run()
    _show(cells, suites, given["as_json"])
    raise_worst(cells)


def _plan(given: dict[str, Any], suites: list[Suite]) -> Plan:
    from tlac.config.method_options import combination_of, open_method, with_option
    from tlac.config.schemas import load_backend
    from tlac.evaluation.suite_runner import Plan, plan_parts
    from tlac.methods.base import ImageMethod

    wanted = given["methods"]
    if given["relook_below"] is not None:
        wanted = tuple(with_option(method, "relook_below", given["relook_below"]) for method in wanted)
    parts = plan_parts(given["datasets"], suites, given["splits"], wanted)
    methods = {method for _, _, _, names in parts for method in names}
    loaded = {method: open_method(method) for method in sorted(methods)}
    without_lmm = frozenset(name for name, method in loaded.items() if isinstance(method, ImageMethod))
    if methods - without_lmm and not given["backends"]:
        raise UsageError(f"the method {min(methods - without_lmm)} asks an LMM: name one, such as --backend embedded")
    stage2 = load_backend(given["stage2_backend"]) if given["stage2_backend"] else None
    backends = tuple(load_backend(name) for name in given["backends"])
    together = frozenset(name for name, method in loaded.items() if combination_of(method) == "vote")
    return Plan(parts, backends, stage2, without_lmm, given["root"], given["subset"], together)


def _matrix(given: dict[str, Any], runner: Runner, plan: Plan) -> Matrix:
    from tlac.cli.progress import show_runs
    from tlac.config.prompts import load_prompts
    from tlac.config.schemas import load_encoder_config
    from tlac.evaluation.reuse import Finished
    from tlac.evaluation.run_config import RunConfig
    from tlac.evaluation.suite_runner import Matrix
    from tlac.scoring.confidence import read_calibration
    from tlac.scoring.matching import find_rule, read_aliases

    encoder, prompts = load_encoder_config(given["encoder"]), load_prompts(given["prompts"])
    rule, template = find_rule(given["matching"]), check_template(given["template"])
    aliases = read_aliases(given["aliases"]) if given["aliases"] else {}
    calibration = read_calibration(given["calibration"]) if given["calibration"] else None

    def make_spec(backend: Backend | None, stage2: Backend | None, dataset: Dataset, method: str) -> RunConfig:
        return RunConfig(
            backend,
            stage2,
            dataset,
            method,
            encoder,
            prompts,
            rule,
            template,
            given["limit"],
            given["seed"],
            given["shuffle_classes"] if backend else None,
            given["order_trials"] if backend else 0,
            given["clip_templates"],
            aliases=aliases,
            abstain_below=given["abstain_below"],
            calibration=calibration,
        )

    return Matrix(
        runner=runner,
        plan=plan,
        make_spec=make_spec,
        encoder=encoder,
        out=given["out"],
        finished=Finished(given["out"]) if given["suites"] else None,
        retry=_outcomes(given["retry"]),
        show_runs=None if given["as_json"] else lambda cells: show_runs(cells, given["max_cost"]),
        with_report=not given["no_report"],
    )


def _show(cells: list[Cell], suites: list[Suite], as_json: bool) -> None:
    from tlac.cli.tables import print_runs, print_suite, suite_document
    from tlac.evaluation.suite_runner import failures_document
    from tlac.results.record import summary

    # a cell may stand in two suites
    found = {cell.run.folder: cell for cell in cells if cell.run is not None}
    if as_json:
        print_json(
            {
                "runs": [{**summary(cell.run), "reused": cell.is_reused} for cell in found.values() if cell.run],
                "suites": [suite_document(suite, cells) for suite in suites],
                "failed": failures_document(cells),
            }
        )
        return
    if found:
        runs = [cell.run for cell in found.values() if cell.run is not None]
        print_runs(runs, [folder for folder, cell in found.items() if cell.is_reused])
    for suite in suites:
        # published figures alone would look like a result
        if any(cell.run is not None and cell.suite == suite.name for cell in cells):
            print_suite(suite, cells)


def _policy(given: dict[str, Any]) -> CallPolicy:
    from tlac.lmms.middleware.budget import Budget
    from tlac.lmms.middleware.stack import CallPolicy

    budget = Budget(given["max_cost"]) if given["max_cost"] is not None else None
    return CallPolicy(budget, given["concurrency"], on_message=lambda text: click.echo(f"tlac: {text}", err=True))


def _outcomes(names: tuple[str, ...]) -> list[Any]:
    from tlac.types import Outcome

    return [Outcome(name) for name in names]
