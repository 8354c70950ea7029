"""The cost cap over batches: what a batch may cost at most is set aside before it is submitted.

The rule is that of live calls (tlac.calls.budget), at the price of a batch. Does not know providers.
"""

from __future__ import annotations

from tlac.batch_interface import BatchInterface
from tlac.batches.journal import BatchRecord
from tlac.calls.budget import Budget, highest_cost_usd
from tlac.config import Backend
from tlac.errors import ConfigError, PermanentError
from tlac.prices import prices_of
from tlac.types import LMMRequest


class Allowance:
    """What may still be submitted under a budget; without one, everything."""

    def __init__(self, budget: Budget | None) -> None:
        self._budget = budget
        # what is set aside in the budget by batch, and what batches of earlier commands may still cost
        self._held: dict[str, float] = {}
        self._adopted: dict[str, float] = {}

    def check(self, backend: Backend) -> None:
        """Raises ConfigError where a budget is set and the model's price is not known."""
        if self._budget is not None and prices_of(backend.spec) is None:
            raise ConfigError(
                f"{backend.source}: no price is known for {backend.spec.model}, so a cost cap can't be kept; "
                "add prices: {prompt: ..., completion: ...} in USD per million tokens, or leave --max-cost out"
            )

    async def reserve(self, request: LMMRequest, backend: Backend, interface: BatchInterface) -> float | None:
        """Set aside what a request may cost at most, in USD; None where no price is known and none is needed.

        Raises PermanentError where the rest of the budget is too small.
        """
        prices = prices_of(backend.spec)
        if prices is None:
            return None
        amount_usd = highest_cost_usd(request, prices) * (1 - interface.discount)
        budget = self._budget
        if budget is not None:
            committed = budget.committed_usd + sum(self._adopted.values())
            if committed + amount_usd > budget.cap_usd:
                raise PermanentError(
                    f"the budget of {budget.cap_usd:g} USD is used up ({budget.spent_usd:.4f} spent, "
                    f"{committed - budget.spent_usd:.4f} set aside for batches under way, the next request may cost "
                    f"{amount_usd:.4f}); a higher --max-cost continues the run"
                )
            await budget.reserve(amount_usd)
        return amount_usd

    def release(self, amount_usd: float | None) -> None:
        """A request that was not submitted after all."""
        if self._budget is not None and amount_usd is not None:
            self._budget.settle(amount_usd, 0.0)

    def hold(self, record: BatchRecord) -> None:
        """A batch whose requests were reserved is about to be submitted."""
        self._held[record.tag] = record.highest_cost_usd or 0.0

    def adopt(self, record: BatchRecord) -> None:
        """A batch that an earlier command submitted is waited for by this one, and counts against its budget."""
        if record.tag not in self._held:
            self._adopted[record.tag] = record.highest_cost_usd or 0.0

    def settle(self, tag: str, spent_usd: float) -> None:
        """A batch is closed: what it cost takes the place of what it might have cost."""
        held_usd = self._held.pop(tag, 0.0)
        self._adopted.pop(tag, None)
        if self._budget is not None:
            self._budget.settle(held_usd, spent_usd)
