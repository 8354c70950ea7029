"""`tlac datasets`: list and show datasets."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import json_option, print_json, print_rows


@click.group()
def datasets() -> None:
    """List and show datasets."""


@datasets.command("list")
def list_datasets() -> None:
    """List the datasets that can be named after --dataset."""
    from tlac.config import load_dataset_config
    from tlac.resources import list_names

    print_rows([(name, load_dataset_config(name).spec.description) for name in list_names("dataset")])


@datasets.command("show")
@click.argument("name")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@click.option("--split", default="all", show_default=True, help="Classes: all, base or novel.")
@json_option
def show_dataset(name: str, root: Path | None, split: str, as_json: bool) -> None:
    """Show a dataset: protocol, number of samples, classes, digest. Opens no image.

    \b
    Example:
      tlac datasets show imagenet-samples --json
    """
    from tlac.config import load_dataset_config
    from tlac.identity import dataset_digest
    from tlac.registry import open_dataset

    config = load_dataset_config(name, root, split)
    dataset = open_dataset(config)
    facts = {
        "name": dataset.name,
        "protocol": dataset.protocol,
        "split": dataset.split,
        "n": len(dataset),
        "classes": list(dataset.classes),
        "digest": dataset_digest(dataset),
        "source": config.source,
    }
    if as_json:
        print_json(facts)
        return
    names = dataset.classes
    facts["classes"] = f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    print_rows([(key, str(value)) for key, value in facts.items()])
