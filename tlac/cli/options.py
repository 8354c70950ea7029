"""Options that several commands share, and the form in which lists are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.errors import UsageError

if TYPE_CHECKING:
    from tlac.cache.store import Store
    from tlac.evaluation.dry_run import DryRun
    from tlac.evaluation.engine import Engine
    from tlac.interfaces import Dataset
    from tlac.lmms.middleware.stack import CallPolicy


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
    from tlac.cache.store import Store, store_folder

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


def read_inquiry(given: dict[str, Any]) -> tuple[DryRun, Dataset]:
    """The inquiry and dataset that --backend, --dataset, --method, --prompts, --matching and --data name.

    Raises UnknownNameError, ConfigError, InputError.
    """
    from tlac.config.prompts import load_prompts
    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_backend, load_dataset_config
    from tlac.evaluation.dry_run import DryRun
    from tlac.scoring.matching import find_rule

    backend = load_backend(given["backend"])
    inquiry = DryRun(backend, backend, given["method"], load_prompts(given["prompts"]), find_rule(given["matching"]))
    return inquiry, open_dataset(load_dataset_config(given["dataset"], given.get("root")))


_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Ask from this process, or from the workers of a Ray cluster (extra: tlac[ray]).",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", help="Ray cluster to join, such as auto.  [default: start one here]"
    ),
    click.option("--parallelism", type=click.IntRange(min=1), help="Ray workers.  [default: one for each CPU]"),
    click.option(
        "--batch",
        is_flag=True,
        help="Ask through the provider's batch interface: half the price, answers within a day.",
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `open_engine` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_engine(given: dict[str, Any], store: Store, policy: CallPolicy) -> Engine | None:
    """What the options ask for; None for this process. Raises UsageError for options that don't go together."""
    is_ray = given["engine"] == "ray"
    if not is_ray and (given["ray_address"] or given["parallelism"]):
        raise UsageError("--ray-address and --parallelism belong to --engine ray: add it, or leave them out")
    if is_ray and given["batch"]:
        raise UsageError("--engine ray and --batch are two ways to ask: choose one")
    if (is_ray or given["batch"]) and given["order_trials"]:
        raise UsageError("--order-trials asks from this process: run it by itself, after --engine ray or --batch")
    if is_ray:
        return _ray(given, store, policy)
    return _batch(given, store, policy) if given["batch"] else None


def _ray(given: dict[str, Any], store: Store, policy: CallPolicy) -> Engine:
    from tlac.engines.ray.engine import RayEngine
    from tlac.types import Outcome

    retry = [Outcome(name) for name in given["retry"]]
    return RayEngine(store, policy, given["ray_address"], given["parallelism"], retry)


def _batch(given: dict[str, Any], store: Store, policy: CallPolicy) -> Engine:
    from tlac.engines.batch.engine import BatchEngine
    from tlac.types import Outcome

    return BatchEngine(store, policy, [Outcome(name) for name in given["retry"]])
