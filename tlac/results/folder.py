"""Run folders: run.json, predictions.jsonl, metrics.json and thumbnails, written whole or not at all, and read back."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from tlac.errors import InputError
from tlac.results.predictions import PREDICTIONS, SHARDS, encode_predictions, name_shard, read_predictions
from tlac.results.record import Run, RunRecord
from tlac.results.usage import CALLS
from tlac.runtime.safe_files import naming_failure, open_regular, read_file, read_json, unfinished_folder
from tlac.scoring.metrics import Metrics, hinted_classes, measure
from tlac.scoring.predictions import Predictions

# far beyond what any run has
_MOST_RECORD_BYTES = 2**26
_MOST = 1e12
# remedy and subject, where a run can't be written
_RUN_FAILURE = ("; choose another --out", "the run ")
# as run.json called them before
_RENAMED = {"panel": "ensemble", "full_choices": "shortlist_recall"}


_THUMBNAIL = re.compile(r"[0-9a-f]{64}\.webp")
_MOST_THUMBNAIL_BYTES = 2**20
THUMBNAILS = "thumbnails"
# a file's content, or its pieces
Attachment: TypeAlias = "bytes | Iterable[bytes]"


def read_record(folder: Path) -> RunRecord:
    """The run.json of a run folder. Raises InputError."""
    path = folder / "run.json"
    try:
        document = read_json(path, dict[str, Any], _MOST_RECORD_BYTES, within=folder)
    except InputError as error:
        raise InputError(f"{error}; is {folder} a run folder?") from error
    try:
        record = msgspec.convert({_RENAMED.get(key, key): value for key, value in document.items()}, RunRecord)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{path}: not a run record: {error}") from error
    for name in ("cost_usd", "answers_cost_usd", "wall_s"):
        value = getattr(record, name)
        if value is not None and not 0 <= value <= _MOST:
            raise InputError(f"{path}: not a run record: {name} is {value:g}")
    return record


def load_run(folder: str | Path) -> Run:
    """A finished run, by its folder, measured anew: `.record`, `.metrics`, `.predictions` and `.to_pandas()`.

    >>> run = tlac.load_run("runs/20300101-120000-caltech101-gemini-tlac")  # doctest: +SKIP
    >>> run.metrics.accuracy, run.to_pandas().query("is_correct == False")  # doctest: +SKIP

    Raises InputError.
    """
    folder = Path(folder)
    record = read_record(folder)
    predictions = read_predictions(folder / PREDICTIONS)
    count = len(record.classes)
    if (sample := _outside(predictions, count)) is not None:
        raise InputError(f"{folder}: {sample}: a class outside the {count} that run.json lists")
    return Run(folder, record, predictions, measure(predictions, hinted_classes(record.classes, record.hints)))


def read_runs(places: Iterable[Path], on_problem: Callable[[str], None]) -> list[Run]:
    """The runs in these folders and below them; one that can't be read is told to `on_problem` and passed over.

    Raises InputError where there is no such folder.
    """
    runs: list[Run] = []
    for folder in dict.fromkeys(folder for place in places for folder in find_runs(place)):
        try:
            runs.append(load_run(folder))
        except InputError as error:
            on_problem(f"passed over: {error}")
    return runs


def _outside(predictions: Predictions, count: int) -> str | None:
    """The first sample that names a class beyond the `count` that there are."""
    decisions = predictions.decisions
    named = [
        max((index for index in (*words, *votes) if index is not None), default=-1)
        for words, votes in zip(decisions.words, decisions.votes, strict=True)
    ]
    highest = np.max([decisions.predicted, decisions.top_classes.max(axis=1, initial=-1), named], axis=0, initial=-1)
    listed = np.array([max(shortlist, default=-1) for shortlist in predictions.shortlists])
    most = np.max([predictions.label, highest[predictions.decision], listed[predictions.shortlist]], axis=0, initial=-1)
    found = np.flatnonzero(most >= count)
    return predictions.samples[int(found[0])] if len(found) else None


def find_runs(place: Path) -> list[Path]:
    """The run folders in a folder and below it, by name; the folder itself where it is one. Raises InputError."""
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; run folders are what `tlac bench` writes")
    found, pending = [], [place]
    # no recursion, and no link followed: somebody else may have made the folders
    while pending:
        folder = pending.pop()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                # a folder with a leading dot is a run that is just being written
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    pending.append(folder / entry.name)
                elif entry.name == "run.json":
                    found.append(folder)
    return sorted(found)


def list_runs(places: Sequence[Path]) -> list[Path]:
    """The run folders in these folders and below them, each once. Raises InputError where there is none."""
    found = {folder.resolve(): folder for place in places for folder in find_runs(place)}
    if not found:
        raise InputError(f"{places[0]}: holds no run; run folders are what `tlac bench` writes")
    return list(found.values())


def name_run(stamp: str, *parts: str) -> str:
    """A folder name from a time stamp and what was run, safe on every file system."""
    return "-".join([stamp, *(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.")[:40] for part in parts)])


def _free_name(out: Path, name: str) -> str:
    """The name, or the name with the first number that no folder in `out` has yet."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if not (out / one).exists())


