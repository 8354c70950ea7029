"""Takes secrets out of text that is about to be shown or written.

Does not know which backend a secret belongs to: whatever the environment calls a key, a token, a secret or a
password counts, and so does what looks like a provider's key.
"""

from __future__ import annotations

import logging
import os
import re
import traceback

_SECRET_NAME = re.compile(r"(API_?KEY|_KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
# shorter values ("1", "none") stand in ordinary text by chance
_SHORTEST_SECRET = 8
_SECRET_SHAPES = re.compile(
    r"""
    \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}            # OpenAI, Anthropic and those who follow them
    | \bAIza[A-Za-z0-9_-]{30,}                   # Google
    | \b(?:gsk|xai|hf|r8)[-_][A-Za-z0-9]{20,}    # Groq, xAI, Hugging Face, Replicate
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b              # Amazon
    | (?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}
    | (?i:\b(?:x-api-key|x-goog-api-key|api[-_]?key)["']?\s*[:=]\s*["']?)[A-Za-z0-9._~+/=-]{8,}
    """,
    re.VERBOSE,
)
MASK = "[secret]"


def redact(text: str) -> str:
    """The text with every secret of the environment, and all that has the shape of a key, masked."""
    for value in _environment_secrets():
        text = text.replace(value, MASK)
    return _SECRET_SHAPES.sub(MASK, text)


def _environment_secrets() -> list[str]:
    values = {value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    # longest first: one secret may be a part of another
    return sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


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
