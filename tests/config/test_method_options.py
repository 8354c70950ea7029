from __future__ import annotations

import pytest

from tlac.config.registry import base_name, open_method, with_option
from tlac.errors import UnknownNameError, UsageError
from tlac.interfaces import combination_of, prompts_of


def test_a_name_alone_opens_the_method_with_its_defaults() -> None:
    assert open_method("tlac-shortlist").k == 25
    assert open_method("tlac").name == "tlac"


def test_options_follow_the_name_in_the_kind_of_their_default() -> None:
    method = open_method("tlac-relook:k=40, relook_below=0.25")
    assert (method.k, method.relook_below) == (40, 0.25)
    assert open_method("slac-fused:view=,samples=3").further_prompts == ()
    assert [open_method(f"slac-fused:image={word}").image for word in ("true", "false")] == [True, False]


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("tlac-shortlst", UnknownNameError, "did you mean 'tlac-shortlist'"),
        ("tlac-shortlist:kk=3", UnknownNameError, "unknown option of the method tlac-shortlist 'kk': "),
        ("tlac-shortlist:k=many", UsageError, "k: 'many' is not a number; its default is 25"),
        ("tlac-shortlist:k=-1", UsageError, "k: -1 must be 0 or more"),
        ("tlac-shortlist:k=0", UsageError, "k: 0 must be 1 or more"),
        ("slac-fused:samples=0", UsageError, "samples: 0 must be 1 or more"),
        ("tlac-shortlist:k=3,k=4", UsageError, "k is given twice"),
        ("tlac-relook:relook_below=nan", UsageError, "must be 0 or more"),
        ("slac-fused:image=1", UsageError, "image: '1' is neither true nor false"),
        ("tlac:k=3", UnknownNameError, "known: second"),
        ("tlac-shortlist:name=x", UnknownNameError, "unknown option"),
    ],
)
def test_what_can_not_be_read_is_named(text: str, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        open_method(text)


def test_an_option_is_added_where_a_method_has_it_and_does_not_set_it() -> None:
    assert with_option("tlac-relook", "relook_below", 0.3) == "tlac-relook:relook_below=0.3"
    assert with_option("tlac-relook:k=5", "relook_below", 0.3) == "tlac-relook:k=5,relook_below=0.3"
    assert with_option("tlac-relook:relook_below=0.9", "relook_below", 0.3) == "tlac-relook:relook_below=0.9"
    assert with_option("tlac", "relook_below", 0.3) == "tlac"


def test_what_scoring_needs_to_know_has_defaults() -> None:
    assert [combination_of(open_method(name)) for name in ("slac", "slac-fused", "vote")] == ["first", "fuse", "vote"]
    assert [prompts_of(open_method(name)) for name in ("slac", "slac-fused")] == [(), ("name",)]
    assert base_name("tlac-shortlist:k=3") == "tlac-shortlist"
