"""Answers in attached packs count like those of the database, once each, and none is missed or made up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from tests.support.fake_answers import attach, choice_request, entries, entry_for, image_request, write_lines
from tests.support.fakes import Shown
from tlac.cache import attached
from tlac.cache.attached import open_pack
from tlac.cache.pack import export_pack, import_pack
from tlac.cache.select import Selection, explain, prune, select
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store, read_format
from tlac.cache.verify import verify_store
from tlac.errors import StoreError
from tlac.types import Outcome

CLASSES = tuple(f"class number {number}" for number in range(200))
REFUSED = entry_for(image_request(77), "", Outcome.REFUSED, backend="other")
# two share a long text
MIXED = [
    *entries(20),
    REFUSED,
    entry_for(choice_request("a cat", CLASSES)),
    entry_for(choice_request("a dog", CLASSES)),
]


def by_key(answers: list[StoredAnswer]) -> list[StoredAnswer]:
    return sorted(answers, key=lambda answer: answer.key)


def otherwise(answer: StoredAnswer, text: str) -> StoredAnswer:
    return replace(answer, response=structs.replace(answer.response, text=text))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two attached packs, and some of the answers in its database."""
    with Store(tmp_path / "mine") as store:
        store.put_entries(MIXED[:3])
        attach(store, MIXED[3:8], MIXED[8:14], name="one")
        attach(store, MIXED[14:], name="two")
    return tmp_path / "mine"


def test_a_store_with_packs_answers_as_one_that_has_all_in_its_database(path: Path, tmp_path: Path) -> None:
    with Store(path) as store, Store(tmp_path / "plain") as plain:
        plain.put_entries(MIXED)
        keys = [answer.key for answer in MIXED] + ["e" * 64, "no key at all"]
        for found in (store, plain):
            assert list(found.entries()) == by_key(MIXED)
            assert [found.get_entry(key) for key in keys] == [*MIXED, None, None]
            assert [found.get_response(key) for key in keys] == [*(one.response for one in MIXED), None, None]
            assert {key: (said.outcome, said.text) for key, said in found.responses(keys)} == {
                one.key: (one.response.outcome, one.response.text) for one in MIXED
            }
            assert list(select(found, Selection(outcome=Outcome.REFUSED))) == [REFUSED]
            assert explain(found, REFUSED.request) == (REFUSED.key, {})
            assert prune(found, Selection(backend="other"), is_dry_run=True)[0].answers == 1
        assert (store.stats().counts, store.stats().cost_usd) == (plain.stats().counts, plain.stats().cost_usd)
        assert (store.stats().answers, store.stats().attached_packs) == (23, 2)
        for found, name in ((store, "a"), (plain, "b")):
            export_pack(found, tmp_path / f"{name}.jsonl", Selection(), "a test")
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
        assert import_pack(store, tmp_path / "b.jsonl").present == 23
    assert (verify_store(path).answers, verify_store(path).problems) == (23, ())


def test_what_the_database_has_counts_and_no_answer_counts_twice(path: Path) -> None:
    with Store(path) as store:
        store.put_entries([otherwise(MIXED[5], "again")])
        # the same answers in a third pack, and twice in it
        attach(store, MIXED[3:8], MIXED[2:9], name="three")
        assert store.get_response(MIXED[5].key).text == "again"
        expected = [otherwise(one, "again") if one is MIXED[5] else one for one in MIXED]
        assert list(store.entries()) == by_key(expected)
        assert store.stats().answers == 23
        assert len(dict(store.responses([one.key for one in MIXED]))) == 23
    assert (verify_store(path).answers, verify_store(path).problems) == (23, ())


def test_of_two_lines_under_one_key_the_first_counts(tmp_path: Path) -> None:
    first, second = otherwise(MIXED[0], "first"), otherwise(MIXED[0], "second")
    with Store(tmp_path / "mine") as store:
        attach(store, [MIXED[1], first], [second, MIXED[2]])
        assert list(store.entries()) == by_key([first, MIXED[1], MIXED[2]])


def test_answers_of_a_pack_are_forgotten_only_once_they_are_merged(path: Path) -> None:
    keys = [answer.key for answer in MIXED[1:4]]
    with Store(path) as store:
        with pytest.raises(StoreError, match=r"1 of these 3 answers stand in attached packs.*`tlac cache merge` first"):
            store.delete_entries(keys)
        assert store.stats().answers == 23
        assert store.merge_attached() == 20
        assert not any((path / "attached").iterdir())
        assert list(store.entries()) == by_key(MIXED)
        assert store.delete_entries(keys) == 3
        assert store.merge_attached() == 0
    with Store(path) as store:
        assert (store.stats().answers, store.stats().attached_packs) == (20, 0)


