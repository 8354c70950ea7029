"""Ask again after a passing fault, pause while a provider is down, and end the run when one fault repeats for every
sample.

Waits grow with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter

from tlac.errors import CallError, InputError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.runtime.formatting import duration
from tlac.types import LMMRequest, LMMResponse, Stage


class RetryingLMM:
    """Wraps an LMM and asks again after TransientError and RateLimitError, within a policy."""

    def __init__(self, lmm: LMM, policy: CallPolicy) -> None:
        self._lmm = lmm
        self._policy = policy

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the first response to be had.

        Raises the last TransientError when the policy is used up, PermanentError where the provider asks for a longer
        wait than the policy allows, and at once what is not worth asking again.
        """
        policy = self._policy
        limited, waited_s, faults = 0, 0.0, Counter[str]()
        while True:
            try:
                return await self._lmm.ask(request)
            except TransientError as error:
                if isinstance(error, RateLimitError):
                    limited += 1
                else:
                    faults[_reason(error)] += 1
                count = limited + faults.total()
                wait_s = self._wait_s(error, count)
                if (
                    faults.total() >= policy.tries
                    or limited >= policy.limited_tries
                    or max(faults.values(), default=0) >= policy.identical_tries
                    or waited_s + wait_s > policy.total_wait_s
                ):
                    # no subclass: the limiter heeds a RateLimitError once, where it was raised
                    raise TransientError(f"{error}; gave up after {count} tries", kind=error.kind) from error
                policy.activity.note_retry(error, wait_s)
            waited_s += wait_s
            await policy.clock.sleep(wait_s)

    def _wait_s(self, error: TransientError, count: int) -> float:
        policy = self._policy
        jitter_s = policy.clock.uniform(0.0, min(policy.max_s, policy.base_s * 2 ** min(count - 1, 30)))
        asked_s = error.retry_after_s if isinstance(error, RateLimitError) else None
        if asked_s is None:
            return jitter_s
        if asked_s > policy.total_wait_s:
            raise PermanentError(
                f"{error}; it asks for a wait of {duration(asked_s)}: run the same command later"
            ) from error
        # the provider's wait is a lower bound; the jitter keeps all calls from coming back in the same instant
        return asked_s + min(jitter_s, policy.base_s)


class CircuitBreaker:
    """Wraps an LMM and stops asking a provider that is down: after so many passing faults in a row, from any calls, all
    calls wait.

    When the pause is over one call goes ahead; if it fails the next and longer pause begins, and after the
    last one every call raises PermanentError. Any other response or error proves that the provider lives.
    """

    def __init__(self, lmm: LMM, name: str, policy: CallPolicy) -> None:
        self._lmm = lmm
        self._name = name
        self._policy = policy
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
        self._policy.on_message(
            f"{self._name} does not answer ({self._last_error}); "
            f"pausing {wait_s:g} s (pause {self._pauses} of {len(pauses_s)})"
        )
        await self._policy.clock.sleep(wait_s)

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
            self._policy.on_message(f"{self._name} answers again")
        self._failures = 0
        self._pauses = 0
        self._is_open = False


class AbortOnRepeatedError:
    """Wraps an LMM and ends the run when the same fault hits one sample after the other.

    A bad request may be this image's fault or everybody's: after `repeats` for the same reason in a row, without an
    answer in that stage between them, it is everybody's. An image that is asked about in the same words again, by
    the next run of a command, counts once. Complaints about the image itself count until the first
    answer: from then on they are each image's own fault.
    """

    def __init__(self, lmm: LMM, repeats: int = 5) -> None:
        self._lmm = lmm
        self._repeats = repeats
        # by stage: the reason, and what tells the questions apart that failed for it
        self._last: dict[Stage, tuple[str, set[str]]] = {}
        self._answered: set[Stage] = set()

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the wrapped LMM's response. Raises PermanentError after too many equal SampleErrors."""
        try:
            response = await self._lmm.ask(request)
        except SampleError as error:
            is_images_own = error.kind == "image" and request.stage in self._answered
            if isinstance(error.__cause__, InputError) or is_images_own:
                # an unreadable file says nothing about the provider, nor about the next file
                raise
            last, failed = self._last.get(request.stage, ("", set[str]()))
            reason = _reason(error)
            if reason != last:
                failed = set()
            # many samples may share a text-only question
            key = response_key(request) if request.images else f"{len(failed)}"
            is_new = key not in failed
            failed.add(key)
            self._last[request.stage] = (reason, failed)
            if is_new and len(failed) >= self._repeats:
                raise PermanentError(f"the same error for {len(failed)} samples in a row: {error}") from error
            raise
        self._last.pop(request.stage, None)
        self._answered.add(request.stage)
        return response


def _reason(error: CallError) -> str:
    """What an error says without what differs from call to call: numbers, and identifiers made of them."""
    return re.sub(r"\b(?=\w*\d)[\w-]+\b", "#", f"{error.kind} {error.words or error}")
