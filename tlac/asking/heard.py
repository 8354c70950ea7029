"""What a run keeps of its transcripts while they come in: themselves, on disk, and what their answers took.

Does not know who asks, nor what becomes of them.
"""

from __future__ import annotations

from tlac.asking.accounting import Ledger
from tlac.errors import MissingAnswersError
from tlac.spool import Spool
from tlac.types import Failure, Transcript


class Heard:
    """Transcripts in order, to be gone through as often as needed; `ledger` has counted their answers."""

    def __init__(self) -> None:
        self.transcripts: Spool[Transcript] = Spool(Transcript)
        self.ledger = Ledger()
        self._missing = 0
        self._first_missing: list[tuple[str, Failure]] = []

    def put(self, transcript: Transcript) -> None:
        """Keep one more. Raises TlacError where the disk is full."""
        self.transcripts.put(transcript)
        self.ledger.add(transcript.turns)
        if transcript.failure is not None and transcript.failure.kind == "missing":
            self._missing += 1
            if len(self._first_missing) < 3:
                self._first_missing.append((transcript.sample, transcript.failure))

    def require_answers(self) -> None:
        """Raise MissingAnswersError where answers of an offline run are missing."""
        if self._missing:
            first = ", ".join(sample for sample, _ in self._first_missing)
            more = ", ..." if self._missing > 3 else ""
            reason = self._first_missing[0][1].reason
            raise MissingAnswersError(
                f"answers for {self._missing} of {len(self.transcripts)} samples are missing: {first}{more} ({reason})"
            )
