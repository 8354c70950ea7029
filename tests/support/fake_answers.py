"""Answers, embeddings and hostile rows for the tests of the store and of packs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlac.cache.serialization import StoredAnswer, StoredEmbedding, answer_text, fold
from tlac.cache.store import Store
from tlac.hashing import request_document, sha256_of
from tlac.types import ChoiceTask, Image, LMMRequest, LMMResponse, Message, Outcome, TextPart, Usage

FORMAT_1 = Path(__file__).parent / "stores" / "format1"


def image_request(number: int, words: str = "What is shown?", **changes: object) -> LMMRequest:
    image = Image(f"{number:064x}", b"")
    messages = (Message("user", (TextPart(words), image)),)
    given = {"stage": "stage1", "model": "fake/model", "messages": messages, "params": {"temperature": 0}}
    return LMMRequest(**{**given, **changes})  # type: ignore[arg-type]


def choice_request(answer: str, classes: tuple[str, ...] = ("cat", "dog")) -> LMMRequest:
    parts = (TextPart("Classes: " + ", ".join(classes), is_prefix=True), TextPart(f"Which is {answer}?"))
    messages = (Message("user", parts),)
    return LMMRequest("stage2", "fake/model", messages, {"temperature": 0}, choice=ChoiceTask(answer, classes))


def entry_for(
    request: LMMRequest, text: str = "a cat", outcome: Outcome = Outcome.ANSWERED, **changes: object
) -> StoredAnswer:
    given = {
        "model_version": "model-001",
        "usage": Usage(prompt=10, completion=2),
        "cost_usd": 0.5,
        "latency_s": 0.25,
        "created_at": "2025-01-01T00:00:00+00:00",
        "from_store": True,
    }
    backend = str(changes.pop("backend", "fake"))
    # tuples become lists, as they are in what is read back
    document = json.loads(json.dumps(request_document(request)))
    response = LMMResponse(outcome, text, **{**given, **changes})  # type: ignore[arg-type]
    return StoredAnswer(sha256_of(document), document, response, backend)


def entries(count: int) -> list[StoredAnswer]:
    """Answers to stage 1, ordered by key."""
    made = [entry_for(image_request(number), f"answer {number}") for number in range(count)]
    return sorted(made, key=lambda entry: entry.key)


def embedding(name: str, *values: float, is_truncated: bool = False) -> StoredEmbedding:
    return StoredEmbedding(sha256_of(name), np.array(values, np.float32), is_truncated)


def run_sql(folder: Path, *statements: str, parameters: tuple[object, ...] = ()) -> None:
    """Change a cache's database behind tlac's back."""
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement, parameters)


def insert_row(folder: Path, **columns: object) -> None:
    """Put a row into a cache's database behind tlac's back: as diskcache would write it, but for `columns`."""
    row = {"key": "f" * 64, "raw": 1, "store_time": 0.0, "size": 0, "mode": 1, "filename": None, "value": "{}"}
    row |= columns
    places = ", ".join("?" * len(row))
    with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
        connection.execute(f"INSERT INTO Cache({', '.join(row)}) VALUES ({places})", tuple(row.values()))


def restore_format_1(folder: Path) -> None:
    """A store as tlac wrote it in format 1, from its dump."""
    folder.mkdir()
    (folder / "tlac-store.json").write_text('{"tlac_store": 1}\n')
    for name in ("responses", "embeddings"):
        (folder / name).mkdir()
        with closing(sqlite3.connect(folder / name / "cache.db")) as connection:
            connection.executescript("PRAGMA journal_mode=WAL;" + (FORMAT_1 / f"{name}.sql").read_text())


def write_lines(path: Path, answers: list[StoredAnswer]) -> Path:
    """A file of an attached pack, as a worker of a cluster would write it; returns it."""
    texts: dict[str, str] = {}
    with path.open("w", encoding="utf-8") as file:
        for answer in answers:
            request, found = fold(answer.request)
            file.writelines(text + "\n" for key, text in found.items() if key not in texts)
            texts.update(found)
            file.write(answer_text(replace(answer, request=request), has_key=True) + "\n")
    return path


def attach(store: Store, *files: list[StoredAnswer], name: str = "run") -> Path:
    """Attach answers, each list of them as a file; returns the pack's folder."""
    folder = store.path / f"{name}-logs"
    folder.mkdir()
    for number, answers in enumerate(files):
        write_lines(folder / f"{number}.jsonl", answers)
    store.attach(folder, name)
    return store.path / "attached" / name
