"""Reads what a provider says about its rate limits in the headers of a response.

Does not act on it. OpenAI: x-ratelimit-{limit,remaining,reset}-{requests,tokens}, reset as "6m0s". Anthropic:
anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}, reset as a moment in RFC 3339.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class RateHint:
    """Calls that may still be made now, of how many, and in how many seconds all of them may be again."""

    remaining: int
    limit: int | None
    reset_s: float | None


def read_rate_headers(headers: Mapping[str, str], now: datetime | None = None) -> RateHint | None:
    """The hint about requests in a response's headers, or None. `now` is for resets given as a moment."""
    lowered = {name.lower(): value for name, value in headers.items()}
    remaining = _find(lowered, "remaining")
    if remaining is None or not remaining.isdigit():
        return None
    limit, reset = _find(lowered, "limit"), _find(lowered, "reset")
    return RateHint(
        int(remaining),
        int(limit) if limit and limit.isdigit() else None,
        _reset_s(reset, now or datetime.now(timezone.utc)) if reset else None,
    )


def _find(headers: Mapping[str, str], what: str) -> str | None:
    return headers.get(f"x-ratelimit-{what}-requests") or headers.get(f"anthropic-ratelimit-requests-{what}")


def _reset_s(text: str, now: datetime) -> float | None:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    try:
        # Python 3.10 does not read the "Z" of RFC 3339
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError):
        return None
