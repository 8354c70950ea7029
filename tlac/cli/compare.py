"""`tlac compare`: runs on the samples that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import json_option, print_json

if TYPE_CHECKING:
    from tlac.comparing.comparison import Comparison, Pairing, Standing


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs on the samples that all of them share.

    Every pair with the difference of their accuracies and its 95 % interval, McNemar's exact test with Holm's
    correction for several pairs, Cohen's kappa, and how many samples only one of the two got right; --json
    lists them. Samples whose call failed in a run are left out.

    \b
    Examples:
      tlac compare runs/20250101-120000-dtd-gemini-tlac runs/20250101-130000-dtd-gpt-4o-tlac
      tlac compare runs/*-dtd-* --json
    """
    from tlac.comparing.comparison import compare as compare_runs
    from tlac.runs.folder import read_run

    found = compare_runs([read_run(folder) for folder in runs])
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "n": found.n,
        "left_out": found.left_out,
        "failed": found.failed,
        "runs": [_standing_document(one) for one in found.standings],
        "pairs": [_pairing_document(one, found) for one in found.pairings],
    }


def _standing_document(standing: Standing) -> dict[str, Any]:
    record = standing.run.record
    return {
        "run": str(standing.run.folder),
        "backend": record.backend,
        "method": record.method,
        "complete": record.is_complete,
        "correct": standing.correct,
        "accuracy": standing.accuracy,
        "accuracy_ci95": standing.accuracy_ci95,
        "cost_per_correct_usd": standing.cost_per_correct_usd,
    }


def _pairing_document(pairing: Pairing, found: Comparison) -> dict[str, Any]:
    return {
        "first": str(found.standings[pairing.first].run.folder),
        "second": str(found.standings[pairing.second].run.folder),
        "difference": pairing.difference.value,
        "difference_ci95": (pairing.difference.low, pairing.difference.high),
        "p": pairing.p,
        "p_holm": pairing.p_holm,
        "kappa": pairing.kappa,
        "both": pairing.paired.both,
        "neither": pairing.paired.neither,
        "only_first": pairing.only_first,
        "only_second": pairing.only_second,
    }


def _print(found: Comparison) -> None:
    from rich.console import Console

    from tlac.cli.tables import make_table, percent

    console = Console()
    table = make_table(("", "run"), ("top-1", "95 % CI", "USD/right"))
    for place, one in enumerate(found.standings):
        low, high = one.accuracy_ci95
        cost = "?" if one.cost_per_correct_usd is None else f"{one.cost_per_correct_usd:.6f}"
        name = one.run.record.run + ("" if one.run.record.is_complete else " (incomplete)")
        table.add_row(_letter(place), name, percent(one.accuracy), f"{100 * low:.1f}-{100 * high:.1f}", cost)
    console.print(table)
    table = make_table(("pair",), ("points", "95 % CI", "p", "p (Holm)", "kappa", "both", "1st", "2nd", "none"))
    for pairing in found.pairings:
        difference, paired = pairing.difference, pairing.paired
        table.add_row(
            f"{_letter(pairing.first)} - {_letter(pairing.second)}",
            f"{100 * difference.value:+.1f}",
            f"{100 * difference.low:+.1f} {100 * difference.high:+.1f}",
            _p(pairing.p),
            _p(pairing.p_holm),
            "-" if pairing.kappa is None else f"{pairing.kappa:.3f}",
            *(str(count) for count in (paired.both, paired.only_first, paired.only_second, paired.neither)),
        )
    console.print()
    console.print(table)
    left = f"; {found.left_out} samples are not in all runs" if found.left_out else ""
    failed = f"; {found.failed} left out, whose call failed in a run" if found.failed else ""
    click.echo(f"{found.n} shared samples{left}{failed}; p of McNemar's exact test, interval of Newcombe")


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
