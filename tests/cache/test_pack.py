"""Response packs: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import tlac.cache.pack
from tests.support.fake_answers import choice_request, embedding, entries, entry_for, image_request
from tests.support.fuzzing import fuzzed
from tlac.cache.pack import Manifest, PackSpec, PromptsRecord, read_manifest, read_pack, write_pack
from tlac.cache.serialization import StoredAnswer
from tlac.errors import InputError, UsageError
from tlac.types import Outcome

MANIFEST = Manifest(
    created_at="2025-01-01T00:00:00+00:00",
    provenance="made up for a test",
    backend="fake",
    spec=PackSpec("fake/model", params={"temperature": 0}, image={"quality": 80}),
    prompts=PromptsRecord("default", "d" * 64),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def written(path: Path, answers: list[StoredAnswer] | None = None) -> Path:
    write_pack(path, MANIFEST, entries(3) if answers is None else answers)
    return path


def rewritten(path: Path, change: Callable[[list[Any]], None]) -> Path:
    """The pack with its parsed lines changed, and a digest that fits."""
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    change(documents)
    lines = [json.dumps(document) + "\n" for document in documents]
    documents[0]["digest"] = hashlib.sha256("".join(lines[1:]).encode()).hexdigest()
    path.write_text(json.dumps(documents[0]) + "\n" + "".join(lines[1:]))
    return path


@pytest.mark.parametrize("name", ["pack.jsonl", "pack.jsonl.zst"])
def test_answers_and_embeddings_come_back_from_a_pack(tmp_path: Path, name: str) -> None:
    answers = sorted([*entries(20), entry_for(choice_request("a cat"))], key=lambda entry: entry.key)
    vectors = sorted([embedding("a", 0.1, 0.2), embedding("b", -1.0, is_truncated=True)], key=lambda item: item.key)
    manifest = write_pack(tmp_path / name, MANIFEST, answers, vectors)
    assert read_manifest(tmp_path / name) == manifest
    assert (manifest.answers, manifest.embeddings) == (21, 2)
    found = list(read_pack(tmp_path / name))
    assert found[:21] == answers
    assert [(item.key, item.vector.tolist(), item.is_truncated) for item in found[21:]] == [
        (item.key, item.vector.tolist(), item.is_truncated) for item in vectors
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["answered", "refused", "empty", "truncated"])), max_size=8))
def test_any_text_survives_a_pack(tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, str, str]]) -> None:
    path = tmp_path_factory.mktemp("packs") / "pack.jsonl.zst"
    answers = [
        entry_for(image_request(number, words), text, Outcome(outcome))
        for number, (words, text, outcome) in enumerate(told)
    ]
    answers.sort(key=lambda entry: entry.key)
    write_pack(path, MANIFEST, answers)
    assert list(read_pack(path)) == answers


@pytest.mark.parametrize("name", ["pack.jsonl", "pack.jsonl.zst"])
def test_equal_answers_give_equal_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    first, second = written(tmp_path / name), written(tmp_path / "other" / name)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]


def test_a_pack_that_fails_in_the_middle_leaves_the_old_one(tmp_path: Path) -> None:
    path = written(tmp_path / "pack.jsonl")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="lone surrogate"):
        write_pack(path, MANIFEST, [entry_for(image_request(1), "\ud800")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_pack_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk: list[int] = []

    def fsync(descriptor: int) -> None:
        assert not (tmp_path / "pack.jsonl").exists()
        on_disk.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    path = written(tmp_path / "pack.jsonl")
    assert on_disk == [path.stat().st_ino]


def test_a_pack_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl"
    first, second, _ = entries(3)
    wrong_key = StoredAnswer("0" * 64, first.request, first.response, "fake")
    for answers, complaint in (
        ([second, first], "out of order"),
        ([first, first], "stands twice"),
        ([entry_for(image_request(1), backend="other")], "of backend 'other'"),
        ([wrong_key], "not the digest"),
        ([entry_for(image_request(1), "x" * 17_000_000)], "too long"),
    ):
        with pytest.raises(InputError, match=complaint):
            write_pack(path, MANIFEST, answers)
    with pytest.raises(InputError, match="backend"):
        write_pack(path, Manifest("", "", "evil\x1b[2J", PackSpec("m")), [])
    with pytest.raises(InputError, match="specs"):
        write_pack(path, Manifest("", "", tlac_pack=2, specs={"empty": []}), [])
    with pytest.raises(InputError, match="can't be written"):
        write_pack(tmp_path / "missing" / "pack.jsonl", MANIFEST, [])
    assert list(tmp_path.iterdir()) == []


def set_first(key: str, value: object) -> Callable[[list[Any]], None]:
    return lambda documents: documents[0].__setitem__(key, value)


def set_answer(key: str, value: object) -> Callable[[list[Any]], None]:
    return lambda documents: documents[1].__setitem__(key, value)


def set_response(key: str, value: object) -> Callable[[list[Any]], None]:
    return lambda documents: documents[1]["response"].__setitem__(key, value)


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


HOSTILE: list[tuple[Callable[[list[Any]], None], str]] = [
    (set_first("tlac_pack", 3), "line 1: .*upgrade tlac"),
    (set_first("tlac_pack", 0), "line 1: .*upgrade tlac"),
    (set_first("tlac_pack", 2), "line 1: lacks specs"),
    (set_first("backend", None), "line 1: "),
    (set_first("spec", None), "line 1: must have 'backend' and 'spec'"),
    (set_first("specs", {}), "line 1: must have 'backend' and 'spec'"),
    (set_response("cost_usd", 1e308), "line 2: .*cost_usd"),
    (set_response("latency_s", 1e308), "line 2: .*latency_s"),
    (set_response("usage", {"prompt": 2**53, "completion": 0, "cached": 0, "image": 0}), "line 2: .*prompt"),
    (lambda documents: documents[1]["request"]["params"].update(a=nested(100)), "line 2: .*nested more than 64 deep"),
    (lambda documents: documents[0]["spec"]["params"].update(a=nested(100)), "line 1: .*nested more than 64 deep"),
    (set_answer("backend", "fake"), "line 2: .*its backend, each once"),
    (set_first("tlac_pack", "1"), "line 1: "),
    (set_first("extra", 1), "line 1: .*extra"),
    (set_first("answers", 4), "line 4: the pack ends after 3 answers of 4"),
    (set_first("answers", 2), "line 4: .*3 answers of 2"),
    (set_first("embeddings", 1), "0 embeddings of 1"),
    (set_first("backend", "a\x1b[31m"), "line 1: .*backend"),
    (set_first("spec", {"model": "m"}), "line 1: .*spec"),
    (set_answer("key", "0" * 64), "line 2: key 000000000000 is not the digest"),
    (set_answer("key", "../../etc/passwd"), r"line 2: .*key"),
    (set_answer("extra", 1), "line 2: .*extra"),
    (set_answer("request", {}), "line 2: "),
    (set_answer("request", None), "line 2: .*object"),
    (set_response("outcome", "failed"), "line 2: .*outcome"),
    (set_response("text", None), "line 2: .*text"),
    (set_response("cost_usd", -1), "line 2: .*cost_usd"),
    (set_response("from_store", True), "line 2: .*from_store"),
    (lambda documents: documents.insert(1, documents[1]), "line 3: key .* stands twice"),
    (lambda documents: documents.reverse() or documents.insert(0, documents.pop()), "line 3: key .* out of order"),  # type: ignore[func-returns-value]
    (lambda documents: documents.append([]), "line 5: "),
    (lambda documents: documents.append({"embedding_key": "x", "vector": "", "is_truncated": False}), "line 5: "),
    (
        lambda documents: documents.append({"embedding_key": "a" * 64, "vector": "AAA", "is_truncated": False}),
        "line 5: .*base64",
    ),
    (lambda documents: documents.clear() or documents.append({}), "line 1: "),  # type: ignore[func-returns-value]
]


@pytest.mark.parametrize(("change", "complaint"), HOSTILE)
def test_a_pack_that_was_tampered_with_is_refused_by_line(
    tmp_path: Path, change: Callable[[list[Any]], None], complaint: str
) -> None:
    path = rewritten(written(tmp_path / "pack.jsonl"), change)
    with pytest.raises(InputError, match=complaint) as refusal:
        list(read_pack(path))
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_a_changed_answer_shows_in_the_digest(tmp_path: Path) -> None:
    path = written(tmp_path / "pack.jsonl")
    path.write_text(path.read_text().replace("answer 1", "answer X"))
    with pytest.raises(InputError, match="line 1: the manifest's digest"):
        list(read_pack(path))


@pytest.mark.parametrize("name", ["pack.jsonl", "pack.jsonl.zst"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_pack_that_was_cut_short_is_refused(tmp_path: Path, name: str, part: float) -> None:
    path = written(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=name):
        list(read_pack(path))


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\n", b"null\n", b'{"tlac_pack": 1e999}\n', b'{"tlac_pack": NaN}\n'],
)
def test_a_file_that_is_no_pack_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "pack.jsonl"
    path.write_bytes(line)
    for read in (read_manifest, lambda path: list(read_pack(path))):
        with pytest.raises(InputError, match="line 1"):
            read(path)
    path.write_bytes(written(path).read_bytes() + line)
    with pytest.raises(InputError, match="line 5"):
        list(read_pack(path))


@pytest.mark.parametrize("content", [b"not zstd at all", zstandard.compress(b"x" * 99)[:-3] + b"abc"])
def test_broken_compression_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pack.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(InputError, match="line 1"):
        read_manifest(path)


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(InputError, match="can't be read"):
            read_manifest(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
@pytest.mark.parametrize("name", ["pack.jsonl", "pack.jsonl.zst"])
def test_a_pipe_is_no_pack_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, Path("/dev/zero")):
        with pytest.raises(InputError, match="no regular file"):
            list(read_pack(path))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask of this kind")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_pack_keeps_to_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = written(tmp_path / "pack.jsonl.zst")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


READ_WITHIN = """
import re, resource, sys
from pathlib import Path
from tlac.errors import InputError
from tlac.cache.pack import read_pack
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
try:
    for kept in read_pack(Path(sys.argv[1])):
        pass
