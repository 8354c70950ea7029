"""Labels as files: one row for each image that was labelled, in the order in which images were given.

    write_labels(labels, Path("labels.csv"))

They hold nothing that differs between two runs of equal answers, so equal answers give equal bytes. Beside csv, parquet
and jsonl there is what other tools import:

label-studio  tasks with predictions, JSON: https://labelstud.io/guide/predictions
fiftyone      the labels.json of a FiftyOneImageClassificationDataset, images by absolute path:
              https://docs.voxel51.com/user_guide/import_datasets.html
coco          image-level annotations (no boxes), as Datumaro's "coco_labels" has them
yolo-cls      links in train/CLASS and val/CLASS: https://docs.ultralytics.com/datasets/classify
folder        links in CLASS
"""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from tlac.errors import InputError, UsageError
from tlac.images import size_of
from tlac.results.table_files import KINDS, PART, find_kind, write_table, writing_part
from tlac.runtime.safe_files import OWN_FOLDER_MARK, naming_failure
from tlac.types import Outcome

COLUMNS = ("path", "label", "confidence", "runner_up", "margin", "answer", "outcome", "reason", "cost_usd", "sha256")
"""The columns of a labels.csv; the other formats have `candidates` as well."""

_NUMBERS = ("confidence", "margin", "cost_usd")
FORMATS = (*KINDS, "label-studio", "fiftyone", "coco", "yolo-cls", "folder")
FOLDERS = {"yolo-cls": ("train", "val"), "folder": ("",)}
_UNSAFE = frozenset('<>:"/\\|?*')
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in "123456789¹²³")])
_MOST_BYTES = 200
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Label:
    """What one image was taken for; None where it is not known.

    `path` is the image as it was given, `label` a class name, `confidence` in [0, 1], `runner_up` the next best class,
    `margin` the lead over it in cosine. `answer` are the LMM's words. `cost_usd` is what those answers cost that no row
    before has needed: the column's sum is what all answers cost. `candidates` are (class name, score), best first.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    runner_up: str | None = None
    margin: float | None = None
    answer: str | None = None
    outcome: Outcome = Outcome.ANSWERED
    reason: str = ""
    cost_usd: float | None = None
    sha256: str | None = None
    candidates: tuple[tuple[str, float], ...] = ()


def write_labels(labels: Iterable[Label], path: Path, kind: str | None = None) -> None:
    """Write labels as they come, as `write_table` does: what is not finished lies in PATH.part."""
    kind = find_kind(path, kind)
    names = COLUMNS if kind == "csv" else [one.name for one in fields(Label)]
    types = {"candidates": list, **dict.fromkeys(_NUMBERS, float)}
    write_table(map(_as_row, labels), {name: types.get(name, str) for name in names}, path, kind)


def _as_row(label: Label) -> dict[str, object]:
    return {one.name: getattr(label, one.name) for one in fields(Label)} | {"outcome": str(label.outcome)}


def default_path(kind: str | None) -> Path:
    """Where labels go in that format (None for CSV) if nobody says where."""
    if kind in FOLDERS:
        return Path("labels")
    return Path(f"labels.{kind or 'csv'}" if kind in (None, *KINDS) else "labels.json")


def export_labels(labels: Iterable[Label], path: Path, kind: str | None, classes: Sequence[str]) -> None:
    """Write labels as they come in one of `FORMATS`, None for the one that the file's name ends in.

    As `write_labels`: what is not finished lies in PATH.part. A folder of links is made anew where it holds nothing but
    our links, else UsageError is raised.
    """
    if kind in FOLDERS:
        _link_images(labels, path, FOLDERS[kind], classes)
    elif kind in _WRITERS:
        with writing_part(path) as file:
            for piece in _WRITERS[kind](labels, classes):
                file.write(piece)
                file.flush()
    else:
        write_labels(labels, path, kind)


def _label_studio(labels: Iterable[Label], _classes: Sequence[str]) -> Iterator[bytes]:
    """Tasks for a project whose labelling configuration is Label Studio's own template for image classification."""

    def task(label: Label) -> dict[str, Any]:
        found: dict[str, Any] = {"data": {"image": _served(label.path)}}
        if label.label is not None:
            choice = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [label.label]}}
            found["predictions"] = [{"model_version": "tlac", "score": label.confidence, "result": [choice]}]
        return found

    yield b"["
    yield from _joined(_encode(task(label)) for label in labels)
    yield b"\n]\n"


def _served(path: str) -> str:
    """An image's address in Label Studio: local files are served below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/."""
    return path if "://" in path else f"/data/local-files/?d={quote(_absolute(path).lstrip('/'))}"


