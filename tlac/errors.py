"""What can go wrong, as one tree; every error names the thing and the remedy, and knows its exit code.

Does not know where errors come from: adapters translate what libraries raise into these, with `from`.

    TlacError                     1
      UsageError                  2   usage error
        ConfigError               2   a YAML file that can't be used, or a setting that is missing
        UnknownNameError          2   a name that is not listed, with the nearest one that is
        InputError                2   an image, dataset or text file that can't be used
        EncoderUnavailableError   2   a text encoder whose weights can't be had
      StoreError                  1   a store that can't be opened, read or written
      IncompleteRunError          3   a run that did not get every answer
        MissingAnswersError       4   answers that an offline run needs and the store lacks
      CallError                   1   a call to an LMM that gave no response
        TransientError            1   worth asking again
          RateLimitError          1   worth asking again, more slowly
        PermanentError            1   would fail for every sample
        SampleError               1   concerns this one sample only
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 40


def one_line(error: BaseException) -> str:
    """What an error says, as one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest_of(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest that is, else what there is."""
    names = sorted(known)
    if nearest := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {nearest[0]!r}?"
    return f"known: {', '.join(names[:_MOST_LISTED]) or 'none'}" + (", ..." if len(names) > _MOST_LISTED else "")


class TlacError(Exception):
    """Base of every error that tlac raises on purpose; its text is one line for a person."""

    exit_code = 1

    def __str__(self) -> str:
        # names and words from files and servers stand in it: no line break, no terminal's control codes
        text = "".join(character if character.isprintable() else " " for character in super().__str__())
        return " ".join(text.split())


class UsageError(TlacError):
    """The command or call can't be carried out as it was given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or setting is missing, broken or has unknown keys."""


class UnknownNameError(UsageError):
    """A name that nothing answers to; the text offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        hint = nearest_of(name, known)
        super().__init__(f"unknown {kind} {name!r}: {hint}" + (f" ({remedy})" if remedy else ""))


class InputError(UsageError):
    """An image, a dataset or a text file that can't be used."""


class EncoderUnavailableError(UsageError):
    """A text encoder whose weights or package can't be had on this machine.

    `alternative` names what works without them, where texts alone are encoded; `message` is the rest.
    """

    def __init__(self, message: str, alternative: str = "") -> None:
        super().__init__(f"{message}, {alternative}" if alternative else message)
        self.message, self.alternative = message, alternative


class StoreError(TlacError):
    """The store of answers can't be opened, read or written."""


class IncompleteRunError(TlacError):
    """A run ended without every answer; the same command finishes it."""

    exit_code = 3


class MissingAnswersError(IncompleteRunError):
    """Answers that an offline run needs are not in the store."""

    exit_code = 4


class CallError(TlacError):
    """A call to an LMM that gave no response. Never stored, never replaced by a guess.

    `kind` says in a word or two what failed ("HTTP 503", "rate limit", "image"), `words` are the provider's own, uncut:
    they tell one fault from another, and are not for display.
    """

    def __init__(self, message: str, *, kind: str = "", words: str = "") -> None:
        super().__init__(message)
        self.kind, self.words = kind, words


class TransientError(CallError):
    """A time-out, a dropped connection, a server's error: asking again may help."""


class RateLimitError(TransientError):
    """The provider asks for fewer calls; `retry_after_s` is how long it asks to wait, if it says so."""

    def __init__(self, message: str, retry_after_s: float | None = None, *, words: str = "") -> None:
        super().__init__(message, kind="rate limit", words=words)
        self.retry_after_s = retry_after_s


class PermanentError(CallError):
    """A wrong key, an unknown model, a refused parameter: every sample would fail alike."""


class SampleError(CallError):
    """This sample's image or text can't be asked about; others can."""
