"""`tlac cache explain`: why a sample's answer is not found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import matching_option, open_store, prompts_option, store_option
from tlac.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from tlac.interfaces import Dataset
    from tlac.types import Sample


@click.command("explain")
@click.argument("sample")
@click.option("--backend", required=True, help="The LMM that would be asked.")
@click.option("--dataset", required=True, help="The dataset that the sample is of.")
@click.option("--method", default="tlac", show_default=True, help="slac or tlac.")
@prompts_option
@matching_option
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@store_option
def explain_sample(sample: str, store: Path | None, **given: Any) -> None:
    """Say whether a SAMPLE's answers are stored, and if not, how the nearest stored request differs.

    SAMPLE is an id as in predictions.jsonl.

    \b
    Example:
      tlac cache explain imagenet_00_243.jpg --backend gemini --dataset imagenet-samples
    """
    from tlac.asking.recall import recall
    from tlac.cli.inquiry import read_inquiry
    from tlac.keys import request_document
    from tlac.store import explain

    inquiry, dataset = read_inquiry(given)
    with open_store(store) as opened:
        found = recall(inquiry, dataset, [_find(sample, dataset)], opened)
        (transcript,) = found.transcripts
        if transcript.failure is not None and transcript.failure.kind == "sample":
            raise InputError(transcript.failure.reason)
        for turn in transcript.turns:
            words = " ".join(turn.response.text.split())[:60]
            click.echo(f"{turn.stage}: stored as {turn.key[:12]}: {turn.response.outcome} {words!r}")
        for request in found.missing:
            explanation = explain(opened, request_document(request))
            click.echo(f"{request.stage}: not stored; its key is {explanation.key[:12]}")
            if explanation.nearest is None:
                click.echo("  the store holds no answer at all")
                continue
            click.echo(f"  nearest stored request: {explanation.nearest[:12]}; it differs in")
            for difference in explanation.differences:
                click.echo(f"    {difference.field}: asked {difference.asked}, stored {difference.stored}")


def _find(name: str, dataset: Dataset) -> Sample:
    ids = []
    for sample in dataset:
        if sample.id == name:
            return sample
        ids.append(sample.id)
    raise UnknownNameError("sample", name, ids)