def _fiftyone(labels: Iterable[Label], classes: Sequence[str]) -> Iterator[bytes]:
    places = _places(classes)

    def entry(label: Label) -> bytes:
        target = None
        if label.label is not None:
            target = {"label": places[label.label], "confidence": label.confidence}
        return _encode(_absolute(label.path)) + b": " + _encode(target)

    yield b'{"classes": %b, "labels": {' % _encode(classes)
    yield from _joined(map(entry, labels))
    yield b"\n}}\n"


def _coco(labels: Iterable[Label], classes: Sequence[str]) -> Iterator[bytes]:
    places = _places(classes)
    annotations: list[bytes] = []

    def image(label: Label, number: int) -> bytes:
        if label.label is not None:
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": places[label.label] + 1}
            annotations.append(_encode({**annotation, "score": label.confidence}))
        size: dict[str, int] = {}
        with suppress(InputError):
            size = dict(zip(("width", "height"), size_of(Path(label.path), label.path), strict=True))
        return _encode({"id": number, "file_name": label.path, **size})

    categories = [{"id": place + 1, "name": name, "supercategory": ""} for name, place in places.items()]
    yield b'{"info": {"description": "labels by tlac"}, "licenses": [], "categories": %b, "images": [' % (
        _encode(categories)
    )
    yield from _joined(image(label, number) for number, label in enumerate(labels, start=1))
    yield b'\n], "annotations": ['
    yield from _joined(annotations)
    yield b"\n]}\n"


_WRITERS: dict[str | None, Callable[[Iterable[Label], Sequence[str]], Iterator[bytes]]] = {
    "label-studio": _label_studio,
    "fiftyone": _fiftyone,
    "coco": _coco,
}


def _places(classes: Sequence[str]) -> dict[str, int]:
    """The place of each class; a name that stands twice means the first."""
    found: dict[str, int] = {}
    for place, name in enumerate(classes):
        found.setdefault(name, place)
    return found


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        yield (b",\n" if number else b"\n") + piece


def _absolute(path: str) -> str:
    # links are not followed
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100


def _link_images(labels: Iterable[Label], path: Path, splits: Sequence[str], classes: Sequence[str]) -> None:
    """Put links to the labelled images into a folder for each class; with two splits a fifth is in the second."""
    part = path.with_name(path.name + PART)
    folders = _folder_names(classes)
    with naming_failure(path, "; choose another -o"):
        for place in (path, part):
            _require_ours(place)
        _remove_links(part)
        part.mkdir()
        (part / OWN_FOLDER_MARK).write_text(
            "links that `tlac label` has made; it makes this folder anew\n", encoding="utf-8"
        )
        for label in labels:
            if label.label is None or not is_linkable(label):
                continue
            drawn = hashlib.sha256(label.path.encode()).hexdigest()
            folder = part / (splits[-1] if int(drawn[:8], 16) % 5 == 0 else splits[0]) / folders[label.label]
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / Path(label.path).name
            if os.path.lexists(link):
                stem = link.stem.encode()[:_MOST_BYTES].decode(errors="ignore")
                link = link.with_name(f"{stem}-{drawn[:12]}{link.suffix}")
            link.symlink_to(_absolute(label.path))
        _remove_links(path)
        part.rename(path)


def is_linkable(label: Label) -> bool:
    """Whether the image is a file here, and no row of a table or address elsewhere."""
    return os.path.isfile(label.path)  # noqa: PTH113 - is_file raises for a long name


def _require_ours(folder: Path) -> None:
    """Raise UsageError for what `tlac label` has not made, and for a folder that something else was put into."""
    if not os.path.lexists(folder):
        return
    is_ours = not folder.is_symlink() and (folder / OWN_FOLDER_MARK).is_file()
    if is_ours:
        files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
        is_ours = all(file.is_symlink() or file == folder / OWN_FOLDER_MARK for file in files)
    if not is_ours:
        raise UsageError(f"{folder}: holds files that tlac did not put there: choose another -o, or move it away")


def _remove_links(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)


def _folded(name: str) -> str:
    """What is left of a name where a file system tells neither case nor ways to write an accent apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _folder_names(classes: Sequence[str]) -> dict[str, str]:
    """A folder name for each class that every file system takes, and that no two share where case or form is lost."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(classes):
        safe = "".join(sign if sign.isprintable() and sign not in _UNSAFE else "_" for sign in name)
        # file systems count bytes; a leading dot would hide it, and Windows drops dots and spaces at the end
        safe = safe.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .") or "_"
        if safe.partition(".")[0].lower() in _RESERVED:
            safe = f"_{safe}"
        numbered = (safe if number == 1 else f"{safe} ({number})" for number in range(1, len(classes) + 2))
        found[name] = next(one for one in numbered if _folded(one) not in taken)
        taken.add(_folded(found[name]))
    return found
