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
    from tlac.rescore import Rescoring, rescore
    from tlac.runs.calibrating import read_calibration
    from tlac.runs.folder import summary

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