def test_an_answer_of_a_pack_that_the_database_hides_does_not_come_back_when_it_is_forgotten(path: Path) -> None:
    with Store(path) as store:
        store.put_entries([otherwise(MIXED[5], "again")])
        with pytest.raises(StoreError, match="1 of these 1 answers"):
            store.delete_entries([MIXED[5].key])
        store.merge_attached()
        assert store.get_response(MIXED[5].key).text == "again"
        store.delete_entries([MIXED[5].key])
        assert store.get_response(MIXED[5].key) is None


def test_a_tlac_that_knows_no_packs_refuses_a_store_that_has_one(tmp_path: Path) -> None:
    with Store(tmp_path / "mine") as store:
        assert read_format(store.path) == 2
        attach(store, MIXED)
        assert read_format(store.path) == 3


def test_a_pack_is_readable_by_its_owner_alone(path: Path) -> None:
    assert (path / "attached").stat().st_mode & 0o777 == 0o700
    assert (path / "attached" / "one" / "index").stat().st_mode & 0o777 == 0o600


def test_a_store_that_is_open_sees_what_another_one_attaches_and_merges(tmp_path: Path) -> None:
    with Store(tmp_path / "mine") as store, Store(tmp_path / "mine") as other:
        assert store.get_response(MIXED[0].key) is None
        attach(other, MIXED[:10], name="one")
        assert store.get_response(MIXED[0].key) == MIXED[0].response
        attach(other, MIXED[10:], name="two")
        with pytest.raises(StoreError, match="1 of these 1 answers"):
            store.delete_entries([MIXED[10].key])
        assert len(dict(store.responses([one.key for one in MIXED]))) == 23
        half = store.entries()
        next(half)
        assert other.merge_attached() == 23
        assert [store.get_entry(one.key) for one in MIXED] == MIXED
        assert store.stats().attached_packs == 0
        with pytest.raises(StoreError, match="was merged or deleted while it was read"):
            list(half)


def test_a_merge_that_is_killed_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store, monkeypatch.context() as patch:
        patch.setattr("tlac.cache.attached.AttachedPacks.remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.merge_attached()
    with Store(path) as store:
        assert store.stats().answers == 23
        assert store.merge_attached() == 9
        assert list(store.entries()) == by_key(MIXED)


def shorten(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-8])


def change_version(index: Path) -> None:
    index.write_bytes(index.read_bytes().replace(b"[1,", b"[9,", 1))


def name_another_file(index: Path) -> None:
    index.write_bytes(index.read_bytes().replace(b"0.jsonl", b"../0.js", 1))


def touch_a_file(index: Path) -> None:
    os.utime(index.with_name("0.jsonl"), ns=(1, 1))


def add_a_file(index: Path) -> None:
    write_lines(index.with_name("2.jsonl"), [])


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        shorten,
        change_version,
        name_another_file,
        touch_a_file,
        add_a_file,
        lambda index: index.write_bytes(b""),
        lambda index: index.write_bytes(b"\x93NUMPY" * 1000),
        lambda index: index.write_bytes(b"[1,[],1e400,0]\n"),
    ],
)
def test_an_index_that_is_gone_or_does_not_fit_is_made_anew(path: Path, harm: Callable[[Path], object]) -> None:
    index = path / "attached" / "one" / "index"
    whole = index.read_bytes()
    harm(index)
    assert verify_store(path).answers == 23
    with Store(path) as store:
        assert store.warnings == ()
        assert list(store.entries()) == by_key(MIXED)
    assert len(index.read_bytes()) == len(whole) or harm is add_a_file


def test_where_the_index_can_not_be_written_it_is_made_for_the_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / "attached" / "one" / "index").unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attached, "_write_index", full)
    with Store(path) as store:
        assert list(store.entries()) == by_key(MIXED)
    assert not (path / "attached" / "one" / "index").exists()


def test_a_file_that_is_gone_or_cut_short_is_said(path: Path) -> None:
    (path / "attached" / "one" / "0.jsonl").unlink()
    last = path / "attached" / "two" / "0.jsonl"
    last.write_bytes(last.read_bytes()[:-1])
    said = ["one: was changed since it was attached: it holds 6 answers of 11", "it holds 8 answers of 9"]
    for found, warning in zip(verify_store(path).problems, said, strict=True):
        assert warning in found.problem
    with Store(path) as store:
        assert [warning in told for warning, told in zip(said, store.warnings, strict=True)] == [True, True]
        assert store.stats().answers == 17


