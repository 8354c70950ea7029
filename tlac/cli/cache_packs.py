"""`tlac cache export` and `tlac cache import`: answers as response packs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import matching_option, open_store, prompts_option, store_option
from tlac.errors import InputError, UsageError

if TYPE_CHECKING:
    from tlac.packs import PromptsRecord
    from tlac.store import Selection, Store

_SHOWN_CONFLICTS = 10


@click.command("export")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--backend", help="The answers of this backend.")
@click.option("--dataset", help="Only those that a run on this dataset asks for; goes with --backend.")
@click.option("--method", default="tlac", show_default=True, help="That run's method.")
@prompts_option
@matching_option
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FILE.jsonl or FILE.jsonl.zst")
@click.option("--provenance", help="Where the answers come from, in words that a stranger understands.")
@click.option("--with-embeddings", is_flag=True, help="Add the stored text embeddings.")
@store_option
def export_answers(run: Path | None, output: Path, store: Path | None, **given: Any) -> None:
    """Write stored answers to a response pack: those of a RUN, of a --backend, or of a backend on a --dataset.

    A pack is text. It holds requests without images, responses, usage and model versions, and never a key.

    \b
    Examples:
      tlac cache export runs/20300101-120000-caltech101-gemini-tlac -o caltech101.jsonl.zst
      tlac cache export --backend gemini --dataset cifar10-samples -o cifar10.jsonl.zst --with-embeddings
    """
    from tlac.exchange import export_pack

    if (run is None) == (given["backend"] is None):
        raise UsageError("name a run folder, or a --backend: one of the two")
    with open_store(store) as opened:
        selection, prompts, origin = _selection(opened, run, given)
        manifest = export_pack(
            opened,
            output,
            selection,
            given["provenance"] or origin,
            prompts,
            None if given["with_embeddings"] else (),
        )
    click.echo(
        f"{manifest.answers:,} answers and {manifest.embeddings:,} text embeddings of {manifest.backend}: {output}"
    )


def _selection(store: Store, run: Path | None, given: dict[str, Any]) -> tuple[Selection, PromptsRecord | None, str]:
    from tlac.packs import PromptsRecord
    from tlac.runs.folder import read_record
    from tlac.runs.lines import PREDICTIONS, read_predictions
    from tlac.store import Selection

    if run is not None:
        record = read_record(run)
        found = [key for prediction in read_predictions(run / PREDICTIONS) for key in prediction.keys]
        prompts = PromptsRecord(record.prompts, record.digests["prompts"])
        return Selection(keys=frozenset(found)), prompts, f"run {record.run}"
    if given["dataset"] is None:
        return Selection(backend=given["backend"]), None, f"all stored answers of {given['backend']}"
    return _asked_on_dataset(store, given)


def _asked_on_dataset(store: Store, given: dict[str, Any]) -> tuple[Selection, PromptsRecord | None, str]:
    from tlac.asking.recall import recall
    from tlac.cli.inquiry import read_inquiry
    from tlac.packs import PromptsRecord
    from tlac.store import Selection

    inquiry, dataset = read_inquiry(given)
    keys = recall(inquiry, dataset, dataset, store).keys
    if not keys:
        raise InputError(f"the store has no answer of {inquiry.backend.name} on {dataset.name} with these prompts")
    prompts = PromptsRecord(inquiry.prompts.name, inquiry.prompts.digest)
    return Selection(keys=keys), prompts, f"{inquiry.backend.name} on {dataset.name}, {inquiry.method}"


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@store_option
def import_answers(file: Path, store: Path | None) -> None:
    """Add the answers of a response pack to the store, once every line of it has been checked.

    What the store has stays as it is. A pack that answers a stored request otherwise is refused as a whole, and
    the first such requests are listed.

    \b
    Example:
      tlac cache import caltech101.jsonl.zst
    """
    from tlac.exchange import import_pack

    with open_store(store) as opened:
        found = import_pack(opened, file)
        path = opened.path
    for conflict in found.conflicts[:_SHOWN_CONFLICTS]:
        ours, theirs = (" ".join(text.split())[:60] for text in (conflict.ours, conflict.theirs))
        click.echo(f"{conflict.stage} {conflict.key[:12]}: the store says {ours!r}, the pack {theirs!r}", err=True)
    if found.conflicts:
        raise InputError(
            f"{file}: contradicts {len(found.conflicts)} stored answers; nothing was imported: replay it with "
            f"--backend pack:{file}, or import it into another --store"
        )
    click.echo(
        f"{found.added:,} answers and {found.embeddings_added:,} text embeddings added to {path}; "
        f"{found.present:,} answers were there"
    )
