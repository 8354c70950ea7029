"""What the datasets library keeps of a repository of the hub, for when the hub can't be reached.

Does not know what is in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


class _Info(msgspec.Struct):
    """As much of a kept table's description as is read here."""

    splits: dict[str, object]


def kept_splits(cache: Path, repo: str, revision: str | None) -> Mapping[str, Sequence[Path]]:
    """The Arrow files of each split that is kept, those fetched last where there are several.

    A revision other than main has to be the commit itself: what else it meant is known to the hub alone.
    """
    kept: dict[str, Sequence[Path]] = {}
    # CONFIGURATION/VERSION/COMMIT/dataset_info.json
    folders = [path.parent for path in (cache / repo.replace("/", "___")).glob("*/*/*/dataset_info.json")]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
        if revision in (None, "main", folder.name):
            kept.update(_splits_in(folder))
    return kept


def _splits_in(folder: Path) -> Mapping[str, Sequence[Path]]:
    try:
        splits = msgspec.json.decode((folder / "dataset_info.json").read_bytes(), type=_Info).splits
    except (OSError, msgspec.MsgspecError):
        # half written, or of another version of the library
        return {}
    endings = {split: (f"*-{split}.arrow", f"*-{split}-?????-of-?????.arrow") for split in splits}
    found = {split: sorted(path for ending in of for path in folder.glob(ending)) for split, of in endings.items()}
    return {split: paths for split, paths in found.items() if paths}
