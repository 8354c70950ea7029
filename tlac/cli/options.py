"""Options that several commands share, and the form in which lists are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Folder of stored answers.  [default: TLAC_CACHE_DIR, else the platform's cache folder]",
)
encoder_option = click.option(
    "--encoder",
    default="clip-vit-b-16",
    show_default=True,
    help="Text encoder: a name, a YAML file, open_clip:MODEL/WEIGHTS or sentence_transformers:NAME.",
)
matching_option = click.option(
    "--matching", default="ladder", show_default=True, help="How words become a class: ladder or paper."
)
template_option = click.option(
    "--template", default="a photo of a {}", show_default=True, help="Prompt template of the text encoder."
)
prompts_option = click.option(
    "--prompts", default="default", show_default=True, help="Prompt set: a name or YAML file."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


def check_template(template: str) -> str:
    """The template, if it has a place for the text. Raises click.BadParameter."""
    if any("{}" not in part for part in template.split("|")):
        raise click.BadParameter(f"{template!r} must hold {{}} where the text goes", param_hint="--template")
    return template


def open_store(path: Path | None) -> Any:
    """The store in that folder or the default one; what it had to repair is said on stderr."""
    from tlac.store import Store, store_folder

    store = Store(path or store_folder())
    for warning in store.warnings:
        click.echo(f"tlac: {warning}", err=True)
    return store


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Two columns: name and what it is."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name:<{width}}  {text}".rstrip())


def split_classes(text: str) -> list[str]:
    """Class names from "a, b, c", or from a file of that name with one name a line.

    Raises click.BadParameter for a file that can't be read.
    """
    path = Path(text)
    if "," in text or not (path.suffix == ".txt" or path.is_file()):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: can't be read as text: {error}", param_hint="--classes") from error
