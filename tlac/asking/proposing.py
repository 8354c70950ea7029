"""The classes nearest to an answer, found while answers still arrive: what a shortlist and a doubt stand on.

Encodes off the event loop, together what waits together; the vectors are those that scoring needs later, and
are kept with them. Does not know who asks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tlac.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Nearness:
    """Classes by falling similarity to an answer: their indices and cosines in [-1, 1]. Empty for no words."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def relative_margin(self) -> float:
        """The lead of the best class over the next, as a share of its lead over the last: in [0, 1].

        Encoders differ in how far apart they put everything; this does not depend on it. 0 for fewer than three.
        """
        if len(self.scores) < 3 or self.scores[0] == self.scores[-1]:
            return 0.0
        return (self.scores[0] - self.scores[1]) / (self.scores[0] - self.scores[-1])


class Proposer:
    """Asks a Scorer, off the event loop, for the classes nearest to an answer."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[tuple[str, int], Nearness] = {}
        self._waiting: set[str] = set()
        # one batch at a time: what arrives meanwhile goes into the next
        self._lock = asyncio.Lock()

    async def nearest(self, answer: str, count: int) -> Nearness:
        """The `count` classes nearest to the answer. Raises EncoderUnavailableError, MissingAnswersError."""
        self._waiting.add(answer)
        async with self._lock:
            if (answer, count) not in self._known:
                batch = sorted(text for text in self._waiting | {answer} if (text, count) not in self._known)
                self._waiting.clear()
                found = await asyncio.to_thread(self._scorer.nearest, batch, count)
                for text, (indices, scores) in zip(batch, found, strict=True):
                    self._known[text, count] = Nearness(indices, scores)
        return self._known[answer, count]
