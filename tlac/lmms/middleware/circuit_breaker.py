"""Stop asking a provider that is down: pause, try again with one call, and at last end the run."""

from __future__ import annotations

import asyncio

from tlac.errors import CallError, PermanentError, RateLimitError, TransientError
from tlac.interfaces import LMM
from tlac.lmms.middleware.clock import Clock, OnMessage, say_nothing
from tlac.lmms.middleware.retry import RetryPolicy
from tlac.types import LMMRequest, LMMResponse


class CircuitBreaker:
    """Wraps an LMM. After so many passing faults in a row, from any calls, all calls wait.

    When the pause is over one call goes ahead; if it fails the next and longer pause begins, and after the
    last one every call raises PermanentError. Any other response or error proves that the provider lives.
    """

    def __init__(
        self,
        lmm: LMM,
        name: str,
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        on_message: OnMessage = say_nothing,
    ) -> None:
        self._lmm = lmm
        self._name = name
        self._policy = policy or RetryPolicy()
        self._clock = clock or Clock()
        self._on_message = on_message
        self._failures = 0
        self._pauses = 0
        self._is_open = False
        self._probe = asyncio.Lock()
        self._last_error: TransientError | None = None

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the wrapped LMM's response. Raises PermanentError once the provider has been given up."""
        if not self._is_open:
            return await self._try(request)
        async with self._probe:
            # those who waited behind a probe that succeeded find the circuit closed
            if self._is_open:
                await self._pause()
                return await self._try(request)
        return await self._try(request)

    async def _pause(self) -> None:
        pauses_s = self._policy.breaker_pauses_s
        if self._pauses >= len(pauses_s):
            raise PermanentError(
                f"{self._name} does not answer; the run stops here and the same command resumes it ({self._last_error})"
            ) from self._last_error
        wait_s = pauses_s[self._pauses]
        self._pauses += 1
        self._on_message(
            f"{self._name} does not answer ({self._last_error}); "
            f"pausing {wait_s:g} s (pause {self._pauses} of {len(pauses_s)})"
        )
        await self._clock.sleep(wait_s)

    async def _try(self, request: LMMRequest) -> LMMResponse:
        try:
            response = await self._lmm.ask(request)
        except TransientError as error:
            if isinstance(error, RateLimitError):
                self._close()
                raise
            self._failures += 1
            self._last_error = error
            if self._failures >= self._policy.breaker_failures:
                self._is_open = True
            raise
        except CallError:
            self._close()
            raise
        self._close()
        return response

    def _close(self) -> None:
        if self._pauses:
            self._on_message(f"{self._name} answers again")
        self._failures = 0
        self._pauses = 0
        self._is_open = False
