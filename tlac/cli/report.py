"""`tlac report` and `tlac export`: the page of runs, figures for a paper, and what they found as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlac.cli.options import echo, refuse_input

if TYPE_CHECKING:
    from tlac.results.record import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page's file.  [default: report.html in the run's folder; comparison.html for several runs]",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write charts (PNG, SVG) and tables (LaTeX, Markdown) into this folder, and no page unless -o is given.",
)
def report(runs: tuple[Path, ...], output: Path | None, figures: Path | None) -> None:
    """Write the page of a run, or of several beside each other.

    RUN is a run folder, or a folder of them. The page is one HTML file that asks no network for anything;
    where its thumbnails are too many to stand inside it, a folder of them lies beside it.

    \b
    Examples:
      tlac report runs/20300101-120000-caltech101-gemini-tlac
      tlac report runs -o comparison.html
      tlac report runs --figures figures
    """
    from tlac.results.folder import list_runs, load_run

    if output is not None:
        refuse_input(output)
    folders = [folder.resolve() for folder in list_runs(runs)]
    read = [load_run(folder) for folder in folders]
    if output is not None or figures is None:
        path = output or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
        _write_page(read, path, folders[0] if len(folders) == 1 else None)
        echo(path)
    if figures is not None:
        for written in _write_figures(read, figures):
            echo(written)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="FILE.csv, .parquet or .jsonl",
)
def export(runs: tuple[Path, ...], output: Path) -> None:
    """Write what runs found as a table: a row for each image, with the names of classes.

    RUN is a run folder, or a folder of them. The columns are those of `tlac.load_run(RUN).to_pandas()`, behind four
    that say of which run a row is. Summed up over a run, cost_usd is what all its answers cost: an answer that
    several images share stands with the first.

    \b
    Examples:
      tlac export runs/20300101-120000-caltech101-gemini-tlac -o caltech101.csv
      tlac export runs -o all.parquet
    """
    from tlac.results.folder import list_runs, load_run
    from tlac.results.record import SAMPLE_COLUMNS
    from tlac.results.table_files import write_table

    refuse_input(output)
    # read one after the other: the rows of many runs need no more memory than those of one
    rows = (
        {name: getattr(run.record, name) for name in _RUN_COLUMNS} | dict(row)
        for run in map(load_run, list_runs(runs))
        for row in run.rows()
    )
    write_table(rows, {**dict.fromkeys(_RUN_COLUMNS, str), **SAMPLE_COLUMNS}, output)
    echo(output)


_RUN_COLUMNS = ("run", "dataset", "backend", "method")


def _write_page(runs: Sequence[Run], path: Path, own_folder: Path | None) -> None:
    from tlac.report.comparison import all_thumbnails, render_comparison
    from tlac.report.page import write_page
    from tlac.report.run_page import render_run
    from tlac.results.folder import THUMBNAILS

    images = THUMBNAILS if own_folder is not None and path.parent.resolve() == own_folder else f"{path.stem}-images"
    html, beside = render_run(runs[0], images) if len(runs) == 1 else render_comparison(runs, images)
    write_page(html, beside, path, all_thumbnails(runs))


def _write_figures(runs: Sequence[Run], folder: Path) -> list[Path]:
    from tlac.report.paper import comparison_tables, draw_comparison, draw_run, run_tables, to_latex, to_markdown
    from tlac.runtime.safe_files import naming_failure

    written = draw_run(runs[0], folder) if len(runs) == 1 else draw_comparison(runs, folder)
    tables = run_tables(runs[0]) if len(runs) == 1 else comparison_tables(runs)
    with naming_failure(folder, "; choose another folder", "tables "):
        for table in tables:
            for suffix, text in ((".tex", to_latex(table)), (".md", to_markdown(table))):
                path = folder / f"{table.name}{suffix}"
                path.write_text(text, encoding="utf-8")
                written.append(path)
    return written
