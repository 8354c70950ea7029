"""Asks again after a passing fault, and ends the run when one fault repeats for every sample.

Waits grow with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). Does not know rates or budgets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tlac.errors import InputError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.interfaces import LMM
from tlac.lmms.middleware.clock import Clock
from tlac.types import LMMRequest, LMMResponse, Stage


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one question is asked again.

    `tries` counts calls in all, `identical_tries` those that failed with the very same words, `limited_tries`
    those that the provider turned away for going too fast. `total_wait_s` bounds the waits between them.
    """

    tries: int = 10
    identical_tries: int = 6
    limited_tries: int = 20
    base_s: float = 1.0
    longest_s: float = 60.0
    total_wait_s: float = 600.0


@dataclass(slots=True)
class _Attempts:
    """What has happened to one question so far."""

    failed: int = 0
    limited: int = 0
    waited_s: float = 0.0
    texts: dict[str, int] = field(default_factory=dict)

    def note(self, error: TransientError) -> None:
        if isinstance(error, RateLimitError):
            self.limited += 1
            return
        self.failed += 1
        text = _same_words(str(error))
        self.texts[text] = self.texts.get(text, 0) + 1


class RetryingLMM:
    """Wraps an LMM and asks again after TransientError and RateLimitError, within a policy."""

    def __init__(self, lmm: LMM, policy: RetryPolicy | None = None, clock: Clock | None = None) -> None:
        self._lmm = lmm
        self._policy = policy or RetryPolicy()
        self._clock = clock or Clock()

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The first response to be had.

        Raises the last TransientError when the policy is used up, PermanentError where the provider wants a
        longer wait than the policy allows, and at once what is not worth asking again.
        """
        attempts = _Attempts()
        while True:
            try:
                return await self._lmm.ask(request)
            except TransientError as error:
                attempts.note(error)
                wait_s = self._wait_s(error, attempts)
                self._require_patience(error, attempts, wait_s)
            attempts.waited_s += wait_s
            await self._clock.sleep(wait_s)

    def _wait_s(self, error: TransientError, attempts: _Attempts) -> float:
        policy = self._policy
        doublings = min(attempts.failed + attempts.limited - 1, 30)
        jitter_s = self._clock.uniform(0.0, min(policy.longest_s, policy.base_s * 2**doublings))
        wished_s = error.retry_after_s if isinstance(error, RateLimitError) else None
        # a wished wait is a lower bound; the jitter keeps all from coming back in the same instant
        return jitter_s if wished_s is None else wished_s + min(jitter_s, policy.base_s)

    def _require_patience(self, error: TransientError, attempts: _Attempts, wait_s: float) -> None:
        policy = self._policy
        wished_s = (error.retry_after_s or 0.0) if isinstance(error, RateLimitError) else 0.0
        if wished_s > policy.total_wait_s:
            raise PermanentError(f"{error}; it wants a wait of {wished_s:.0f} s: run the same command later") from error
        is_used_up = (
            attempts.failed >= policy.tries
            or attempts.limited >= policy.limited_tries
            or max(attempts.texts.values(), default=0) >= policy.identical_tries
            or attempts.waited_s + wait_s > policy.total_wait_s
        )
        if is_used_up:
            count = attempts.failed + attempts.limited
            raise TransientError(f"{error}; gave up after {count} tries") from error


class AbortOnRepeatedError:
    """Wraps an LMM and ends the run when the same fault hits one sample after the other.

    A bad request may be this image's fault or everybody's: after `repeats` of the same words in a row, without
    an answer in that stage between them, it is everybody's.
    """

    def __init__(self, lmm: LMM, repeats: int = 5) -> None:
        self._lmm = lmm
        self._repeats = repeats
        self._last: dict[Stage, tuple[str, int]] = {}

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The wrapped LMM's response. Raises PermanentError in place of the last of too many equal SampleErrors."""
        try:
            response = await self._lmm.ask(request)
        except SampleError as error:
            if isinstance(error.__cause__, InputError):
                # an unreadable file says nothing about the provider, nor about the next file
                raise
            text, count = self._last.get(request.stage, ("", 0))
            words = _same_words(str(error))
            count = count + 1 if words == text else 1
            self._last[request.stage] = (words, count)
            if count >= self._repeats:
                raise PermanentError(f"the same error for {count} samples in a row: {error}") from error
            raise
        self._last.pop(request.stage, None)
        return response


def _same_words(text: str) -> str:
    """An error's text without what differs from call to call: numbers, and identifiers made of them."""
    return re.sub(r"\b(?=\w*\d)[\w-]+\b", "#", text)
