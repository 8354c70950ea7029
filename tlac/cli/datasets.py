"""`tlac datasets`: list, show, prepare and verify datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import json_option, print_json, print_rows
from tlac.errors import TlacError

if TYPE_CHECKING:
    from tlac.verify import Verification

_data_option = click.option(
    "--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders."
)
_SHOWN_FINDINGS = 20


@click.group()
def datasets() -> None:
    """List, show, prepare and verify datasets."""


@datasets.command("list")
def list_datasets() -> None:
    """List the datasets that can be named after --dataset."""
    from tlac.config import load_dataset_config
    from tlac.resources import list_names

    print_rows([(name, load_dataset_config(name).spec.description) for name in list_names("dataset")])


@datasets.command("show")
@click.argument("name")
@_data_option
@click.option("--split", default="all", show_default=True, help="Classes: all, base or novel.")
@click.option(
    "--subset", type=click.Choice(["test", "val", "train"]), default="test", show_default=True, help="Images."
)
@json_option
def show_dataset(name: str, root: Path | None, split: str, subset: str, as_json: bool) -> None:
    """Show a dataset: protocol, number of samples, classes, digest, and what was read. Opens no image.

    \b
    Examples:
      tlac datasets show imagenet-samples --json
      tlac datasets show dtd --data ~/data --split novel
    """
    from tlac.config import load_dataset_config
    from tlac.identity import dataset_digest
    from tlac.registry import open_dataset

    config = load_dataset_config(name, root, split, subset)
    dataset = open_dataset(config)
    facts = {
        "name": dataset.name,
        "protocol": dataset.protocol,
        "split": dataset.split,
        "n": len(dataset),
        "classes": list(dataset.classes),
        "digest": dataset_digest(dataset),
        # other people's loaders need not say what they read
        "source": str(getattr(dataset, "source", "")) or config.source,
    }
    if as_json:
        print_json(facts)
        return
    names = dataset.classes
    facts["classes"] = f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    print_rows([(key, str(value)) for key, value in facts.items()])


@datasets.command("verify")
@click.argument("name")
@_data_option
@click.option("--quick", is_flag=True, help="Look whether images are there, but not into them.")
@json_option
def verify(name: str, root: Path | None, quick: bool, as_json: bool) -> None:
    """Count a dataset's lists and images against what is expected, and look into every image.

    Exit codes: 0 all as expected, 1 something is not and is named.

    \b
    Examples:
      tlac datasets verify dtd --data ~/data
      tlac datasets verify folder:my-photos --json
    """
    _verify(name, root, not quick, as_json)


@datasets.command("prepare")
@click.argument("name")
@_data_option
@json_option
def prepare(name: str, root: Path | None, as_json: bool) -> None:
    """Download a dataset where that may be done, say what is left to fetch by hand, and verify it.

    A download that breaks off is taken up again by the same command. Exit codes: 0 all as expected, 1 not yet.

    \b
    Example:
      tlac datasets prepare eurosat --data ~/data
    """
    from tlac.config import load_dataset_config
    from tlac.prepare import prepare_dataset

    prepared = prepare_dataset(load_dataset_config(name, root))
    if not as_json:
        click.echo(f"{name}: {'downloaded into' if prepared.is_downloaded else 'lies in'} {prepared.folder}")
        if prepared.steps:
            click.echo("by hand, where it is not done yet:")
        for number, step in enumerate(prepared.steps, start=1):
            click.echo(f"  {number}. {step}")
    _verify(name, root, True, as_json, asdict(prepared))


def _verify(
    name: str, root: Path | None, looks_into: bool, as_json: bool, prepared: dict[str, Any] | None = None
) -> None:
    """Print what verifying finds. Raises TlacError where there is anything."""
    from tlac.config import load_dataset_config
    from tlac.verify import verify_dataset

    with _image_progress(name, as_json) as on_image:
        found = verify_dataset(load_dataset_config(name, root), on_image, looks_into)
    if as_json:
        document = {**asdict(found), "good": found.is_good}
        if prepared is not None:
            document["prepared"] = {**prepared, "folder": str(prepared["folder"])}
        print_json(document)
    else:
        _print(found)
    if not found.is_good:
        count = len(found.findings)
        raise TlacError(f"{name}: {count} finding{'' if count == 1 else 's'}: not as expected, see above")


def _print(found: Verification) -> None:
    for finding in found.findings[:_SHOWN_FINDINGS]:
        click.echo(f"{finding.kind}: {finding.subject}: {finding.detail}")
    if len(found.findings) > _SHOWN_FINDINGS:
        click.echo(f"... and {len(found.findings) - _SHOWN_FINDINGS} more; --json prints all")
    for note in found.notes:
        click.echo(f"note: {note}")
    facts = {"protocol": found.protocol, "source": found.source, "digest": found.digest}
    print_rows([(key, value) for key, value in facts.items() if value])
    verdict = "as expected" if found.is_good else "not as expected"
    click.echo(f"{found.name}: {verdict}: {found.n:,} test images, {found.classes} classes, {found.images:,} looked at")


@contextmanager
def _image_progress(name: str, is_quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while images are looked at, where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{name}: images", total=None)

        def on_image(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield on_image