def test_a_file_that_is_exchanged_while_it_is_open_gives_no_other_answer(path: Path) -> None:
    file = path / "attached" / "two" / "0.jsonl"
    with Store(path) as store:
        write_lines(file, MIXED[14:][::-1])
        with pytest.raises(StoreError, match=r"0\.jsonl: changed while it was read"):
            list(store.entries())
        file.unlink()
        with pytest.raises(StoreError, match=r"0\.jsonl"):
            store.get_response(MIXED[15].key)


def test_a_line_that_can_not_be_read_is_named_with_its_file(path: Path) -> None:
    file = path / "attached" / "one" / "1.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], lines[2][:50] + "\n", *lines[3:]]))
    complaint = r"1\.jsonl: line 3: not as expected.*move the file away"
    with pytest.raises(StoreError, match=complaint):
        Store(path)
    (found,) = verify_store(path).problems
    assert found.database == "attached"
    file.rename(path / "away.jsonl")
    with Store(path) as store:
        assert store.stats().answers == 17


def test_an_answer_that_somebody_changed_is_found_by_verify(path: Path) -> None:
    file = path / "attached" / "one" / "0.jsonl"
    file.write_bytes(file.read_bytes().replace(b"What is shown", b"What is known", 1))
    found = verify_store(path)
    assert "0.jsonl: line 1: key" in found.problems[0].problem
    assert "not the digest of its request" in found.problems[0].problem
    assert found.answers == 23 - 5


def test_an_index_that_somebody_changed_is_found_by_verify(path: Path) -> None:
    index = path / "attached" / "two" / "index"
    content = bytearray(index.read_bytes())
    # the number of the first key, behind the header
    start = content.index(b"\n") + 1
    content[start] ^= 1
    index.write_bytes(content)
    assert any("the index lacks it" in found.problem for found in verify_store(path).problems)


@pytest.mark.parametrize("place", ["attached", "attached/two", "attached/two/0.jsonl", "attached/two/index"])
def test_no_link_is_followed_out_of_the_store(path: Path, tmp_path: Path, place: str) -> None:
    (path / place).rename(tmp_path / "elsewhere")
    (path / place).symlink_to(tmp_path / "elsewhere")
    if place.endswith("index"):
        # an index is made anew, in the link's place
        with Store(path) as store:
            assert store.stats().answers == 23
        assert not (path / place).is_symlink()
        return
    with pytest.raises(StoreError, match=r"link|no regular file"):
        Store(path)
    assert "attached" in verify_store(path).problems[0].problem


def test_a_file_among_the_packs_is_not_passed_over(path: Path) -> None:
    write_lines(path / "attached" / "more.jsonl", MIXED)
    with pytest.raises(StoreError, match=r"more\.jsonl: is no folder of an attached pack"):
        Store(path)


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    line = json.loads(write_lines(tmp_path / "0.jsonl", MIXED[:1]).read_text())
    keys = [f"{'a' * 16}{number:016x}{'b' * 32}" for number in (3, 1, 2)]
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(line | {"key": key}) + "\n" for key in [*keys, keys[1]]))
    pack = open_pack(tmp_path)
    assert (pack.answers, pack.warning) == (3, "")
    assert [key for key, _, _ in pack.scan()] == sorted(keys)
    assert [pack.locate(key)[1][0] for key in keys] == keys
    assert pack.locate("a" * 64) is None


def test_a_pack_whose_name_is_taken_is_not_mixed_with_it(path: Path) -> None:
    with Store(path) as store, pytest.raises(StoreError, match="can't be attached"):
        attach(store, MIXED[:1], name="one")
    assert verify_store(path).answers == 23


def test_the_command_line_tells_of_packs_and_merges_them(
    tlac_command: Callable[..., Shown], path: Path, tmp_path: Path
) -> None:
    shown = tlac_command("cache", "stats", "--store", path)
    assert shown.out.rstrip().endswith(f"in {path} (2 attached packs)")
    assert tlac_command("cache", "verify", "--store", path).out.startswith("23 answers")
    refused = tlac_command("cache", "prune", "--outcome", "refused", "--yes", "--store", path)
    assert refused.code == 1
    assert "run `tlac cache merge` first" in refused.err
    shown = tlac_command("cache", "merge", "--store", path)
    assert shown.out == f"20 answers of attached packs copied into the database of {path}\n"
    assert tlac_command("cache", "merge", "--store", path).out == "nothing is attached\n"
    assert tlac_command("cache", "prune", "--outcome", "refused", "--yes", "--store", path).code == 0
    shutil.rmtree(tmp_path / "mine" / "attached")
    with Store(path) as store:
        assert list(store.entries()) == by_key([one for one in MIXED if one is not REFUSED])
