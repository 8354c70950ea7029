from __future__ import annotations

import pytest

from tlac import errors
from tlac.errors import TlacError, UnknownNameError


def test_an_error_is_one_line_whatever_its_words_hold() -> None:
    assert str(TlacError("a\nb\x1b[31m c\u2028d\ue000")) == "a b [31m c d"


def test_every_error_knows_its_exit_code() -> None:
    codes = {
        name: found.exit_code
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, TlacError)
    }
    assert codes == {
        "TlacError": 1,
        "UsageError": 2,
        "ConfigError": 2,
        "UnknownNameError": 2,
        "InputError": 2,
        "EncoderUnavailableError": 2,
        "StoreError": 1,
        "IncompleteRunError": 3,
        "MissingAnswersError": 4,
        "CallError": 1,
        "TransientError": 1,
        "RateLimitError": 1,
        "PermanentError": 1,
        "SampleError": 1,
    }


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cifar1", "did you mean 'cifar10'?"), ("zzz", "known: cifar10, dtd (try a path)")],
)
def test_an_unknown_name_offers_the_nearest_or_all(name: str, hint: str) -> None:
    error = UnknownNameError("dataset", name, ["dtd", "cifar10"], remedy="try a path")
    assert hint in str(error)


def test_a_long_list_of_names_is_cut() -> None:
    assert str(UnknownNameError("sample", "zzz", [f"a{number:03}" for number in range(100)])).endswith("a039, ...")
