"""Puts the wrappers around an adapter, in the one order in which they work together.

    AbortOnRepeatedError ( RetryingLMM ( CircuitBreaker ( LimitedLMM ( BudgetedLMM ( adapter )))))

A wait between tries takes no place among the calls in flight; each try is limited, counted by the breaker and
paid for by itself. The store stands outside: what is stored costs nothing and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from tlac.config.schemas import Backend
from tlac.errors import ConfigError
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import Budget, BudgetedLMM
from tlac.lmms.middleware.circuit_breaker import BreakerPolicy, CircuitBreaker
from tlac.lmms.middleware.clock import Clock, OnMessage, say_nothing
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.lmms.middleware.retry import AbortOnRepeatedError, RetryingLMM, RetryPolicy
from tlac.lmms.prices import prices_of


@runtime_checkable
class TellsHeaders(Protocol):
    """An adapter that can tell the headers of its responses."""

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        """Have `listener` told the headers of every response."""
        ...


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How calls are looked after. `concurrency` goes before the backend's own limit."""

    budget: Budget | None = None
    concurrency: int | None = None
    on_message: OnMessage = say_nothing
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    clock: Clock = field(default_factory=Clock)


def build_stack(lmm: LMM, backend: Backend, policy: CallPolicy | None = None) -> LMM:
    """The LMM with everything around it that lets a long run survive. One for each backend, for both stages.

    Raises ConfigError where a budget is set and the model's price is not known.
    """
    policy = policy or CallPolicy()
    return AbortOnRepeatedError(RetryingLMM(restrain(lmm, backend, policy), policy.retry, policy.clock))


def restrain(lmm: LMM, backend: Backend, policy: CallPolicy) -> LMM:
    """The part of `build_stack` that holds for all who ask a backend together: budget, limits and breaker.

    Raises ConfigError where a budget is set and the model's price is not known.
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
        inner = BudgetedLMM(lmm, policy.budget, prices)
    limited = LimitedLMM(inner, limits, policy.clock)
    if isinstance(lmm, TellsHeaders):
        lmm.listen(limited.hear)
    return CircuitBreaker(limited, backend.name, policy.breaker, policy.clock, policy.on_message)