except InputError as error:
    print(error)
# not ru_maxrss: it starts from what the parent held when this process was made
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")


def read_apart(path: Path) -> tuple[str, int]:
    """What a process of its own says of a pack, and the most memory that it held (MiB)."""
    said = subprocess.check_output([sys.executable, "-c", READ_WITHIN, str(path)], text=True)
    complaint, _, kibibytes = said.strip().rpartition("\n")
    return complaint, int(kibibytes) // 1024


@needs_proc
def test_a_line_of_a_gigabyte_is_refused_without_holding_it(tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl"
    path.write_bytes(b"")
    os.truncate(path, 2**30)
    complaint, mebibytes = read_apart(path)
    assert "line 1: longer than" in complaint
    assert mebibytes < 300


@needs_proc
def test_a_zip_bomb_is_refused_without_holding_it(tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as bomb:
        for _ in range(1024):
            bomb.write(bytes(2**20))
    assert path.stat().st_size < 200_000
    complaint, mebibytes = read_apart(path)
    assert "line 1: longer than" in complaint
    assert mebibytes < 300


def test_a_pack_of_too_many_bytes_in_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "pack.jsonl.zst", entries(50))
    assert tlac.cache.pack.MAX_PACK_BYTES == 8_589_934_592
    monkeypatch.setattr(tlac.cache.pack, "MAX_PACK_BYTES", 5000)
    with pytest.raises(InputError, match="holds more than 5,000 bytes"):
        list(read_pack(path))


def test_the_digest_of_the_manifest_covers_every_line_after_it(tmp_path: Path) -> None:
    manifest = write_pack(tmp_path / "pack.jsonl", MANIFEST, [])
    assert manifest.digest == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.fuzz
@fuzzed
@given(st.data())
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = written(tmp_path_factory.mktemp("packs") / data.draw(st.sampled_from(["p.jsonl", "p.jsonl.zst"])))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    try:
        found = list(read_pack(path))
    except InputError:
        return
    # the digest is over the lines with answers; the manifest's own words may differ
    assert [replace(answer, backend="fake") for answer in found] == entries(3)
