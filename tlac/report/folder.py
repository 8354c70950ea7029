"""The report's files: those that go into a run folder, and a page elsewhere with its pictures beside it.

Does not know what a page shows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tlac.errors import TlacError
from tlac.metrics import measure
from tlac.prompts import PromptSet, load_prompts
from tlac.report.calls import read_calls
from tlac.report.run_page import Page, ReportedRun, render_run
from tlac.report.thumbnails import FOLDER, make_thumbnails, read_thumbnails
from tlac.runs import read_predictions, read_record
from tlac.types import Sample

REPORT_NAME = "report.html"


def report_files(run: ReportedRun, samples: Iterable[Sample]) -> dict[str, bytes]:
    """What a run's report adds to its folder, by path: the page and the thumbnails of `samples`, which are the
    run's own, in order."""
    thumbnails = make_thumbnails(samples, run.predictions)
    page = render_run(replace(run, thumbnails=thumbnails), FOLDER)
    files = {f"{FOLDER}/{sha256}.webp": content for sha256, content in thumbnails.items()}
    return files | {REPORT_NAME: page.html.encode()}


def read_reported_run(folder: Path) -> ReportedRun:
    """A run folder with what lies beside its predictions. Raises InputError."""
    record = read_record(folder)
    predictions = tuple(read_predictions(folder / "predictions.jsonl"))
    return ReportedRun(
        record,
        predictions,
        measure(predictions),
        read_calls(folder),
        read_thumbnails(folder),
        _find_prompts(record.prompts),
    )


def write_page(page: Page, path: Path, thumbnails: Mapping[str, Path]) -> None:
    """Write a page, replacing one of that name, and the thumbnails that it expects beside it.

    Raises TlacError where they can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if page.images.beside:
            beside = path.parent / page.images.folder
            beside.mkdir(exist_ok=True)
            for name in page.images.beside:
                _write(beside / name, thumbnails[Path(name).stem].read_bytes())
        _write(path, page.html.encode())
    except OSError as error:
        raise TlacError(f"{path}: the report can't be written: {error.strerror}; choose another -o") from error


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    handle, scratch = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _find_prompts(name: str) -> PromptSet | None:
    """The prompt set of that name, if there is one here; a report does without its words otherwise."""
    try:
        return load_prompts(name)
    except TlacError:
        return None
