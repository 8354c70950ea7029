"""Gets a dataset's files: downloads what may be downloaded, and says in plain steps what is fetched by hand; or fetches
a mirror of it from the Hugging Face hub, with a dataset file that opens it.

The dataset files say how; tlac.datasets.prepare.verify checks what came of it.
"""

from __future__ import annotations

import errno
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import msgspec
import yaml

from tlac.config.schemas import DatasetConfig, Mirror, load_dataset_config
from tlac.datasets.base import parent_inside, path_inside, torchvision_datasets
from tlac.datasets.prepare.download import OnBytes, RemoteFile, fetch_file
from tlac.errors import ConfigError, TlacError, UnknownNameError, UsageError, one_line
from tlac.runtime.libraries import http_errors
from tlac.runtime.safe_files import replacing

STAGING = ".tlac-download"
_DONE = "unpacked"  # lies in the staging folder once all is unpacked there
Fetch: TypeAlias = Callable[[RemoteFile, OnBytes | None], None]
_UNPACKED = tuple(suffix for _, suffixes, _ in shutil.get_unpack_formats() for suffix in suffixes)
# by name from a dataset file, which may come from a stranger: no other class of torchvision's is called
_READERS = {
    *("CIFAR10", "CIFAR100", "Caltech101", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "Flowers102", "Food101"),
    *("GTSRB", "OxfordIIITPet", "RenderedSST2", "SUN397", "StanfordCars"),
}
MIRRORS = "mirrors"
_MIRRORED = re.compile(r"classnames\.txt|test/[^/\\]+\.tar")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was done: the dataset's folder, whether files were downloaded into it, and the steps left to a person.

    A mirror has a dataset file of its own to run on, and its own protocol.
    """

    name: str
    folder: Path
    is_downloaded: bool
    steps: tuple[str, ...] = ()
    dataset_file: Path | None = None
    protocol: str = ""


def prepare_dataset(
    config: DatasetConfig,
    on_bytes: OnBytes | None = None,
    fetch: Fetch = fetch_file,
    read: Callable[[str, Path], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Download a dataset's archives, have torchvision unpack them, and put the files into the dataset's folder.

    Files that are there already stay as they are, and a dataset whose folder holds more than lists is not downloaded.
    What was stopped is continued by the next call, wherever it was. `fetch` gets one archive, `read` stands in
    for torchvision: called with the name of its class and the folder to fill. `on_message` is told of other slow
    steps. Raises UsageError without a data root or for a dataset that has no folder there, TlacError where
    a download fails.
    """
    folder = _folder(config)
    download = config.spec.download
    steps = tuple(step.replace("{folder}", str(folder)) for step in download.steps)
    # the name is that of the dataset file, which may be called ...yaml
    staging = path_inside(config, parent_inside(config, folder) / STAGING, config.name)
    is_unpacked = (staging / _DONE).exists()
    if download.torchvision is None or (_has_files(folder) and not is_unpacked):
        return Prepared(config.name, folder, is_downloaded=False, steps=steps)
    if download.torchvision not in _READERS:
        raise UnknownNameError("reader of torchvision's", download.torchvision, _READERS, config.source)
    made = path_inside(config, staging, download.makes)
    archives = [
        RemoteFile(archive.url, path_inside(config, staging, archive.path), "md5", archive.md5)
        for archive in download.archives
    ]
    if not is_unpacked:
        for archive in archives:
            fetch(archive, on_bytes)
    with _unpacking_errors(config, staging):
        if not is_unpacked:
            on_message(f"{config.name}: unpacking, which may take minutes")
            staging.mkdir(parents=True, exist_ok=True)
            # torchvision takes what a stopped unpacking has left for the whole
            _clear(staging, {archive.path for archive in archives})
            with _kept_inside():
                (read or _read_with_torchvision)(download.torchvision, staging)
            (staging / _DONE).touch()
        for archive in archives:
            if archive.path.name.endswith(_UNPACKED):
                archive.path.unlink(missing_ok=True)
        _move_into(made, folder)
        shutil.rmtree(staging)
    return Prepared(config.name, folder, is_downloaded=True, steps=steps)


