"""Fetches a dataset's mirror from the Hugging Face hub, and writes a dataset file that opens it.

A mirror has splits and sizes of its own, so its dataset file names it as the protocol. What was fetched is checked by
`tlac.datasets.prepare.verify`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import msgspec
import yaml

from tlac.config.schemas import DatasetConfig, Mirror, load_dataset_config
from tlac.datasets.base import path_inside
from tlac.datasets.prepare.download import OnBytes, RemoteFile, fetch_file
from tlac.datasets.prepare.prepare import Fetch, Prepared
from tlac.errors import ConfigError, TlacError, UsageError
from tlac.runtime.libraries import http_errors

FOLDER = "mirrors"
_WANTED = re.compile(r"classnames\.txt|test/[^/\\]+\.tar")


def fetch_mirror(
    config: DatasetConfig,
    on_bytes: OnBytes | None = None,
    fetch: Fetch = fetch_file,
) -> Prepared:
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
    folder = path_inside(config, config.root / FOLDER, config.name).resolve()
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
        entries = [entry for entry in tree if isinstance(entry, RepoFile) and _WANTED.fullmatch(entry.path)]
    except unavailable as error:
        reason = " ".join(str(error).split())
        raise TlacError(
            f"{name}: its mirror {mirror.repo} can't be looked up ({reason}): run the command again where the hub "
            "can be reached"
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
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise TlacError(f"{path}: {error.strerror or error}: check the folder and run the command again") from error
