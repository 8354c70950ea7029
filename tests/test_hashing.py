from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import FakeLMM
from tlac.cache.store import Store
from tlac.errors import UsageError
from tlac.hashing import canonical_json, embedding_key, request_document, response_key, sha256_of
from tlac.lmms.middleware.cache import StoredLMM
from tlac.types import ChoiceTask, Image, LMMRequest, Message, Preparation, TextPart

IMAGE = Image("ab" * 32, b"not read")
REQUEST = LMMRequest(
    "stage1",
    "gemini/gemini-2.5-flash",
    (Message("user", (IMAGE, TextPart("what?"))),),
    {"temperature": 0, "max_tokens": 100},
)


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, model="gemini/gemini-2.5-pro"),
        replace(REQUEST, params={"temperature": 0.5, "max_tokens": 100}),
        replace(REQUEST, params={"temperature": 0}),
        replace(REQUEST, revision="2"),
        replace(REQUEST, repeat=1),
        replace(REQUEST, preparation=Preparation(quality=80)),
        replace(REQUEST, messages=(Message("user", (TextPart("what?"), IMAGE)),)),
        replace(REQUEST, messages=(Message("user", (Image("cd" * 32, b""), TextPart("what?"))),)),
        replace(REQUEST, choice=ChoiceTask("a", ("b", "c"), by_index=True)),
        replace(REQUEST, choice=ChoiceTask("a", ("b", "c"), by_schema=True)),
    ],
)
def test_whatever_changes_the_answer_changes_the_key(other: LMMRequest) -> None:
    assert response_key(other) != response_key(REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, params={"max_tokens": 100.0, "temperature": 0.0}),
        replace(REQUEST, messages=(Message("user", (Image("ab" * 32, b"x"), TextPart("what?", True))),)),
    ],
)
def test_what_asks_the_same_has_the_same_key(other: LMMRequest) -> None:
    assert response_key(other) == response_key(REQUEST)


SHAS = ("ab" * 32, "cd" * 32)
PICTURED = [
    replace(REQUEST, **{"messages": (Message("user", parts),), **changes})
    for sha256 in SHAS
    for parts in (
        (Image(sha256, b""), TextPart("what?")),
        (TextPart('{"image_sha256":"' + sha256 + '"}'), Image(sha256, b""), TextPart("\u2603\n")),
        (TextPart("what?"), Image(sha256, b""), Image(SHAS[0], b"")),
    )
    for changes in (
        {},
        {"repeat": 1},
        {"params": {"temperature": 0.0, "max_tokens": 100}},
        {"params": {"temperature": False, "max_tokens": 100}},
        {"params": {"stop": {"image_sha256": sha256}}},
        {"choice": ChoiceTask("a", ("b", "c"), by_index=True)},
        {"choice": ChoiceTask("a", ("b", "c", "d"), by_index=True)},
        {"choice": ChoiceTask("a", ("b", "c"))},
        {"choice": ChoiceTask("a", ("b", "c"), by_schema=True)},
    )
]


