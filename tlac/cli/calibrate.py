"""`tlac calibrate`: learn from labelled runs how sure predictions are."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import json_option, print_json


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

    from tlac.runs.calibrating import calibrate as learn
    from tlac.runs.calibrating import write_calibration
    from tlac.runs.folder import read_run

    found = learn([read_run(run) for run in runs])
    write_calibration(output, found)
    if as_json:
        print_json({"output": str(output), **asdict(found)})
        return
    for rung, level in found.level.items():
        click.echo(f"{rung or 'clip'}: {1 / (1 + 2.718281828459045**-level):.3f} at margin 0")
    temperature = "the margin says nothing" if found.temperature is None else f"temperature {found.temperature:g}"
    click.echo(f"{temperature}; learnt from {found.n:,} predictions; {output}")
