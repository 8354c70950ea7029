"""Errors of tlac as records, which travel between processes as they are.

Ray would wrap an exception, and in another process its kind would be lost. Does not know who failed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlac.errors import (
    ConfigError,
    EncoderUnavailableError,
    InputError,
    MissingAnswersError,
    PermanentError,
    RateLimitError,
    SampleError,
    StoreError,
    TlacError,
    TransientError,
    UsageError,
)
from tlac.runtime.redaction import redact

_KINDS: dict[str, type[TlacError]] = {
    kind.__name__: kind
    for kind in (
        TlacError,
        UsageError,
        ConfigError,
        InputError,
        EncoderUnavailableError,
        StoreError,
        MissingAnswersError,
        TransientError,
        PermanentError,
        SampleError,
    )
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error: the name of its kind, and its text without secrets. `is_input` says that a file caused it."""

    kind: str
    text: str
    retry_after_s: float | None = None
    is_input: bool = False

    def to_error(self) -> TlacError:
        """The error again; one of an unknown kind is a TlacError."""
        if self.kind == RateLimitError.__name__:
            return RateLimitError(self.text, self.retry_after_s)
        error = _KINDS.get(self.kind, TlacError)(self.text)
        if self.is_input:
            error.__cause__ = InputError(self.text)
        return error


def fault_of(error: TlacError) -> Fault:
    """The record of an error; a kind of another module counts as the nearest one here."""
    text = redact(str(error))
    if isinstance(error, RateLimitError):
        return Fault(RateLimitError.__name__, text, error.retry_after_s)
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    return Fault(kind, text, is_input=isinstance(error.__cause__, InputError))
