"""The report's files: those that go into a run folder, and a page elsewhere with its pictures beside it.

Does not know what a page shows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tlac.config.prompts import PromptSet, load_prompts
from tlac.errors import InputError, TlacError
from tlac.report.run_page import Page, ReportedRun, render_run
from tlac.report.samples import make_thumbnails, read_thumbnails
from tlac.results.calls import read_calls
from tlac.results.folder import FOLDER, read_run
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
    run = read_run(folder)
    # the page shows all of them, in many ways
    predictions = tuple(run.predictions)
    count = len(run.record.classes)
    for prediction in predictions:
        shown = (*prediction.words, *prediction.shortlist, *prediction.votes, *(index for index, _ in prediction.top5))
        if any(index is not None and not 0 <= index < count for index in shown):
            raise InputError(f"{folder}: {prediction.sample}: a class outside the {count} that run.json lists")
    prompts = _find_prompts(run.record.prompts) if run.record.prompts else None
    return ReportedRun(run.record, predictions, run.metrics, read_calls(folder), read_thumbnails(folder), prompts)


def write_page(page: Page, path: Path, thumbnails: Mapping[str, bytes | Path]) -> None:
    """Write a page, replacing one of that name, and the thumbnails that it expects beside it.

    Raises TlacError where they can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if page.images.beside:
            beside = path.parent.resolve() / page.images.folder
            beside.mkdir(exist_ok=True)
            for name in page.images.beside:
                source = thumbnails[Path(name).stem]
                if not (isinstance(source, Path) and source.parent == beside):
                    _write(beside / name, source if isinstance(source, bytes) else source.read_bytes())
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
