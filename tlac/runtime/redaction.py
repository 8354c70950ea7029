"""Take secrets out of text that is about to be shown or written.

Secrets are masked by value: whatever the environment calls a key, a token, a secret or a password, every key that a
backend reads under another name (`remember_secret`), and the passwords in addresses of proxies; each as it is, in the
encodings in which servers repeat it, and cut short. What looks like a provider's key is masked wherever it comes from.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote

from tlac.errors import one_line

_SECRET_NAME = re.compile(
    r"(API_?KEY|_KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(?:^|_)PAT)$", re.IGNORECASE
)
_USER_AND_PASSWORD = re.compile(r"://([^/\s:@]*:[^/\s@]+)@")
# shorter values ("1", "none") stand in ordinary text by chance
_MIN_CHARS = 8
# of a longer secret this much of its beginning is masked too: the start of a key ("sk-proj-") is nobody's secret
_MIN_PREFIX_CHARS = 12
_SECRET_SHAPES = re.compile(
    r"""
    \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}            # OpenAI, Anthropic and those who follow them
    | \bAIza[A-Za-z0-9_-]{30,}                   # Google
    | \b(?:gsk|xai|hf|r8)[-_][A-Za-z0-9]{20,}    # Groq, xAI, Hugging Face, Replicate
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b              # Amazon
    | (?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}
    | (?i:\b(?:x-api-key|x-goog-api-key|api[-_]?key)["']?\s*[:=]\s*["']?)[A-Za-z0-9._~+/=-]{8,}
    | (?<=://)[^/\s:@]*:[^/\s@]+(?=@)             # user and password in an address
    """,
    re.VERBOSE,
)
MASK = "[secret]"

_remembered: set[str] = set()


def remember_secret(value: str | None) -> None:
    """Mask this value from now on, whatever the variable is called that it came from."""
    if value:
        _remembered.add(value)


def redact(text: str) -> str:
    """The text with every known secret, and all that has the shape of a key, masked."""
    for form in _forms(frozenset(_secrets())):
        text = _mask(text, form)
    return _SECRET_SHAPES.sub(MASK, text)


def reason_of(error: BaseException) -> str:
    """What a library's error says at its root, such as a server's status: one line without secrets."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, FileNotFoundError) and error.errno is None:
        # libraries say no more than the address once again
        return "nothing is there"
    return redact(one_line(error))


def _secrets() -> Iterator[str]:
    yield from _remembered
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            yield value
        for found in _USER_AND_PASSWORD.findall(value):
            # proxies are told both together, and repeat the password alone
            yield from (unquote(found), unquote(found.partition(":")[2]))


@lru_cache(maxsize=16)
def _forms(secrets: Iterable[str]) -> tuple[str, ...]:
    """Every form in which a secret may stand in a text, the longest first: one may be a part of another."""
    found: set[str] = set()
    for secret in secrets:
        lines = [line.strip() for line in secret.splitlines()]
        for value in {secret.strip(), " ".join(secret.split()), *lines}:
            if len(value) >= _MIN_CHARS:
                found.update(_encoded(value))
    return tuple(sorted((form for form in found if len(form) >= _MIN_CHARS), key=lambda form: (-len(form), form)))


def _encoded(value: str) -> Iterator[str]:
    content = value.encode("utf-8", "surrogateescape")
    yield from (value, quote(value, safe=""), quote(value), quote_plus(value))
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value))
    yield from (repr(value)[1:-1], content.hex())
    for shift in range(3):
        # in the midst of other bytes, such as "user:", base64 looks different at each of three places
        encoded = base64.b64encode(b"\0" * shift + content).decode().rstrip("=")
        # characters that also hold bits of its neighbours are left out
        ends_whole = (shift + len(content)) % 3 == 0
        whole = encoded[(0, 2, 3)[shift] : None if ends_whole else -1]
        yield from (whole, whole.replace("+", "-").replace("/", "_"))


def _mask(text: str, form: str) -> str:
    """The text with a form masked, also where only a long beginning of it stands there."""
    shortest = max(_MIN_PREFIX_CHARS, len(form) // 2) if len(form) >= 2 * _MIN_CHARS else len(form)
    parts, start = [], 0
    # hex and percent signs come in either case
    for found in re.finditer(re.escape(form[:shortest]), text, re.IGNORECASE):
        if found.start() < start:
            continue
        end = found.end()
        rest = form[shortest:].lower()
        same = next(
            (n for n, pair in enumerate(zip(text[end:].lower(), rest, strict=False)) if pair[0] != pair[1]), None
        )
        end += min(len(rest), len(text) - end) if same is None else same
        parts += [text[start : found.start()], MASK]
        start = end
    return "".join([*parts, text[start:]])


def redacted_traceback(error: BaseException) -> str:
    """The whole trace of an error and of its causes, for a debug log."""
    return redact("".join(traceback.format_exception(type(error), error, error.__traceback__)))


class RedactingFilter(logging.Filter):
    """Masks secrets in log records; added to a handler it covers all that the handler writes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's message, and its trace where it has one. Keeps every record."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text, record.exc_info = redacted_traceback(record.exc_info[1]), None
        return True
