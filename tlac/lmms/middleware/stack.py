"""Put the middleware around an adapter, in the one order in which it works together.

    AbortOnRepeatedError ( RetryingLMM ( CircuitBreaker ( LimitedLMM ( BudgetedLMM ( adapter )))))

A wait between tries takes no place among the calls in flight; each try is limited, counted by the breaker and paid for
by itself. The store stands outside: what is stored costs nothing and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import msgspec

from tlac.config.schemas import Backend
from tlac.errors import ConfigError
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import BudgetedLMM, highest_usage
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.lmms.middleware.retry import AbortOnRepeatedError, CircuitBreaker, RetryingLMM
from tlac.lmms.prices import prices_of
from tlac.types import LMMRequest, Usage


@runtime_checkable
class TellsHeaders(Protocol):
    """An adapter that can tell the headers of its responses."""

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        """Have `listener` told the headers of every response."""
        ...


def build_stack(lmm: LMM, backend: Backend, policy: CallPolicy) -> LMM:
    """Wrap an LMM in all the middleware that a long run needs. One stack for each backend, for both stages.

    Raises ConfigError where a budget is set and the model's price is not known.
    """
    return AbortOnRepeatedError(RetryingLMM(build_shared_stack(lmm, backend, policy), policy))


def build_shared_stack(
    lmm: LMM, backend: Backend, policy: CallPolicy, usage_of: Callable[[LMMRequest], Usage] = highest_usage
) -> LMM:
    """Return the part of `build_stack` that all who ask a backend share: budget, limits and breaker.

    `usage_of` says how many tokens a request may use at most. Raises ConfigError where a budget is set and the model's
    price is not known.
    """
    limits = backend.spec.limits
    if policy.concurrency is not None:
        limits = msgspec.structs.replace(limits, concurrency=policy.concurrency)
    inner = lmm
    if policy.budget is not None:
        prices = prices_of(backend.spec)
        if prices is None:
            raise ConfigError(
                f"{backend.source}: no price is known for {backend.spec.model}, so a cost cap can't be kept; "
                "add prices: {prompt: ..., completion: ...} in USD per million tokens, or leave --max-cost out"
            )
        inner = BudgetedLMM(lmm, policy.budget, prices, usage_of)
    limited = LimitedLMM(inner, limits, policy)
    if isinstance(lmm, TellsHeaders):
        lmm.listen(limited.read_headers)
    return CircuitBreaker(limited, backend.name, policy)
