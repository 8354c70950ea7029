"""Batches as the emulator keeps them, in no provider's form: what came in, how far they are, what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import ModuleType
from typing import Any, Literal, TypeAlias

from .checks import RefusedRequestError, require
from .replies import Asked, Fault, Reply, Script

Fate: TypeAlias = Literal["answered", "failed", "expired", "missing", "twice", "twice otherwise"]
Endpoint: TypeAlias = Literal["upload", "create", "status", "list", "results", "cancel"]
State: TypeAlias = Literal["working", "cancelling", "ended", "cancelled", "expired", "refused"]


def answered(_number: int, _asked: Asked) -> Fate:
    """Every request is answered once."""
    return "answered"


@dataclass
class BatchControls:
    """What batches do: `polls` times a batch is still at work, `fate` says what becomes of its n-th request (from 0).

    A cancelled batch has answered its first `answered_early` requests. `faults` are had in turn by an endpoint; None
    lets a call through. A fault of kind "dropped", "hung" or "error_inside" comes after the work is done, a status
    before, and one of kind "malformed" cuts what is downloaded short. `refusal` refuses whole batches after they were
    taken. `late` times a batch that is over names no results yet, `mangle` changes what is downloaded, and with
    `is_inline` Gemini gives results without a file. `clock_ahead` is how far the provider's clock is ahead of ours,
    `cancels_for_ever` leaves a cancelled batch at work on its end, and `counts` says whether requests are counted.
    """

    polls: int = 1
    answered_early: int = 0
    fate: Callable[[int, Asked], Fate] = answered
    faults: dict[Endpoint, list[Fault | None]] = field(default_factory=dict)
    refusal: str = ""
    late: int = 0
    mangle: Callable[[bytes], bytes] = bytes
    is_inline: bool = False
    clock_ahead: timedelta = timedelta()
    cancels_for_ever: bool = False
    counts: bool = True


@dataclass
class Batch:
    """One batch. `asked` holds its valid requests by our id; `refused` the complaints about the others."""

    id: str
    tag: str
    asked: dict[str, Asked]
    refused: dict[str, str]
    replies: dict[str, Reply | Fault]
    fates: dict[str, Fate]
    polls_left: int
    controls: BatchControls
    state: State = "working"
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    late: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is answered."""
        return self.state not in ("working", "cancelling")

    @property
    def has_results(self) -> bool:
        """Whether it says where its results are."""
        return self.state in ("ended", "cancelled", "expired") and self.late <= 0

    def counted(self) -> tuple[int, int]:
        """How many requests have an answer, and how many an error, as the provider's books have it."""
        if not self.controls.counts or not self.is_over or self.state == "refused":
            return 0, 0
        fates = [fate for _, fate, _ in self.results()]
        # a result that comes twice is one in the books
        answered = len({name for name, fate, _ in self.results() if fate == "answered"})
        return answered, fates.count("failed") + len(self.refused)

    @property
    def size(self) -> int:
        """How many requests it holds."""
        return len(self.asked) + len(self.refused)

    @property
    def expires_at(self) -> datetime:
        """A day later."""
        return self.created_at + timedelta(days=1)

    def poll(self) -> None:
        """Somebody asks how far it is."""
        if self.is_over:
            self.late -= 1
        if self.state == "working":
            self.polls_left -= 1
            if self.polls_left < 0:
                self.state = "ended"

    def cancel(self, status: int = 400) -> None:
        """Somebody has the rest not answered. Raises RefusedRequestError where all is over."""
        require(self.state == "working", f"a batch that is {self.state} can't be cancelled", status)
        self.state = "cancelling" if self.controls.cancels_for_ever else "cancelled"

    def results(self) -> list[tuple[str, Fate, Reply | Fault]]:
        """Our ids, what became of each, and the answer; last come first, since no order is promised."""
        found: list[tuple[str, Fate, Reply | Fault]] = []
        for number, custom_id in reversed(list(enumerate(self.asked))):
            fate: Fate = self.fates[custom_id]
            if self.state in ("cancelled", "expired") and number >= self.controls.answered_early:
                fate = "expired"
            reply = self.replies[custom_id]
            if fate == "missing":
                continue
            found.append((custom_id, "answered" if fate.startswith("twice") else fate, reply))
            if fate.startswith("twice"):
                found.append((custom_id, "answered", Reply("a contradiction") if fate == "twice otherwise" else reply))
        return found


class Shelf:
    """One provider's batches and files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches: list[Batch] = []
        self.files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def keep(self, content: bytes) -> str:
        """A file; its id."""
        with self._lock:
            name = f"file{len(self.files) + 1}"
            self.files[name] = content
            return name

    def take(
        self,
        provider: ModuleType,
        requests: list[tuple[str, str, dict[str, Any]]],
        headers: Mapping[str, str],
        controls: BatchControls,
        script: Script,
        tag: str = "",
    ) -> Batch:
        """A new batch of (our id, model, body). Raises RefusedRequestError where the ids are not those of a batch."""
        ids = [custom_id for custom_id, _, _ in requests]
        require(bool(ids), "a batch must hold a request")
        require(len(ids) == len(set(ids)), "custom_id must be unique within a batch")
        asked: dict[str, Asked] = {}
        refused: dict[str, str] = {}
        for custom_id, model, body in requests:
            try:
                asked[custom_id] = provider.read(model, body, headers)
            except RefusedRequestError as error:
                refused[custom_id] = str(error)
        replies = {custom_id: script(one) for custom_id, one in asked.items()}
        fates = {custom_id: controls.fate(number, one) for number, (custom_id, one) in enumerate(asked.items())}
        with self._lock:
            name = f"{self.name}-{len(self.batches) + 1}"
            batch = Batch(name, tag, asked, refused, replies, fates, controls.polls, controls)
            batch.late = controls.late
            batch.created_at += controls.clock_ahead
            batch.state = "refused" if controls.refusal else "working"
            self.batches.append(batch)
        return batch

    def find(self, job: str) -> Batch:
        """A batch by its id. Raises RefusedRequestError."""
        found = next((batch for batch in self.batches if batch.id == job), None)
        if found is None:
            raise RefusedRequestError(f"no batch {job}", 404)
        return found

    def newest(self) -> list[Batch]:
        """All batches, the newest first."""
        return self.batches[::-1]
