"""Rate limits as providers tell them in headers."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tlac.lmms.middleware.rate_limit import read_rate_headers

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("reset", "seconds"), [("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("soon", 0.0)]
)
def test_openais_headers_are_read(reset: str, seconds: float) -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "500",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }
    # the next of 500 calls is due in a 500th of the time until all of them are
    assert read_rate_headers(headers, NOW) == (0, pytest.approx(seconds / 500))
    assert read_rate_headers({**headers, "x-ratelimit-remaining-requests": "499"}, NOW) == (499, 0.0)


@pytest.mark.parametrize(
    ("reset", "seconds"), [("2025-06-01T12:00:30Z", 30.0), ("2025-06-01T11:00:00Z", 0.0), ("2025-06-01T12:00:30", 0.0)]
)
def test_anthropics_headers_are_read(reset: str, seconds: float) -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": reset,
    }
    assert read_rate_headers(headers, NOW) == (0, seconds / 50)


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-remaining-requests": "many"}, {"content-type": "text/html"}])
def test_other_headers_are_no_hint(headers: dict[str, str]) -> None:
    assert read_rate_headers(headers, NOW) is None


@pytest.mark.parametrize("remaining", ["\u00b2", "\u0663", "9" * 5000, "-1", "1e3"])
def test_what_no_provider_writes_is_no_count(remaining: str) -> None:
    assert read_rate_headers({"x-ratelimit-remaining-requests": remaining}, NOW) is None


@pytest.mark.parametrize("reset", ["9" * 400 + "s", "99999999999h", "9999-12-31T23:59:59Z"])
def test_a_wait_without_end_is_looked_at_again_after_a_minute(reset: str) -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    assert read_rate_headers(headers, NOW) == (0, 60.0)
