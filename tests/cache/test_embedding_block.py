"""Blocks of embeddings: copies of the store's rows that are mapped, and never say anything else than the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_answers import embedding, run_sql
from tlac.cache.embedding_block import MIN_ROWS, read_block
from tlac.cache.serialization import StoredEmbedding
from tlac.cache.store import Store
from tlac.cache.verify import prune_damaged
from tlac.hashing import embedding_keys

COUNT = MIN_ROWS + 10
KEYS = embedding_keys("some", map(str, range(COUNT)))
VECTORS = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)
IS_CUT = np.arange(COUNT) % 7 == 0


@pytest.fixture
def folder(store: Store) -> Path:
    """The embeddings' folder of the store, filled, with a block of all that it holds."""
    rows = zip(KEYS, VECTORS, IS_CUT.tolist(), strict=True)
    store.put_embeddings(StoredEmbedding(*row) for row in rows)
    store.load_embeddings(KEYS, "some")
    (block,) = (store.path / "embeddings").glob("block-*")
    return block.parent


def loaded(store: Store, keys: list[str]) -> list[tuple[list[float], bool] | None]:
    found, is_there = store.load_embeddings(keys, "some")
    rows = zip(found.vectors.tolist(), found.is_truncated.tolist(), is_there.tolist(), strict=True)
    return [(vector, is_cut) if there else None for vector, is_cut, there in rows]


def expected(numbers: list[int]) -> list[tuple[list[float], bool]]:
    return [(VECTORS[number].tolist(), bool(IS_CUT[number])) for number in numbers]


@pytest.mark.parametrize(
    "numbers",
    [
        list(range(COUNT)),
        list(range(MIN_ROWS)),
        list(range(COUNT - 1, -1, -1)),
        np.random.default_rng(1).permutation(COUNT)[:MIN_ROWS].tolist(),
        [3, 1, 2],
    ],
    ids=["all", "the first", "backwards", "some", "few"],
)
def test_a_block_gives_what_the_store_holds(store: Store, folder: Path, numbers: list[int]) -> None:
    # rows that the database no longer has are still in the block: what comes back did not come from the database
    if len(numbers) >= MIN_ROWS:
        run_sql(folder, "UPDATE Cache SET value = 'gone'")
    assert loaded(store, [KEYS[number] for number in numbers]) == expected(numbers)


def test_what_is_in_neither_is_told_from_what_is_new(store: Store, folder: Path) -> None:
    store.put_embeddings([StoredEmbedding(embedding("new").key, np.array([7, 8, 9], np.float32), True)])
    keys = [*KEYS[5:], embedding("missing").key, embedding("new").key]
    assert loaded(store, keys) == [*expected(list(range(5, COUNT))), None, ([7.0, 8.0, 9.0], True)]


def test_a_block_grows_by_what_many_texts_add(store: Store, folder: Path) -> None:
    more = embedding_keys("some", (f"more {number}" for number in range(COUNT)))
    store.put_embeddings(StoredEmbedding(key, vector, False) for key, vector in zip(more, VECTORS, strict=True))
    assert loaded(store, [*more, *KEYS])[COUNT:] == expected(list(range(COUNT)))
    grown = read_block(folder, "some")
    assert grown is not None
    assert np.array_equal(grown.vectors, np.concatenate([VECTORS, VECTORS]))


def test_a_large_block_is_not_written_anew_for_a_few_more(store: Store, folder: Path) -> None:
    more = embedding_keys("some", (f"more {number}" for number in range(17 * MIN_ROWS)))
    store.put_embeddings(StoredEmbedding(key, VECTORS[0], False) for key in more)
    store.load_embeddings(more[: 16 * MIN_ROWS], "some")
    assert loaded(store, more[16 * MIN_ROWS :] + KEYS) == [(VECTORS[0].tolist(), False)] * MIN_ROWS + expected(
        list(range(COUNT))
    )
    block = read_block(folder, "some")
    assert block is not None
    assert len(block.keys) == COUNT + 16 * MIN_ROWS


def test_an_embedding_that_is_stored_stays(store: Store, folder: Path) -> None:
    store.put_embeddings([StoredEmbedding(KEYS[0], -VECTORS[0], False)])
    assert store.get_embeddings(KEYS[:1])[KEYS[0]].vector.tolist() == VECTORS[0].tolist()


def test_a_block_is_of_one_encoder(store: Store, folder: Path) -> None:
    found, is_there = store.load_embeddings(embedding_keys("other", map(str, range(COUNT))), "other")
    assert not is_there.any()
    assert len(found.vectors) == COUNT
    assert read_block(folder, "other") is None


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_broken_block_is_made_anew(store: Store, folder: Path, content: bytes) -> None:
    (block,) = folder.glob("block-*")
    whole = block.read_bytes()
    block.write_bytes(content or whole[:-1])
    assert loaded(store, KEYS) == expected(list(range(COUNT)))
    assert block.read_bytes() == whole


def test_what_was_damaged_and_removed_is_in_no_block(store: Store, folder: Path) -> None:
    run_sql(folder, "UPDATE Cache SET value = 'damaged' WHERE key = ?", parameters=(KEYS[3],))
    assert prune_damaged(store) == 1
    assert not list(folder.glob("block-*"))
    assert loaded(store, KEYS)[3] is None
