"""Prices: where they come from, and what counted tokens cost."""

from __future__ import annotations

import pytest
from msgspec import structs

from tlac.config.schemas import BackendSpec, Prices, load_backend
from tlac.lmms.prices import cost_usd, is_free, prices_of
from tlac.types import Usage


@pytest.mark.parametrize(
    ("name", "prompt", "completion", "cached"),
    [("gemini", 0.3, 2.5, 0.03), ("gpt-4o", 2.5, 10.0, 1.25), ("claude", 1.0, 5.0, 0.1)],
)
def test_the_shipped_models_have_prices_in_litellms_table(
    name: str, prompt: float, completion: float, cached: float
) -> None:
    prices = prices_of(load_backend(name).spec)
    assert prices is not None
    assert (prices.prompt, prices.completion, prices.cached) == pytest.approx((prompt, completion, cached))


def test_a_model_that_runs_on_ones_own_machine_is_free() -> None:
    assert prices_of(load_backend("ollama").spec) == Prices(prompt=0.0, completion=0.0)
    assert prices_of(load_backend("vllm").spec) == Prices(prompt=0.0, completion=0.0)


def test_a_model_that_nobody_lists_has_no_price() -> None:
    assert prices_of(BackendSpec(adapter="litellm", model="openai/of-my-own")) is None


def test_a_name_that_another_provider_uses_too_is_not_taken_for_its_model() -> None:
    assert prices_of(BackendSpec(adapter="litellm", model="hosted_vllm/gpt-4o")) is None


def test_a_file_with_prices_goes_first() -> None:
    prices = Prices(prompt=7.0, completion=9.0)
    spec = BackendSpec(adapter="litellm", model="openai/gpt-4o", prices=prices)
    assert prices_of(spec) == prices


def test_cached_tokens_cost_their_own_price() -> None:
    usage = Usage(prompt=1_000_000, completion=100_000, cached=400_000)
    assert cost_usd(usage, Prices(prompt=1.0, completion=5.0, cached=0.1)) == pytest.approx(0.6 + 0.04 + 0.5)
    assert cost_usd(usage, Prices(prompt=1.0, completion=5.0)) == pytest.approx(1.0 + 0.5)


def test_what_is_written_to_a_cache_costs_a_quarter_more_or_its_own_price() -> None:
    usage = Usage(prompt=1_000_000, cache_write=400_000, cached=100_000)
    assert cost_usd(usage, Prices(prompt=2.0, completion=0.0)) == pytest.approx(1.0 + 1.0 + 0.2)
    dear = Prices(prompt=2.0, completion=0.0, cached=0.0, cache_write=3.0)
    assert cost_usd(usage, dear) == pytest.approx(1.0 + 1.2)
    # more cached than there are in all
    assert cost_usd(Usage(prompt=5, cached=9), Prices(prompt=1e6, completion=0.0, cached=2e6)) == pytest.approx(18)


@pytest.mark.parametrize(
    ("prices", "is_nothing"),
    [
        (Prices(0.0, 0.0), True),
        (Prices(0.0, 0.0, 0.0, 0.0), True),
        (Prices(1.0, 0.0), False),
        (Prices(0.0, 1.0), False),
        (Prices(0.0, 0.0, cached=1.0), False),
        (Prices(0.0, 0.0, cache_write=1.0), False),
    ],
)
def test_a_model_is_free_where_nothing_of_it_costs_anything(prices: Prices, is_nothing: bool) -> None:
    assert is_free(BackendSpec(adapter="litellm", model="m", prices=prices)) is is_nothing


def test_a_model_without_a_price_is_not_free_and_our_own_is() -> None:
    assert not is_free(BackendSpec(adapter="litellm", model="openai/of-my-own"))
    assert not is_free(BackendSpec(adapter="mine", model="m"))
    assert is_free(BackendSpec(adapter="embedded", model="m"))
    assert is_free(BackendSpec(adapter="pack", model="m"))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}, Prices(1.0, 2.0)),
        ({"input_cost_per_token": 1e-6}, Prices(1.0, 0.0)),
        ({"input_cost_per_token": 0.0, "cache_read_input_token_cost": 0.0}, Prices(0.0, 0.0, 0.0)),
        (
            {
                "input_cost_per_token": 1e-6,
                "cache_read_input_token_cost": 1e-7,
                "cache_creation_input_token_cost": 5e-6,
            },
            Prices(1.0, 0.0, 0.1, 5.0),
        ),
        ({"output_cost_per_token": 2e-6}, None),
        # something comes on top that no count of tokens tells
        *(
            ({"input_cost_per_token": 1e-6, f"input_cost_per_{unit}": 0.1}, None)
            for unit in ("image", "request", "second", "character")
        ),
        ({"input_cost_per_token": 1e-6, "input_cost_per_image": 0.0}, Prices(1.0, 0.0)),
        ({}, None),
    ],
)
def test_a_table_tells_a_price_by_the_token_and_no_other(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, float], expected: Prices | None
) -> None:
    monkeypatch.setattr("tlac.lmms.prices.model_entry", lambda _model: entry)
    # remembered by name
    model = f"openai/{sorted(entry.items())}"
    found = prices_of(BackendSpec(adapter="litellm", model=model))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert structs.astuple(found) == pytest.approx(structs.astuple(expected))
