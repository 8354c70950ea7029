from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tests.support.fakes import LetterEncoder
from tlac.errors import EncoderUnavailableError
from tlac.evaluation.prompter import NearestClassFinder
from tlac.scoring.matching import find_rule
from tlac.scoring.scorer import Scorer
from tlac.types import Encoding, NearestClasses

CLASSES = ("red car", "old car", "lorry", "zebra")


def finder(encoder: LetterEncoder, aliases: dict[str, tuple[str, ...]] | None = None) -> NearestClassFinder:
    return NearestClassFinder(Scorer(CLASSES, encoder, find_rule("ladder"), "{}", aliases))


def test_the_nearest_classes_come_best_first() -> None:
    near = asyncio.run(finder(LetterEncoder()).nearest("a zebra.", 2))
    assert near.indices[0] == 3
    assert len(near.indices) == 2
    assert near.scores[0] > near.scores[1]


def test_more_classes_than_there_are_gives_all() -> None:
    assert sorted(asyncio.run(finder(LetterEncoder()).nearest("a zebra.", 99)).indices) == [0, 1, 2, 3]


def test_an_answer_without_words_is_near_to_nothing() -> None:
    assert asyncio.run(finder(LetterEncoder()).nearest("?!", 2)) == NearestClasses((), ())


def test_an_alias_brings_its_class_near() -> None:
    near = asyncio.run(finder(LetterEncoder(), {"lorry": ("truck",)}).nearest("truck", 1))
    assert near.indices == (2,)
    assert near.scores == (1.0,)


def test_encoding_leaves_the_event_loop_and_takes_together_what_waits() -> None:
    threads: set[int] = set()
    calls: list[list[str]] = []

    class Watched(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Encoding:
            threads.add(threading.get_ident())
            calls.append(list(texts))
            return super().encode(texts)

    async def ask() -> None:
        one = finder(Watched())
        await asyncio.gather(*(one.nearest(f"a lorry {letter}", 2) for letter in "abcabc"))
        await one.nearest("a lorry a", 2)

    asyncio.run(ask())
    assert threading.get_ident() not in threads
    answers = [texts for texts in calls if texts != list(CLASSES)]
    # the first starts at once, the others wait for it
    assert answers == [["a lorry a"], ["a lorry b", "a lorry c"]]


def test_an_encoder_that_fails_fails_every_one_who_waits() -> None:
    class Broken(LetterEncoder):
        def encode(self, texts: Sequence[str]) -> Encoding:
            raise EncoderUnavailableError("no weights")

    async def ask() -> list[object]:
        one = finder(Broken())
        return await asyncio.gather(*(one.nearest(text, 2) for text in ("car", "lorry")), return_exceptions=True)

    assert [type(found) for found in asyncio.run(ask())] == [EncoderUnavailableError] * 2


@pytest.mark.parametrize(
    ("scores", "margin"),
    [((0.9, 0.8, 0.5), 0.25), ((0.9, 0.9, 0.5), 0.0), ((0.5, 0.5, 0.5), 0.0), ((0.9, 0.1), 0.0), ((), 0.0)],
)
def test_the_relative_margin_does_not_depend_on_the_encoders_scale(scores: tuple[float, ...], margin: float) -> None:
    indices = tuple(range(len(scores)))
    assert NearestClasses(indices, scores).relative_margin == pytest.approx(margin)
    squeezed = tuple(0.9 + score / 10 for score in scores)
    assert NearestClasses(indices, squeezed).relative_margin == pytest.approx(margin)
