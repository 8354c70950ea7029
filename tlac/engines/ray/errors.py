"""Errors of tlac as records, which travel between processes: Ray would wrap an exception, and lose its class."""

from __future__ import annotations

import msgspec

from tlac import errors
from tlac.errors import InputError, RateLimitError, TlacError, UnknownNameError
from tlac.runtime.redaction import redact

_KINDS: dict[str, type[TlacError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    # it is made of other things than a text: a UsageError does
    if isinstance(kind, type) and issubclass(kind, TlacError) and kind is not UnknownNameError
}


class SerializedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error: the name of its class, and its text without secrets. `is_input` says that a file caused it."""

    kind: str
    text: str
    retry_after_s: float | None = None
    is_input: bool = False

    def to_error(self) -> TlacError:
        """The error again; one of an unknown class is a TlacError."""
        if self.kind == RateLimitError.__name__:
            return RateLimitError(self.text, self.retry_after_s)
        error = _KINDS.get(self.kind, TlacError)(self.text)
        if self.is_input:
            error.__cause__ = InputError(self.text)
        return error


def serialize_error(error: TlacError) -> SerializedError:
    """The record of an error; one of a class that other modules define counts as its nearest base here."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    retry_after_s = error.retry_after_s if isinstance(error, RateLimitError) else None
    return SerializedError(kind, redact(str(error)), retry_after_s, isinstance(error.__cause__, InputError))
