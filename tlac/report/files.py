"""The report's files: those that go into a run folder, and a page elsewhere with its pictures beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tlac.config.prompts import PromptSet, load_prompts
from tlac.errors import InputError, TlacError
from tlac.report.run_page import ReportedRun, render_run
from tlac.report.samples import PageImages, make_thumbnails
from tlac.results.calls import FOLDER, find_thumbnails, read_calls, read_thumbnail
from tlac.results.folder import read_run
from tlac.results.record import Run
from tlac.runtime.safe_files import read_json, replacing
from tlac.types import Sample

REPORT_NAME = "report.html"
_ORIGINALS = "originals.json"
# what a browser shows; nobody's run folder may offer a link to any other file
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff"))


def write_report(run: Run, samples: Iterable[Sample] | None = None) -> Path:
    """Make the report.html of a finished run in its folder, and give its path.

    `samples` are the run's own, in order: their thumbnails are made and kept beside the page. Without them, those
    that the folder holds are shown. Raises InputError, and TlacError where the folder can't be written.
    """
    reported = _with_files(run)
    path = run.folder / REPORT_NAME
    with complaining(path):
        if samples is not None:
            made, files = make_thumbnails(samples, reported.predictions)
            (run.folder / FOLDER).mkdir(exist_ok=True)
            for sha256, content in made.items():
                write_whole(run.folder / FOLDER / f"{sha256}.webp", content)
            originals = {sha256: Path(os.path.relpath(file, run.folder)).as_posix() for sha256, file in files.items()}
            write_whole(run.folder / FOLDER / _ORIGINALS, json.dumps(originals, indent=0).encode())
            reported = replace(reported, thumbnails={**reported.thumbnails, **made}, originals=originals)
    html, images = render_run(reported, FOLDER)
    write_page(html, images, path, reported.thumbnails)
    return path


def read_reported_run(folder: Path) -> ReportedRun:
    """A run folder with what lies beside its predictions. Raises InputError."""
    return _with_files(read_run(folder))


def _with_files(run: Run) -> ReportedRun:
    return ReportedRun(
        run.folder,
        run.record,
        run.predictions,
        run.metrics,
        calls=read_calls(run.folder),
        thumbnails=find_thumbnails(run.folder),
        prompts=_find_prompts(run.record.prompts) if run.record.prompts else None,
        originals=_read_originals(run.folder),
    )


def _read_originals(folder: Path) -> dict[str, str]:
    """The paths of images that are still there, from the run's folder; a file of another form counts as none."""
    try:
        found = read_json(folder / FOLDER / _ORIGINALS, dict[str, str], 2**24, within=folder)
        return {sha256: path for sha256, path in found.items() if is_shown_by_browser(folder / path)}
    except (OSError, ValueError, InputError):
        return {}


def is_shown_by_browser(path: Path) -> bool:
    """Whether a page may link to it: a regular file whose name ends as an image's that browsers show."""
    return path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file() and not path.is_symlink()


def write_page(html: str, images: PageImages, path: Path, thumbnails: Mapping[str, bytes | Path]) -> None:
    """Write a page, replacing one of that name, and the thumbnails that it expects beside it.

    Raises TlacError where they can't be written.
    """
    with complaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if images.beside:
            beside = path.parent.resolve() / images.folder
            beside.mkdir(exist_ok=True)
            for name in images.beside:
                source = thumbnails[Path(name).stem]
                if not (isinstance(source, Path) and source.parent.resolve() == beside):
                    write_whole(beside / name, source if isinstance(source, bytes) else read_thumbnail(source))
        write_whole(path, html.encode())


@contextmanager
def complaining(path: Path) -> Iterator[None]:
    """Raise TlacError for what the system says while a page is written."""
    try:
        yield
    except OSError as error:
        raise TlacError(f"{path}: the page can't be written: {error.strerror}; choose another -o") from error


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def _find_prompts(name: str) -> PromptSet | None:
    """The prompt set of that name, if there is one here; a report does without its words otherwise."""
    try:
        return load_prompts(name)
    except TlacError:
        return None
