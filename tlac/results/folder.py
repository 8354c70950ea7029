"""Run folders: run.json, predictions.jsonl, metrics.json, written whole or not at all, and read back.

Does not know how a run came about.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from tlac.errors import InputError, TlacError
from tlac.results.predictions import PREDICTIONS, read_predictions, write_predictions
from tlac.results.record import Run, RunRecord
from tlac.runtime.spooled_list import LazySequence
from tlac.scoring.metrics import Metrics, measure
from tlac.types import Prediction

FOLDER = "thumbnails"
# as run.json called them before
_RENAMED = {"panel": "ensemble", "full_choices": "shortlist_recall"}


# a file's content, or its pieces
Attachment: TypeAlias = "bytes | Iterable[bytes]"


def read_record(folder: Path) -> RunRecord:
    """The run.json of a run folder. Raises InputError."""
    path = folder / "run.json"
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert({_RENAMED.get(key, key): value for key, value in document.items()}, RunRecord)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is {folder} a run folder?") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a run record: {error}") from error


def _predictions_in(folder: Path, count: int) -> Sequence[Prediction]:
    return LazySequence(count, lambda: read_predictions(folder / PREDICTIONS))


def read_run(folder: Path) -> Run:
    """A whole run folder, measured anew from its predictions. Raises InputError."""
    record = read_record(folder)
    count = len(record.classes)

    def check(prediction: Prediction) -> Prediction:
        if any(index is not None and not 0 <= index < count for index in (prediction.label, prediction.predicted)):
            raise InputError(f"{folder}: {prediction.sample}: a class outside the {count} that run.json lists")
        return prediction

    metrics = measure(map(check, read_predictions(folder / PREDICTIONS)))
    return Run(folder, record, _predictions_in(folder, metrics.n), metrics)


def find_runs(place: Path) -> list[Path]:
    """The run folders in a folder and below it, by name; the folder itself where it is one. Raises InputError."""
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; run folders are what `tlac bench` writes")
    found = [path.parent for path in place.rglob("run.json")]
    # a folder with a leading dot is a run that is just being written
    return sorted(folder for folder in found if not folder.name.startswith("."))


def name_run(stamp: str, *parts: str) -> str:
    """A folder name from a time stamp and what was run, safe on every file system."""
    return "-".join([stamp, *(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.")[:40] for part in parts)])


def free_name(out: Path, name: str) -> str:
    """The name, or the name with the first number that no folder in `out` has yet."""
    number, candidate = 1, name
    while (out / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


class UnfinishedRun:
    """A run folder while it is made, in a folder beside it that nobody takes for a run."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._out = out
        self._scratch = scratch

    def keep(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Write predictions as they are gone through, and give them on. Raises TlacError."""
        with _complaining(self._out):
            yield from write_predictions(self._scratch / PREDICTIONS, predictions)

    def finish(self, record: RunRecord, metrics: Metrics, attachments: Mapping[str, Attachment]) -> Run:
        """Write what belongs to the predictions and give the folder its name.

        `attachments` are further files by their path in the folder, such as report.html. Raises TlacError.
        """
        folder = self._out / record.run
        with _complaining(self._out):
            _write_json(self._scratch / "metrics.json", asdict(metrics))
            _write_json(self._scratch / "run.json", asdict(record))
            for name, content in attachments.items():
                path = self._scratch / name
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    file.writelines((content,) if isinstance(content, bytes) else content)
            if folder.exists():
                raise TlacError(f"{folder}: exists already and is not overwritten")
            self._scratch.rename(folder)
        return Run(folder, record, _predictions_in(folder, metrics.n), metrics)


@contextmanager
def begin_run(out: Path) -> Iterator[UnfinishedRun]:
    """A run folder in `out`, to be filled and finished; what is not finished leaves nothing behind.

    Raises TlacError where `out` can't be written.
    """
    with _complaining(out):
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
    try:
        with _complaining(out):
            scratch.chmod(0o755)
        yield UnfinishedRun(out, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_run(
    out: Path,
    record: RunRecord,
    predictions: Iterable[Prediction],
    metrics: Metrics,
    attachments: Mapping[str, Attachment],
) -> Path:
    """Write a run folder in `out` and give its path. Nothing is overwritten; a crash leaves no half folder.

    Raises TlacError where the folder can't be written.
    """
    with begin_run(out) as run:
        for _ in run.keep(predictions):
            pass
        return run.finish(record, metrics, attachments).folder


@contextmanager
def _complaining(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TlacError(f"{out}: the run can't be written: {error.strerror}; choose another --out") from error


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