@pytest.mark.parametrize("asked", PICTURED)
def test_the_key_of_a_question_about_an_image_is_the_digest_of_its_json(asked: LMMRequest) -> None:
    text = json.dumps(request_document(asked), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert response_key(asked) == hashlib.sha256(text.encode()).hexdigest()


def test_the_preparation_of_images_is_no_part_of_a_question_without_one() -> None:
    asked = replace(REQUEST, messages=(Message("user", (TextPart("which?"),)),))
    assert response_key(asked) == response_key(replace(asked, preparation=Preparation(quality=1)))


def test_a_key_is_for_ever() -> None:
    # a change here makes every stored answer unreachable: raise KEY_VERSION and write a migration instead
    assert response_key(REQUEST) == "4d1ad68a2e991a289abf877f96849f7fc15046f59536f1955d84c39ec2e127a1"
    assert (
        embedding_key("letters", "a photo of a cat")
        == "a41361c6e12f65e792c8ce0b6ee584d54a50316e5884304d00de405163a7c14c"
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# as they are digested, in full: what one changes here, nobody finds again
DIGESTED = {
    '{"choices_by_index":null,"key_version":1,"messages":[{"parts":[{"image_sha256":"'
    + "ab" * 32
    + '"},{"text":"what?"}],'
    '"role":"user"}],"model":"gemini/gemini-2.5-flash","params":{"max_tokens":100,"temperature":0},"preparation":'
    '{"formats":["jpeg","png","webp","gif"],"max_side_px":1568,"max_size_bytes":5000000,"quality":90,'
    '"strip_metadata":false},"repeat":0,"revision":null,"stage":"stage1"}': REQUEST,
    '{"choices_by_index":3,"key_version":1,"messages":[{"parts":[{"text":"be brief"}],"role":"system"},{"parts":'
    '[{"text":"which is \\"a caf\u00e9\\"?\\n"}],"role":"user"}],"model":"m","params":{"seed":9007199254740993,'
    '"stop":["a",2,{"b":1.5}],"top_p":0.1},"preparation":null,"repeat":2,"revision":"r1","stage":"stage2"}': LMMRequest(
        "stage2",
        "m",
        (
            Message("system", (TextPart("be brief"),)),
            Message("user", (TextPart('which is "a caf\u00e9"?\n', is_prefix=True),)),
        ),
        {"top_p": 0.1, "stop": ("a", 2.0, {"b": 1.5}), "seed": 2**53 + 1},
        revision="r1",
        preparation=Preparation(quality=1),
        choice=ChoiceTask("a caf\u00e9", ("x", "y", "z"), by_index=True, candidates=(0, 2)),
        repeat=2,
    ),
    '{"choices_by_index":null,"key_version":1,"messages":[],"model":"m","params":{},"preparation":null,"repeat":0,'
    '"revision":null,"stage":"stage2"}': LMMRequest("stage2", "m", (), choice=ChoiceTask("a", ("x", "y"))),
}


@pytest.mark.parametrize(("text", "request_"), DIGESTED.items())
def test_a_key_is_the_digest_of_this_very_text(text: str, request_: LMMRequest) -> None:
    assert canonical_json(request_document(request_)) == text
    assert response_key(request_) == sha256(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-3.0, "-3"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (2.0**53 - 1, "9007199254740991"),
        # from here on a float is no longer one whole number
        (2.0**53, "9007199254740992.0"),
        (-(2.0**53), "-9007199254740992.0"),
        (1e16, "1e+16"),
        (2**64, "18446744073709551616"),
        (True, "true"),
        ({"b": [1.0, (2.0, {"a": -4.0})], "a": None}, '{"a":null,"b":[1,[2,{"a":-4}]]}'),
        ({1: "a", 10: "b", 2: "c"}, '{"1":"a","10":"b","2":"c"}'),
        ("\u2028\u00e9\0\x7f", '"\u2028\u00e9\\u0000\x7f"'),
    ],
)
def test_a_value_has_one_text(value: object, text: str) -> None:
    assert canonical_json(value) == text
    assert sha256_of(value) == sha256(text)


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_value_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(UsageError, match="nested too deeply"):
        canonical_json(value)
    with pytest.raises(UsageError, match="nested too deeply"):
        response_key(replace(REQUEST, params={"stop": value}))


def test_the_document_holds_digests_for_images() -> None:
    assert request_document(REQUEST)["messages"] == [
        {"role": "user", "parts": [{"image_sha256": "ab" * 32}, {"text": "what?"}]}
    ]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_the_order_of_keys_does_not_matter(document: dict[str, object]) -> None:
    assert canonical_json(document) == canonical_json(dict(reversed(document.items())))


def test_lone_surrogates_and_nan_are_refused() -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        canonical_json({"text": "\ud800"})
    with pytest.raises(UsageError, match="JSON"):
        canonical_json([float("nan")])


def test_a_key_is_the_digest_of_the_document_that_a_store_and_a_pack_hold() -> None:
    request = replace(REQUEST, params={"temperature": 1.0, "stop": ["a", 2.0]}, preparation=Preparation(quality=90.0))  # type: ignore[arg-type]
    assert response_key(request) == sha256_of(request_document(request))


@given(st.text(), st.text())
def test_an_embeddings_key_is_the_digest_of_its_parts(fingerprint: str, text: str) -> None:
    parts = json.dumps([1, fingerprint, text], separators=(",", ":"), ensure_ascii=False)
    assert embedding_key(fingerprint, text) == sha256(parts)


def test_a_question_is_digested_once_on_its_way_into_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[str] = []

    def digest(text: str) -> str:
        digested.append(text)
        return hashlib.sha256(text.encode()).hexdigest()

    monkeypatch.setattr("tlac.hashing._digest", digest)
    asked = replace(REQUEST, repeat=3, messages=(Message("user", (TextPart("what?"),)),))
    key = response_key(asked)
    lmm = StoredLMM(FakeLMM(lambda _: "a cat"), store, "fake")
    assert asyncio.run(lmm.ask(asked)).text == asyncio.run(lmm.ask(asked)).text == "a cat"
    assert store.get_response(key) is not None
    assert len(digested) == 1


def test_a_request_that_is_changed_has_another_key() -> None:
    key = response_key(REQUEST)
    assert response_key(replace(REQUEST, repeat=7)) != key
    assert replace(REQUEST) == REQUEST
