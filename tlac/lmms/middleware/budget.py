"""A hard cap on what a run may cost: money is reserved before each call, and settled when it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tlac.config.schemas import Prices
from tlac.errors import PermanentError, RateLimitError, TlacError, TransientError, UsageError
from tlac.interfaces import LMM
from tlac.lmms.prices import cost_usd
from tlac.types import LMMRequest, LMMResponse, Usage

# on the safe side of every provider's count: three bytes a token, and the largest image of those that publish sizes
_BYTES_PER_TOKEN = 3
_TOKENS_PER_IMAGE = 3000
_TOKENS_OF_AN_UNBOUNDED_ANSWER = 4096


class Budget:
    """A cap in USD on a whole run: every backend, both stages, all calls in flight. Shared, not copied.

    Raises UsageError for a cap that is negative or NaN.
    """

    def __init__(self, cap_usd: float) -> None:
        # as one expression, which is false for NaN: nothing is above that
        if not cap_usd >= 0:
            raise UsageError(f"a cap of {cap_usd} USD caps nothing: give 0 or more, such as 5")
        self.cap_usd = cap_usd
        self.spent_usd = 0.0
        self._reserved_usd = 0.0
        self._settled = asyncio.Event()

    @property
    def committed_usd(self) -> float:
        """What is spent, and what is reserved for calls in flight."""
        return self.spent_usd + self._reserved_usd

    async def reserve(self, amount_usd: float) -> None:
        """Reserve an amount; waits while calls in flight may still turn out cheaper.

        Raises PermanentError where the rest of the budget is too small.
        """
        while self.committed_usd + amount_usd > self.cap_usd:
            if self._reserved_usd <= 0:
                raise PermanentError(
                    f"the budget of {self.cap_usd:g} USD is used up ({self.spent_usd:.4f} spent, the next call may "
                    f"cost {amount_usd:.4f}); a higher --max-cost continues the run"
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved_usd += amount_usd

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Replace what was reserved for a call by what it cost."""
        self._reserved_usd = max(0.0, self._reserved_usd - reserved_usd)
        if self._reserved_usd < 1e-12:
            # what is left over from adding and subtracting floats would keep others waiting for ever
            self._reserved_usd = 0.0
        self.spent_usd += spent_usd
        self._settled.set()


def highest_usage(request: LMMRequest) -> Usage:
    """Return more tokens than a request should ever use."""
    text_bytes = sum(len(part.text.encode()) for part in request.texts)
    completion = request.params.get("max_tokens") or request.params.get("max_completion_tokens")
    prompt = text_bytes // _BYTES_PER_TOKEN + 1 + len(request.images) * _TOKENS_PER_IMAGE
    return Usage(prompt, int(completion or _TOKENS_OF_AN_UNBOUNDED_ANSWER))


def highest_cost_usd(request: LMMRequest, prices: Prices) -> float:
    """Return more than a request should ever cost, in USD."""
    return cost_usd(highest_usage(request), prices)


class BudgetedLMM:
    """Wraps an LMM and asks only what a budget allows.

    A call that broke off may have been billed, and an answer may come without its usage: both count at their highest
    possible cost, of which `usage_of` says the tokens. A call that was rejected counts nothing.
    """

    def __init__(
        self, lmm: LMM, budget: Budget, prices: Prices, usage_of: Callable[[LMMRequest], Usage] = highest_usage
    ) -> None:
        self._lmm = lmm
        self._budget = budget
        self._prices = prices
        self._usage_of = usage_of

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the wrapped LMM's response. Raises PermanentError where the budget is used up."""
        reserved = cost_usd(self._usage_of(request), self._prices)
        await self._budget.reserve(reserved)
        spent = reserved
        try:
            response = await self._lmm.ask(request)
            if response.usage != Usage() or response.from_store:
                spent = cost_usd(response.usage, self._prices) if response.cost_usd is None else response.cost_usd
            return response
        except TransientError as error:
            spent = 0.0 if isinstance(error, RateLimitError) else reserved
            raise
        except TlacError:
            spent = 0.0
            raise
        finally:
            self._budget.settle(reserved, spent)
