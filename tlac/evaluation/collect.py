"""Phase 1: ask about every sample, with bounded concurrency, and give transcripts in the dataset's order.

Keeps going when one sample fails and stops asking when all would.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tlac import images
from tlac.errors import CallError, InputError, MissingAnswersError, PermanentError, SampleError, TlacError
from tlac.interfaces import Method, Prompter
from tlac.results.usage import UsageLedger
from tlac.runtime.redaction import redact
from tlac.runtime.spooled_list import SpilledList
from tlac.types import FailureKind, Image, LMMResponse, Outcome, Sample, Source, Transcript, Turn

INTERRUPTED = "interrupted"
"""What a run that was stopped by Ctrl-C or a signal says of it."""

# so many answers, all of them cut short, say that the next will be, too
_CUT_IN_A_ROW = 8

_log = logging.getLogger(__name__)

Identify: TypeAlias = Callable[[Source, str], Awaitable[Image]]
"""Gives the image behind a sample's source, which has that name in complaints. Raises InputError."""


class CollectProgress(Protocol):
    """Told of each sample as it is done."""

    def advance(self, transcript: Transcript) -> None:
        """One more sample is done."""
        ...


@dataclass(slots=True)
class _Progress:
    """What the workers share. `done` waits for a sample before it; `cut` are the answers while all are cut short.

    Where nobody `is_asking`, all answers that there are have been had before, and nothing is to be stopped.
    """

    pending: Iterator[tuple[int, Sample]]
    keep: Callable[[Transcript], None]
    is_asking: bool = True
    done: dict[int, Transcript] = field(default_factory=dict)
    kept: int = 0
    stopped: str | None = None
    cut: dict[str, LMMResponse] | None = field(default_factory=dict)

    def finish(self, position: int, transcript: Transcript) -> None:
        """Keep what has no sample before it that is still asked about."""
        self.done[position] = transcript
        while self.kept in self.done:
            self.keep(self.done.pop(self.kept))
            self.kept += 1

    def note(self, turn: Turn) -> None:
        """Have asking stopped where answer after answer is cut short: each is paid for, and worth nothing."""
        if self.cut is None or not self.is_asking:
            return
        if turn.response.outcome is not Outcome.TRUNCATED:
            self.cut = None
            return
        self.cut[turn.key] = turn.response
        # those that are stored cost nothing any more
        if len(self.cut) >= _CUT_IN_A_ROW and not turn.response.from_store:
            self.stopped = self.stopped or describe_cut(len(self.cut), len(self.cut), self.cut.values())


def describe_cut(cut: int, answers: int, responses: Iterable[LMMResponse]) -> str:
    """What is wrong where so many of the answers were cut short, and what to do; `responses` are those answers."""
    usages = [response.usage for response in responses]
    completion, thoughts = sum(usage.completion for usage in usages), sum(usage.reasoning for usage in usages)
    # some providers count thoughts beside the completion, and not in it
    written = completion if thoughts <= completion else completion + thoughts
    share = f"; {100 * thoughts / written:.0f} % of the completion tokens were thoughts" if thoughts else ""
    return f"{cut} of {answers} answers were cut by max_tokens{share}: raise max_tokens, or lower reasoning_effort"


async def _identify(source: Source, name: str) -> Image:
    if isinstance(source, bytes):
        # a digest takes less than a change of thread
        return images.identify(source, name)
    return await asyncio.to_thread(images.identify, source, name)


async def collect(
    samples: Iterable[Sample],
    prompter: Prompter,
    method: Method,
    concurrency: int,
    progress: CollectProgress | None = None,
    identify: Identify = _identify,
) -> tuple[tuple[Transcript, ...], str | None]:
    """As `collect_into`: the transcripts of all samples at once, and why asking ended early."""
    transcripts: list[Transcript] = []
    stopped = await collect_into(transcripts.append, samples, prompter, method, concurrency, progress, identify)
    if stopped == INTERRUPTED:
        # who asks for all transcripts at once has no use for some
        raise asyncio.CancelledError
    return tuple(transcripts), stopped


