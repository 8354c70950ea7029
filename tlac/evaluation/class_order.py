"""The order in which stage 2 is shown the class names, and how much its choices hang on it; and which names are spread
over a class list.

Predictions always index the dataset's own order.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from msgspec.structs import replace

from tlac.errors import CallError, UsageError
from tlac.interfaces import Prompter
from tlac.results.record import OrderTrials
from tlac.scoring.matching import ClassIndex
from tlac.scoring.predictions import OUTCOMES, Predictions
from tlac.types import Float32Array, Float64Array, Outcome, Transcript, Turn

# of cosines: noise of a text encoder lies well below; what is equal so far goes by the names
_PLACES = 4
# of the power method, which in so many comes near enough to the direction; a fixed number, so that noise stays noise
_STEPS = 8


def class_order(count: int, seed: int | None) -> tuple[int, ...]:
    """The dataset's own order of `count` classes, or the one shuffled with `seed`: indices as they are shown."""
    places = range(count)
    return tuple(places) if seed is None else tuple(random.Random(seed).sample(places, count))  # noqa: S311


def rotations(order: Sequence[int], trials: int) -> list[tuple[int, ...]]:
    """`trials` rotations of an order, evenly spread and different from it and from one another.

    Raises UsageError where there are fewer.
    """
    count = len(order)
    if trials >= count:
        raise UsageError(f"--order-trials {trials}: {count} classes can be rotated {count - 1} times at most")
    starts = [trial * count // (trials + 1) for trial in range(1, trials + 1)]
    return [(*order[start:], *order[:start]) for start in starts]


def restore_choices(transcripts: Iterable[Transcript], order: Sequence[int], index: ClassIndex) -> Iterator[Transcript]:
    """The transcripts with choices by number turned from the order that was shown to the dataset's own, `index`'s."""
    if list(order) == sorted(order):
        return iter(transcripts)
    shown = ClassIndex([index.classes[place] for place in order], by_number=index.by_number)
    numbers = ClassIndex([""] * len(order))
    return (_restore(transcript, order, shown, numbers) for transcript in transcripts)


def _restore(transcript: Transcript, order: Sequence[int], shown: ClassIndex, numbers: ClassIndex) -> Transcript:
    if transcript.stage2 is None:
        return transcript
    turn = transcript.stage2
    if turn.candidates is not None:
        turn = replace(turn, candidates=tuple(sorted(order[place] for place in turn.candidates)))
    # what holds no number means the same in any order; one that is a class's name may mean that
    text = turn.response.text
    place = shown.read_choice(text) if numbers.read_choice(text) is not None else None
    if place is not None:
        text = json.dumps({"class_index": str(order[place])})
        turn = replace(turn, response=replace(turn.response, text=text))
    return replace(transcript, stage2=turn)


def draw_spread(names: Sequence[str], vectors: Float32Array, count: int, seed: int) -> tuple[str, ...]:
    """Draw one of distinct names from each of `count` clusters of nearly equal size, with `seed`, in no order.

    `vectors` (n, d) are their embeddings, of length 1. Each cluster is cut in two along the direction in which it is
    longest, and so on (principal direction divisive partitioning: Boley, Data Mining and Knowledge Discovery 2, 1998).
    The order of the names does not matter, nor do vectors that differ by less than some 1e-5, unless a place between
    two roundings lies there.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    chosen = random.Random(seed)  # noqa: S311 - a sample, not a secret
    clusters = _cut_clusters(vectors[order].astype(np.float64), list(range(len(names))), count)
    drawn = [names[order[chosen.choice(cluster)]] for cluster in clusters]
    chosen.shuffle(drawn)
    return tuple(drawn)


def _cut_clusters(vectors: Float64Array, members: list[int], count: int) -> list[list[int]]:
    """`count` clusters of the members, which are rows; in each of them by rising row."""
    if count == 1:
        return [sorted(members)]
    places = dict(zip(members, _along_longest(vectors[members]).tolist(), strict=True))
    ordered, half = sorted(members, key=lambda row: (places[row], row)), count // 2
    size = len(members) * half // count
    first, second = sorted(ordered[:size]), sorted(ordered[size:])
    return [*_cut_clusters(vectors, first, half), *_cut_clusters(vectors, second, count - half)]


def _along_longest(vectors: Float64Array) -> Float64Array:
    """Where (n, d) vectors lie along the direction in which they are spread most, rounded."""
    centred = vectors - vectors.mean(axis=0)
    # from the farthest one to what is farthest from it: a start that has the direction's sign
    pole = int(np.argmin(np.round(vectors @ vectors.mean(axis=0), _PLACES)))
    direction = vectors[int(np.argmin(np.round(vectors @ vectors[pole], _PLACES)))] - vectors[pole]
    for _ in range(_STEPS):
        found = centred.T @ (centred @ direction)
        length = float(np.linalg.norm(found))
        if length < 10**-_PLACES:
            break
        direction = found / length
    along: Float64Array = np.round(centred @ direction, _PLACES)
    return along


async def choose_again(
    transcripts: Iterable[Transcript], prompter: Prompter, concurrency: int
) -> tuple[Transcript, ...]:
    """The transcripts that had a stage 2, with another in its place: that of `prompter`, whose list is rotated.

    Each distinct answer is asked about once. Where a call fails, the transcript has a `failure`.
    """
    had = [
        (transcript, transcript.stage1.response.text)
        for transcript in transcripts
        if transcript.stage1 is not None and transcript.stage2 is not None
    ]
    answers = dict.fromkeys(answer for _, answer in had)
    places = asyncio.Semaphore(max(1, concurrency))

    async def choose(answer: str) -> Turn | CallError:
        async with places:
            try:
                return await prompter.ask_stage2(answer)
            except CallError as error:
                return error

    found = dict(zip(answers, await asyncio.gather(*map(choose, answers)), strict=True))
    return tuple(_with_choice(transcript, found[answer]) for transcript, answer in had)


def _with_choice(transcript: Transcript, choice: Turn | CallError) -> Transcript:
    if isinstance(choice, CallError):
        return replace(transcript, stage2=None, failure="call", reason=str(choice))
    return replace(transcript, stage2=choice)


def compare_orders(own: Predictions, trials: Sequence[Predictions]) -> OrderTrials:
    """How the predictions of the trials, each for the same samples, differ from the run's own."""
    places = {sample: place for place, sample in enumerate(own.samples)}
    asked = np.array([places[sample] for sample in trials[0].samples])
    is_failed = np.any([trial.outcome == OUTCOMES.index(Outcome.FAILED) for trial in trials], axis=0)
    changes = np.array([trial.predicted != own.predicted[asked] for trial in trials])[:, ~is_failed]
    is_labelled = own.label >= 0
    accuracies = []
    for trial in trials:
        predicted = own.predicted.copy()
        predicted[asked] = trial.predicted
        accuracies.append(float((predicted == own.label)[is_labelled].mean()) if is_labelled.any() else None)
    return OrderTrials(
        trials=len(trials),
        asked=len(asked),
        failed=int(is_failed.sum()),
        changed=int(changes.any(axis=0).sum()),
        change_rate=float(changes.mean()) if changes.size else None,
        accuracies=tuple(accuracies),
    )
