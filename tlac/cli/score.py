"""`tlac score`: runs scored again from their stored answers; `tlac calibrate`: how sure predictions are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from tlac.cli import options
from tlac.cli.options import PATH, check_template, echo, open_store, print_json, refuse_input, say
from tlac.errors import UsageError
from tlac.runtime.formatting import percent


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--encoder", "encoders", multiple=True, help="Text encoder; several make a table.  [default: the run's]")
@click.option("--template", help="Prompt template of the text encoder.  [default: the run's]")
@click.option("--matching", help="Matching rule: ladder or paper.  [default: the run's]")
@click.option("--method", help="slac: score the first answers alone.  [default: the run's]")
@click.option("--open-world", is_flag=True, help="How near first answers come to the true class, without a class list.")
@options.calibration_option
@options.abstain_option
@options.store_option
@options.out_option
@options.json_option
def score(  # noqa: PLR0913, PLR0917 - one parameter per option
    runs: tuple[Path, ...],
    encoders: tuple[str, ...],
    template: str | None,
    matching: str | None,
    method: str | None,
    open_world: bool,
    abstain_below: float | None,
    calibration: Path | None,
    store: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Score runs again from their stored answers, at no cost and offline.

    Each new run folder names the run that it comes from. With --open-world none is written: text inclusion, semantic
    and concept similarity of the first answers (arXiv:2503.21851) are printed.

    \b
    Examples:
      tlac score runs/20300101-120000-caltech101-gemini-tlac --matching paper
      tlac score runs/2030* --encoder minilm --encoder clip-vit-b-16 --method slac
      tlac score runs/2030* --open-world --encoder minilm
    """
    from tlac.evaluation.rescore import Rescoring, rescore
    from tlac.results.calibration import read_calibration
    from tlac.results.record import summary

    if open_world:
        if template or matching or method or calibration or abstain_below is not None:
            raise UsageError("--open-world goes with --encoder alone: it has no class list to match with")
        _show_open_world(runs, encoders, store, as_json)
        return
    if template is not None:
        check_template(template)
    learnt = read_calibration(calibration) if calibration else None
    if learnt and (taught := sorted({run.resolve().name for run in runs} & set(learnt.runs))):
        say(f"{taught[0]} taught this calibration: what its confidence is worth shows on other runs")
    with open_store(store) as opened:
        scored = [
            rescore(run, opened, Rescoring(encoder, template, matching, method, abstain_below, learnt), out)
            for run in runs
            for encoder in encoders or (None,)
        ]
    if as_json:
        print_json({"runs": [summary(run) for run in scored]})
    else:
        from tlac.cli.tables import print_runs

        print_runs(scored)


def _show_open_world(runs: tuple[Path, ...], encoders: tuple[str, ...], store: Path | None, as_json: bool) -> None:
    from tlac.analysis.open_world import measure_open_world
    from tlac.cli.tables import print_table
    from tlac.config.schemas import load_encoder_config
    from tlac.evaluation.runner import Runner
    from tlac.results.folder import load_run

    rows = []
    with open_store(store) as opened:
        runner = Runner(opened, is_offline=True)
        for run in map(load_run, runs):
            if not run.record.prompts:
                raise UsageError(f"{run.folder}: asked no LMM, and holds no answers")
            for name in encoders or (run.record.encoder,):
                config = load_encoder_config(name)
                measured = measure_open_world(run.predictions, run.record.classes, runner.encoder(config).encode)
                if measured is None:
                    raise UsageError(f"{run.folder}: has no labels, or no answers, to compare")
                rows.append((run, config.name, measured))
    if as_json:
        print_json({"runs": [{"run": str(run.folder), "encoder": name, **found} for run, name, found in rows]})
        return
    numbers = ("n", "answered", "text inclusion", "semantic similarity", "concept similarity")
    texts = [
        (
            run.record.run + ("" if run.record.is_complete else " (incomplete)"),
            name,
            f"{found['n']:,}",
            f"{found['answered']:,}",
            percent(found["text_inclusion"]),
            *(f"{found[kind]:.3f}" for kind in ("semantic_similarity", "concept_similarity")),
        )
        for run, name, found in rows
    ]
    print_table(("run", "encoder"), numbers, texts)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "-o", "--output", type=PATH, default="calibration.json", show_default=True, help="File for --calibration."
)
@options.json_option
def calibrate(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Learn from labelled runs how sure predictions are: a level for each step of the
    matching, and a temperature of the margin.

    Or from a CSV file of labels that a person reviewed, as the review page downloads it: how often labels of a
    confidence were right. They have to be labels made without --calibration.

    `tlac bench --calibration` and `tlac score --calibration` then give every prediction a confidence. What taught it
    says nothing about how good it is: measure it on others.

    \b
    Examples:
      tlac calibrate runs/2030*-dtd-gemini-tlac -o gemini.json
      tlac calibrate labels.corrected.csv -o calibration.json
    """

    from tlac.analysis.review import calibrate as learn
    from tlac.analysis.review import calibrate_corrections
    from tlac.results.calibration import write_calibration
    from tlac.results.folder import load_run

    refuse_input(output)
    if any(run.suffix.lower() == ".csv" for run in runs):
        if len(runs) > 1:
            raise UsageError("a file of corrections is learnt from by itself: give no other file or run with it")
        found = calibrate_corrections(runs[0])
    else:
        found = learn([load_run(run) for run in runs])
    write_calibration(output, found)
    if as_json:
        print_json({"output": str(output), **asdict(found)})
        return
    for decided_by, level in found.level.items():
        echo(f"{decided_by or 'clip'}: {1 / (1 + 2.718281828459045**-level):.3f} at margin 0")
    if found.evidence is not None:
        terms = f"log-odds without labels times {found.evidence:g}, plus {found.default_level:g}"
        echo(f"{terms}; learnt from {found.n:,} labels; {output}")
        return
    temperature = "the margin says nothing" if found.temperature is None else f"temperature {found.temperature:g}"
    echo(f"{temperature}; learnt from {found.n:,} predictions; {output}")