async def collect_into(  # noqa: PLR0913, PLR0917 - what is asked, how, and who hears of it
    keep: Callable[[Transcript], None],
    samples: Iterable[Sample],
    prompter: Prompter,
    method: Method,
    concurrency: int,
    progress: CollectProgress | None = None,
    identify: Identify = _identify,
    is_asking: bool = True,
) -> str | None:
    """Ask `method`'s questions about every sample, for `concurrency` calls in flight; give `keep` the transcripts in
    the order of the samples, each as soon as all before it are there.

    A quarter more samples than that may be under way: so one is ready when a call ends, while that call's answer is
    still being stored. It is the LMM that keeps calls within their limit (tlac.lmms.middleware.rate_limit).

    A sample whose image can't be read or whose call fails has a transcript with `failure`. After a PermanentError, or
    where the first answers are all cut short, no further sample is asked about, and the rest say so in their `failure`:
    the reason is returned. Not so unless `is_asking`: then an engine has asked before, and what it had is gone through
    to the end. When cancelled, no further sample is asked about either; calls in flight are paid for, and waited for; a
    second cancellation gives them up. Raises StoreError when answers can't be kept.
    """
    state = _Progress(enumerate(samples), keep, is_asking)

    async def work() -> None:
        for position, sample in state.pending:
            if state.stopped:
                reason = f"not asked: {state.stopped}"
                transcript = Transcript(sample.id, None, sample.label, failure="stopped", reason=reason)
            else:
                transcript = await _ask(sample, prompter, method, state, identify)
            state.finish(position, transcript)
            if progress is not None:
                progress.advance(transcript)

    workers = [asyncio.ensure_future(work()) for _ in range(max(1, concurrency + concurrency // 4))]
    try:
        try:
            await _finished(workers)
        except asyncio.CancelledError:
            state.stopped = state.stopped or INTERRUPTED
            await _finished(workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return state.stopped


async def _finished(workers: Collection[asyncio.Future[None]]) -> None:
    """Wait for all workers, or for the first error, which is raised. A cancellation ends the wait, and no worker."""
    done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    for worker in done:
        worker.result()


async def _ask(sample: Sample, prompter: Prompter, method: Method, state: _Progress, identify: Identify) -> Transcript:
    image: Image | None = None
    turns: list[Turn] = []
    failure: FailureKind | None = None
    reason = ""
    try:
        image = await identify(sample.source, sample.source_name)
        async with aclosing(method.ask(image, prompter)) as asked:  # type: ignore[type-var]
            async for turn in asked:
                turns.append(turn)
                state.note(turn)
    except Exception as error:
        failure = _kind_of(error)
        if failure is None:
            raise
        reason = str(error)
        if not isinstance(error, TlacError):
            reason = redact(f"unexpected {type(error).__name__}: {' '.join(reason.split())}")
        if image is not None and reason.startswith(images.name_of(image)):
            # equal files are asked about once: each is told of by its own name
            reason = sample.source_name + reason.removeprefix(images.name_of(image))
        if isinstance(error, PermanentError) and state.is_asking:
            state.stopped = state.stopped or str(error)
        _log.debug("%s failed", sample.id, exc_info=True)
    found = {turn.stage: turn for turn in turns if turn.member == 0}
    further = tuple(turn for turn in turns if turn.member)
    sha256 = image.sha256 if image else None
    stage1, stage2 = found.get("stage1"), found.get("stage2")
    return Transcript(sample.id, sha256, sample.label, stage1, stage2, further, failure, reason)


def _kind_of(error: Exception) -> FailureKind | None:
    """How a sample fails with an error; None for an error that concerns all samples."""
    if isinstance(error, MissingAnswersError):
        return "missing"
    # the border of one sample: what surprises a library ends this one and not the run
    if isinstance(error, (InputError, SampleError)) or not isinstance(error, TlacError):
        return "sample"
    return "call" if isinstance(error, CallError) else None


class TranscriptBuffer:
    """Transcripts in order, to be gone through as often as needed; `ledger` has counted their answers."""

    def __init__(self) -> None:
        self.transcripts: SpilledList[Transcript] = SpilledList(Transcript)
        self.ledger = UsageLedger()
        self._missing = 0
        self._first_missing: list[Transcript] = []

    def put(self, transcript: Transcript) -> None:
        """Keep one more. Raises TlacError where the disk is full."""
        self.transcripts.put(transcript)
        self.ledger.add(transcript.turns)
        if transcript.failure == "missing":
            self._missing += 1
            if len(self._first_missing) < 3:
                self._first_missing.append(transcript)

    def require_answers(self) -> None:
        """Raise MissingAnswersError where answers of an offline run are missing."""
        if self._missing:
            first = ", ".join(one.sample for one in self._first_missing)
            more = ", ..." if self._missing > 3 else ""
            reason = self._first_missing[0].reason
            raise MissingAnswersError(
                f"answers for {self._missing} of {len(self.transcripts)} samples are missing: {first}{more} ({reason})"
            )
