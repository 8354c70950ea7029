"""`tlac datasets`: list, show, prepare, verify and export datasets."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli import options
from tlac.cli.options import PATH, complete, echo, print_json, print_rows
from tlac.errors import TlacError, UsageError

if TYPE_CHECKING:
    from tlac.config.schemas import DatasetConfig
    from tlac.datasets.prepare.prepare import Prepared
    from tlac.datasets.prepare.verify import Verification

_SHOWN_FINDINGS = 20


@click.group()
def datasets() -> None:
    """List, show, prepare, verify and export datasets."""


@datasets.command("list")
@options.root_option
@options.json_option
def list_datasets(root: Path | None, as_json: bool) -> None:
    """List the datasets that can be named after --dataset, and whether their images are here."""
    from tlac.config.files import list_names
    from tlac.config.schemas import load_dataset_config

    loaded = [load_dataset_config(name, root) for name in list_names("dataset")]
    rows = [
        {"name": one.name, "ready": dataset_state(one), "description": one.spec.description, "source": one.source}
        for one in loaded
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows([(row["name"], row["ready"], row["description"]) for row in rows])


def dataset_state(config: DatasetConfig) -> str:
    """Whether a dataset's images are here, as far as its folder tells; `tlac datasets verify` looks into them."""
    from tlac.config.registry import open_dataset

    folder = config.spec.options.get("folder")
    if isinstance(folder, str):
        if config.root is None:
            return "needs --data"
        place = config.root / folder
        return f"in {place}" if place.is_dir() and any(place.iterdir()) else f"missing in {config.root}"
    try:
        open_dataset(replace(config, is_offline=True))
    except TlacError:
        return "not here"
    return "ready"


@datasets.command("show")
@click.argument("name", shell_complete=complete("dataset"))
@options.root_option
@options.split_option
@options.subset_option
@options.json_option
def show_dataset(name: str, root: Path | None, split: str, subset: str, as_json: bool) -> None:
    """Show a dataset: protocol, number of samples, classes, digest, and what was read. Opens no image.

    \b
    Examples:
      tlac datasets show imagenet-samples --json
      tlac datasets show dtd --data ~/data --split novel
    """
    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_dataset_config
    from tlac.hashing import dataset_digest
    from tlac.interfaces import details_of, notes_of

    config = load_dataset_config(name, root, split, subset)
    dataset = open_dataset(config)
    facts: dict[str, Any] = {
        "name": dataset.name,
        "protocol": dataset.protocol,
        "split": dataset.split,
        "n": len(dataset),
        "classes": list(dataset.classes),
        "digest": dataset_digest(dataset),
        # other people's loaders need not say what they read
        "source": str(getattr(dataset, "source", "")) or config.source,
        "details": details_of(dataset),
        "notes": list(notes_of(dataset)),
    }
    if as_json:
        print_json(facts)
        return
    names = dataset.classes
    facts["classes"] = f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    facts.update(facts.pop("details"))
    notes = facts.pop("notes")
    print_rows([(key, str(value)) for key, value in facts.items()])
    for note in notes:
        echo(f"note: {note}")


@datasets.command("verify")
@click.argument("name", shell_complete=complete("dataset"))
@options.root_option
@click.option("--quick", is_flag=True, help="Look whether images are there, but not into them.")
@options.json_option
def verify(name: str, root: Path | None, quick: bool, as_json: bool) -> None:
    """Count a dataset's lists and images against what is expected, and look into every image.

    Exit codes: 0 all as expected, 1 something is not and is named.

    \b
    Examples:
      tlac datasets verify dtd --data ~/data
      tlac datasets verify folder:my-photos --json
    """
    from tlac.config.schemas import load_dataset_config

    _verify(load_dataset_config(name, root), not quick, as_json)


@datasets.command("prepare")
@click.argument("name", shell_complete=complete("dataset"))
@options.root_option
@click.option("--mirror", is_flag=True, help="Fetch its copy on the Hugging Face hub, with splits of its own.")
@options.json_option
def prepare(name: str, root: Path | None, mirror: bool, as_json: bool) -> None:
    """Download a dataset where that may be done, say what is left to fetch by hand, and verify it.

    A download that breaks off, or is stopped, goes on where it was with the same command. Archives are checked
    by their checksums. A mirror goes to ROOT/mirrors, with a dataset file to name after --dataset: its splits and
    sizes are not CoOp's, so its results say another protocol. Exit codes: 0 all as expected, 1 not yet.

    \b
    Examples:
      tlac datasets prepare eurosat --data ~/data
      tlac datasets prepare sun397 --data ~/data --mirror
    """
    from tlac.config.schemas import load_dataset_config

    config = load_dataset_config(name, root)
    try:
        if mirror:
            _prepare_mirror(config, as_json)
        else:
            _prepare_files(name, config, as_json)
    except (KeyboardInterrupt, click.Abort):
        echo(f"{config.name}: stopped: the same command goes on from here", err=True)
        raise


