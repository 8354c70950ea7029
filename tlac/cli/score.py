"""`tlac score`: runs scored again from their stored answers. No LMM is asked."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import check_template, json_option, open_store, print_json, store_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--encoder", "encoders", multiple=True, help="Text encoder; several make a table.  [default: the run's]")
@click.option("--template", help="Prompt template of the text encoder.  [default: the run's]")
@click.option("--matching", help="Matching rule: ladder or paper.  [default: the run's]")
@click.option("--method", help="slac: score the first answers alone.  [default: the run's]")
@click.option("--abstain-below", type=click.FloatRange(0, 1), help="Give no class where confidence is lower.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Confidence as `tlac calibrate` learnt it.")
@store_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@json_option
def score(  # noqa: PLR0913, PLR0917 - one parameter per option
    runs: tuple[Path, ...],
    encoders: tuple[str, ...],
    template: str | None,
    matching: str | None,
    method: str | None,
    abstain_below: float | None,
    calibration: Path | None,
    store: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Score runs again from their stored answers, at no cost and offline.

    Each new run folder names the run that it comes from.

    \b
    Examples:
      tlac score runs/20300101-120000-caltech101-gemini-tlac --matching paper
      tlac score runs/2030* --encoder minilm --encoder clip-vit-b-16 --method slac
    """
    from tlac.cli.tables import print_runs
    from tlac.evaluation.rescore import Rescoring, rescore
    from tlac.results.record import summary
    from tlac.scoring.confidence import read_calibration

    if template is not None:
        check_template(template)
    learnt = read_calibration(calibration) if calibration else None
    with open_store(store) as opened:
        scored = [
            rescore(run, opened, Rescoring(encoder, template, matching, method, abstain_below, learnt), out)
            for run in runs
            for encoder in encoders or (None,)
        ]
    if as_json:
        print_json({"runs": [summary(run) for run in scored]})
    else:
        print_runs(scored)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@store_option
@json_option
def reprice(runs: tuple[Path, ...], store: Path | None, as_json: bool) -> None:
    """Tell what the answers of RUNS would cost at today's prices, beside what they did cost. Asks no LMM.

    Today's prices are those of live calls, also for answers that came in batches. They come from the backend's file, or
    else from the table inside litellm, whose version is named.

    \b
    Example:
      tlac reprice runs/20300101-120000-caltech101-gemini-tlac
    """
    from dataclasses import asdict

    from tlac.analysis.reprice import reprice as price

    with open_store(store) as opened:
        found = [price(run, opened) for run in runs]
    if as_json:
        print_json({"runs": [asdict(one) for one in found]})
        return
    for one in found:
        then, now = ("?" if cost is None else f"${cost:.4f}" for cost in (one.then_usd, one.now_usd))
        click.echo(f"{one.run}: {one.answers:,} answers, {then} by {one.then_table}, {now} by {one.now_table}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("calibration.json"),
    show_default=True,
    help="File for --calibration.",
)
@json_option
def calibrate(runs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Learn from labelled runs how sure predictions are: a level for each rung, and a temperature of the margin.

    `tlac bench --calibration` and `tlac score --calibration` then give every prediction a confidence. The runs
    that taught it say nothing about how good it is: measure it on others.

    \b
    Example:
      tlac calibrate runs/2030*-dtd-gemini-tlac -o gemini.json
    """
    from dataclasses import asdict

    from tlac.analysis.calibrate import calibrate as learn
    from tlac.results.folder import read_run
    from tlac.scoring.confidence import write_calibration

    found = learn([read_run(run) for run in runs])
    write_calibration(output, found)
    if as_json:
        print_json({"output": str(output), **asdict(found)})
        return
    for decided_by, level in found.level.items():
        click.echo(f"{decided_by or 'clip'}: {1 / (1 + 2.718281828459045**-level):.3f} at margin 0")
    temperature = "the margin says nothing" if found.temperature is None else f"temperature {found.temperature:g}"
    click.echo(f"{temperature}; learnt from {found.n:,} predictions; {output}")