@contextmanager
def _unpacking_errors(config: DatasetConfig, staging: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise TlacError(
            f"{config.name}: an archive can't be unpacked ({one_line(error)}): remove {staging} and run the command "
            "again"
        ) from error
    except (OSError, RuntimeError) as error:
        raise TlacError(
            f"{config.name}: the download failed ({one_line(error)}): run the command again, which keeps what is "
            f"complete in {staging}"
        ) from error


def _folder(config: DatasetConfig) -> Path:
    name = config.spec.options.get("folder")
    if not isinstance(name, str):
        raise UsageError(f"{config.name}: needs no preparing: its loader {config.spec.loader!r} has no data folder")
    if config.root is None:
        raise UsageError(f"{config.name}: say with --data ROOT under which folder to put its files")
    return path_inside(config, config.root, name)


def _has_files(folder: Path) -> bool:
    # split files and lists of names are put there by hand, before or after
    return folder.is_dir() and any(path.suffix not in (".json", ".txt") for path in folder.iterdir())


def _clear(folder: Path, kept: set[Path]) -> None:
    """Remove all below a folder but these files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


def _move_into(made: Path, folder: Path) -> None:
    """Move each entry, whole or not at all: a folder that is there was there first, or moved by a stopped call."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()) if made.is_dir() else ():
        target = folder / path.name
        # the split file may have been put there first
        if target.exists():
            continue
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # the folder lies on another disk: copied under a passing name, which a stopped call leaves behind
            passing = folder / f".{path.name}.part"
            shutil.rmtree(passing, ignore_errors=True)
            passing.unlink(missing_ok=True)
            shutil.copytree(path, passing) if path.is_dir() else shutil.copy2(path, passing)
            passing.rename(target)


@contextmanager
def _kept_inside() -> Iterator[None]:
    """Refuse members of a tar archive that would be written elsewhere, as Python does by itself from 3.14 on."""
    if not hasattr(tarfile, "data_filter"):
        raise ConfigError("this Python can't unpack safely: update it to 3.10.12, 3.11.4 or a later one")
    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _read_with_torchvision(reader: str, folder: Path) -> None:
    getattr(torchvision_datasets("downloading"), reader)(folder, download=True)


def fetch_mirror(config: DatasetConfig, on_bytes: OnBytes | None = None, fetch: Fetch = fetch_file) -> Prepared:
    """Fetch the mirror's test shards and class names into ROOT/mirrors, with a dataset file beside them.

    The dataset file names the commit that was fetched, and is written when all is there: a folder that has one
    stays as it is. The hub says the sha256 of each shard. Raises UsageError without a data root or a mirror,
    ConfigError without the package that reads it, TlacError where the hub can't be asked or a download fails.
    """
    mirror = config.spec.download.mirror
    if mirror is None:
        raise UsageError(f"{config.name}: no mirror of it is known: leave --mirror out")
    if config.root is None:
        raise UsageError(f"{config.name}: say with --data ROOT under which folder to put its files")
    if find_spec("datasets") is None:
        raise ConfigError(f"{config.name}: a mirror is read by the package datasets: pip install 'tlac[hf]'")
    folder = path_inside(config, config.root / MIRRORS, config.name).resolve()
    dataset_file = folder / f"{config.name}-mirror.yaml"
    is_there = dataset_file.is_file()
    if not is_there:
        commit, files = _look_up(config.name, mirror, folder)
        for file in files:
            fetch(file, on_bytes)
        _write_dataset_file(config, mirror, commit, dataset_file)
    protocol = load_dataset_config(str(dataset_file)).spec.protocol
    return Prepared(config.name, folder, not is_there, dataset_file=dataset_file, protocol=protocol)


def _look_up(name: str, mirror: Mirror, folder: Path) -> tuple[str, list[RemoteFile]]:
    """The commit that the mirror's revision stands for, and the files of it that are needed."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    unavailable: tuple[type[Exception], ...] = (OSError, ValueError, *http_errors())
    try:
        hub = HfApi()
        commit = hub.dataset_info(mirror.repo, revision=mirror.revision, timeout=60).sha or ""
        tree = hub.list_repo_tree(mirror.repo, recursive=True, revision=commit, repo_type="dataset")
        entries = [entry for entry in tree if isinstance(entry, RepoFile) and _MIRRORED.fullmatch(entry.path)]
    except unavailable as error:
        raise TlacError(
            f"{name}: its mirror {mirror.repo} can't be looked up ({one_line(error)}): run the command again where "
            "the hub can be reached"
        ) from error
    files = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        url = hf_hub_url(mirror.repo, entry.path, repo_type="dataset", revision=commit)
        checksum = entry.lfs.sha256 if entry.lfs else ""
        files.append(RemoteFile(url, folder / entry.path, "sha256", checksum))
    if len(files) < 2 or files[0].path.name != "classnames.txt":
        raise TlacError(f"{name}: {mirror.repo} does not hold test/*.tar and classnames.txt: name another mirror")
    return commit, files


def _write_dataset_file(config: DatasetConfig, mirror: Mirror, commit: str, path: Path) -> None:
    content = {
        "description": f"{config.spec.description} (mirror {mirror.repo}, commit {commit})",
        "loader": "hf",
        "protocol": f"mirror {mirror.repo} at {commit[:12]}",
        "prompt": config.spec.prompt,
        "options": {"path": str(path.parent)},
    }
    if mirror.expected is not None:
        content["expected"] = msgspec.to_builtins(mirror.expected)
    try:
        with replacing(path) as file:
            yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True, encoding="utf-8")
    except OSError as error:
        raise TlacError(f"{path}: {error.strerror or error}: check the folder and run the command again") from error