def _prepare_files(name: str, config: DatasetConfig, as_json: bool) -> None:
    from tlac.cli.progress import show_downloads
    from tlac.datasets.prepare.prepare import prepare_dataset

    download = config.spec.download
    if download.torchvision and not download.archives and not as_json:
        echo(f"{config.name}: its file lists no archives: torchvision fetches them, and begins a broken one anew")
    with show_downloads(as_json) as on_bytes:
        prepared = prepare_dataset(config, on_bytes, on_message=lambda text: None if as_json else echo(text, err=True))
    if not as_json:
        echo(f"{config.name}: {_whereabouts(prepared.is_downloaded, prepared.folder)}")
        if prepared.steps:
            echo("by hand, where it is not done yet:")
        for number, step in enumerate(prepared.steps, start=1):
            echo(f"  {number}. {step}")
        if prepared.steps and download.mirror:
            echo(f"or, with other splits and sizes: tlac datasets prepare {name} --data {config.root} --mirror")
    _verify(config, True, as_json, prepared)


def _prepare_mirror(config: DatasetConfig, as_json: bool) -> None:
    from tlac.cli.progress import show_downloads
    from tlac.config.schemas import load_dataset_config
    from tlac.datasets.prepare.prepare import fetch_mirror

    with show_downloads(as_json) as on_bytes:
        mirror = fetch_mirror(config, on_bytes)
    if not as_json:
        echo(f"{config.name}: {mirror.protocol} {_whereabouts(mirror.is_downloaded, mirror.folder)}")
        echo(f"to run on it, with its own protocol: --dataset {mirror.dataset_file}")
    _verify(load_dataset_config(str(mirror.dataset_file)), True, as_json, mirror)


def _whereabouts(is_downloaded: bool, folder: Path) -> str:
    if is_downloaded:
        return f"downloaded into {folder}"
    return f"lies in {folder}" if folder.exists() else f"belongs in {folder}, which is not there yet"


def _verify(config: DatasetConfig, looks_into: bool, as_json: bool, prepared: Prepared | None = None) -> None:
    """Print what verifying finds, after `prepared` where that was done first. Raises TlacError for any finding."""
    from tlac.cli.progress import show_images
    from tlac.datasets.prepare.verify import verify_dataset

    with show_images(config.name, as_json) as on_image:
        found = verify_dataset(config, on_image, looks_into)
    if as_json:
        document = {**asdict(found), "good": found.is_good}
        if prepared is not None:
            paths = {"folder": str(prepared.folder), "dataset_file": str(prepared.dataset_file or "") or None}
            document["prepared"] = {**asdict(prepared), **paths}
        print_json(document)
    else:
        _print(found, is_prepared=prepared is not None)
    if prepared and prepared.steps and any(finding.kind == "unusable" for finding in found.findings):
        raise TlacError(f"{config.name}: not ready yet: do the steps above, and run the command again")
    if not found.is_good:
        count = len(found.findings)
        raise TlacError(f"{config.name}: {count} finding{'' if count == 1 else 's'}: not as expected, see above")


def _print(found: Verification, is_prepared: bool) -> None:
    for finding in found.findings[:_SHOWN_FINDINGS]:
        # the command just ran
        detail = finding.detail.partition(": run `tlac datasets prepare")[0] if is_prepared else finding.detail
        echo(f"{finding.kind}: {finding.subject}: {detail}")
    if len(found.findings) > _SHOWN_FINDINGS:
        echo(f"... and {len(found.findings) - _SHOWN_FINDINGS} more; --json prints all")
    for note in found.notes:
        echo(f"note: {note}")
    facts = {"protocol": found.protocol, "source": found.source, "digest": found.digest, **found.details}
    print_rows([(key, value) for key, value in facts.items() if value])
    verdict = "not as expected" if found.findings else "as expected" if found.is_compared else "nothing wrong found"
    echo(f"{found.name}: {verdict}: {found.n:,} test images, {found.classes} classes, {found.images:,} looked at")


@datasets.command("export")
@click.argument("name", shell_complete=complete("dataset"))
@click.argument("folder", type=PATH)
@options.root_option
@options.split_option
@options.subset_option
def export_dataset(name: str, folder: Path, root: Path | None, split: str, subset: str) -> None:
    """Copy a dataset's images into a new folder without their labels, and its class names into classes.txt there.

    Something to try `tlac label` on. The files are numbered in the dataset's order, since their own names may tell what
    they show.

    \b
    Example:
      tlac datasets export cifar10-samples photos
    """
    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_dataset_config
    from tlac.images import read_image
    from tlac.runtime.safe_files import naming_failure

    dataset = open_dataset(load_dataset_config(name, root, split, subset))
    with naming_failure(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty: name a folder that is not there yet")
        for number, sample in enumerate(dataset, start=1):
            content, suffix = read_image(sample.source, sample.source_name)
            (folder / f"{number:06d}{suffix}").write_bytes(content)
        (folder / "classes.txt").write_text("".join(f"{one}\n" for one in dataset.classes), encoding="utf-8")
    echo(f"{folder}: {len(dataset):,} images and classes.txt")