def write_run(
    out: Path,
    record: RunRecord,
    predictions: Predictions | Sequence[Path],
    metrics: Metrics,
    attachments: Mapping[str, Attachment],
) -> Run:
    """Write a run to a folder in `out`, whole or not at all: the record's name, numbered where another run has it.

    `predictions` may be the files of shards that were written elsewhere, in order: they are moved. `attachments` are
    further files by their path in the folder, such as calls.jsonl. What earlier runs left that were killed is removed.
    Raises TlacError.
    """
    with naming_failure(out, *_RUN_FAILURE):
        out.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(out) as scratch:
            if isinstance(predictions, Predictions):
                attachments = {PREDICTIONS: encode_predictions(predictions), **attachments}
            else:
                (scratch / SHARDS).mkdir()
                for place, shard in enumerate(predictions):
                    # by its bytes alone where it comes from another disk
                    shutil.move(shard, scratch / SHARDS / name_shard(place, len(predictions)), shutil.copyfile)
            _write_json(scratch / "metrics.json", asdict(metrics))
            for name, content in attachments.items():
                path = scratch / name
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    file.writelines((content,) if isinstance(content, bytes) else content)
            record = replace(record, run=_free_name(out, record.run))
            _write_json(scratch / "run.json", asdict(record))
            folder = scratch.rename(out / record.run)
    if isinstance(predictions, Predictions):
        return Run(folder, record, predictions, metrics)
    return Run(folder, record, partial(read_predictions, folder / PREDICTIONS), metrics)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def inherited_files(parent: Path) -> dict[str, bytes | Iterator[bytes]]:
    """What a run that is scored again takes over from its parent's folder, by path: thumbnails and what the
    answers took, so that `tlac report` shows them. Raises InputError."""
    found: dict[str, bytes | Iterator[bytes]] = {
        f"{THUMBNAILS}/{path.name}": read_thumbnail(path) for path in find_thumbnails(parent).values()
    }
    if os.path.lexists(parent / CALLS):
        found[CALLS] = _pieces(parent / CALLS)
    return found


def find_thumbnails(folder: Path) -> dict[str, Path]:
    """The thumbnail files of a run folder by the sha256 of their image; empty where there are none.

    Links, and whatever else tlac does not write, are passed over.
    """
    try:
        if (folder / THUMBNAILS).is_symlink():
            return {}
        with os.scandir(folder / THUMBNAILS) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return {}
    return {name[:64]: folder / THUMBNAILS / name for name in names if _THUMBNAIL.fullmatch(name)}


def read_thumbnail(path: Path) -> bytes:
    """A thumbnail of a run folder; empty for what is no small WebP picture. Raises InputError."""
    content = read_file(path, _MOST_THUMBNAIL_BYTES, within=path.parent.parent)
    return content if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else b""


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path, within=path.parent) as file:
            while piece := file.read(2**20):
                yield piece
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is {path.parent} a run folder?") from error
