"""How many random cases a fuzzing test tries: a hundred in every run, 10,000 with `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("TLAC_FUZZ_CASES", "100"))

fuzzed = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# JSON of every shape, and text that no well-meaning program writes
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def damage(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a piece cut out and another put in."""
    place = st.integers(0, len(content))
    return st.builds(
        lambda start, end, new: content[: min(start, end)] + new + content[max(start, end) :],
        place,
        place,
        st.binary(max_size=12),
    )


def one_line(error: Exception) -> None:
    """An error as a person reads it."""
    assert "\n" not in str(error)
    assert str(error).strip()
