"""Anthropic's Message Batches through the official SDK (extra `batch`).

A batch carries no mark of ours: it is found again by its time, its size and, once it is over, the ids of its requests.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tlac.config.schemas import Backend
from tlac.interfaces import BatchResult, BatchStatus, UndecidedError, UnknownBatchError
from tlac.lmms.batch_common import CLOCK_SLACK, BatchAdapter, as_object, clock_shift, load_sdk, plain_reason, read_lines
from tlac.runtime.litellm_setup import drop_headers_of_environment
from tlac.types import LMMRequest

_PATH = "/v1/messages/batches"
_TIMEOUT_S = 600.0
_PAGE = 100
# lines of a batch that may be ours: the first may be broken
_LOOKED_AT = 10
_HEAD, _TAIL = b'{"requests":[', b"]}"
# that of the API whose bodies litellm forms and reads; the SDK has one of its own
_VERSION = {"anthropic-version": "2023-06-01"}


class AnthropicBatches(BatchAdapter):
    """Batches of one backend at Anthropic. Raises ConfigError where a live call would, and without the SDK.

    The limits are those of Anthropic's page on batch processing (100,000 requests, 256 MB).
    """

    max_requests, max_bytes = 100_000, 256_000_000 - len(_HEAD + _TAIL)

    address = "https://api.anthropic.com"

    def __init__(self, backend: Backend) -> None:
        self._sdk = load_sdk("anthropic", "anthropic")
        super().__init__(backend)
        self._betas: set[str] = set()

    async def form(self, request: LMMRequest) -> bytes:
        """See tlac.interfaces.BatchInterface."""
        wire = await self._form(request)
        # a batch has one header for what each live call asks for in its own
        self._betas.update(beta for beta in wire.headers.get("anthropic-beta", "").split(",") if beta)
        return wire.encode()

    def line(self, custom_id: str, body: bytes) -> bytes:
        """See tlac.interfaces.BatchInterface. Its end stands where the body that is sent has a comma."""
        return b'{"custom_id":' + json.dumps(custom_id).encode() + b',"params":' + body + b"}\n"

    def submit(self, file: Path, tag: str) -> str:
        """See tlac.interfaces.BatchInterface."""
        # every line has one end, the last one's becomes nothing
        size_bytes = len(_HEAD) + file.stat().st_size - 1 + len(_TAIL)
        headers = {"Content-Type": "application/json", "Content-Length": str(size_bytes), **_VERSION}
        if self._betas:
            headers["anthropic-beta"] = ",".join(sorted(self._betas))
        with self._client() as client:
            # create() would hold all images in memory
            made = client.post(
                _PATH, content=_body(file), options={"headers": headers}, cast_to=self._sdk.types.messages.MessageBatch
            )
        return str(made.id)

    def find(self, tag: str, since: datetime, custom_ids: Collection[str], taken: Collection[str]) -> str | None:
        """See tlac.interfaces.BatchInterface."""
        undecided: list[str] = []
        earliest = since + clock_shift(self._api_base) - CLOCK_SLACK
        with self._client() as client:
            for batch in client.messages.batches.list(limit=_PAGE):
                # the newest come first
                if batch.created_at < earliest:
                    break
                counts = batch.request_counts
                size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id in taken or size != len(custom_ids):
                    continue
                if batch.processing_status != "ended":
                    undecided.append(batch.id)
                elif self._holds(batch.id, custom_ids):
                    return str(batch.id)
        if undecided:
            raise UndecidedError(
                f"{self._backend.name}: Anthropic tells what is in a batch when it is over, and {', '.join(undecided)} "
                f"may be {tag}: nothing is submitted again before that"
            )
        return None

    def status(self, job: str) -> BatchStatus:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job), self._client() as client:
            batch = client.messages.batches.retrieve(job)
        counts = batch.request_counts
        results = counts.succeeded + counts.errored + counts.canceled + counts.expired
        is_over = batch.processing_status == "ended"
        return BatchStatus(str(batch.processing_status), is_over, results=results, expires_at=batch.expires_at)

    def results(self, job: str) -> Generator[BatchResult, None, None]:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job, is_for_results=True), self._client() as client:
            batch = client.messages.batches.retrieve(job)
            if batch.archived_at:
                raise UnknownBatchError(
                    f"{self._backend.name}: the provider has archived the results of batch {job}, which can't be read "
                    "any more"
                )
            if batch.results_url:
                streamed = client.messages.batches.with_streaming_response.results(job, extra_headers=_VERSION)
                with streamed as response:
                    name = f"{self._backend.name}: batch {job}"
                    yield from read_lines(response.iter_bytes(), self._read, name)

    def cancel(self, job: str) -> None:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job), self._client() as client:
            client.messages.batches.cancel(job)

    def _holds(self, job: str, custom_ids: Collection[str]) -> bool:
        with suppress(UnknownBatchError), closing(self.results(job)) as results:
            return any(result.custom_id in custom_ids for result in islice(results, _LOOKED_AT))
        return False

    def _read(self, line: dict[str, Any]) -> BatchResult:
        custom_id, result = str(line.get("custom_id") or ""), as_object(line.get("result"))
        if result.get("type") == "succeeded":
            return self._read_answer(custom_id, result.get("message"))
        return BatchResult(custom_id, None, plain_reason(str(result.get("type")), result.get("error")))

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with (
            # results that are cut short are no JSON
            self._translated(self._sdk.AnthropicError, ValueError),
            self._sdk.Anthropic(
                api_key=self._api_key,
                base_url=self._api_base,
                # a second try after a time-out could make a second batch
                max_retries=0,
                timeout=_TIMEOUT_S,
                # a redirect would take the key and the images along
                http_client=self._sdk.DefaultHttpxClient(
                    follow_redirects=False, event_hooks={"request": [drop_headers_of_environment]}
                ),
            ) as client,
        ):
            yield client


def _body(file: Path) -> Iterator[bytes]:
    yield _HEAD
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            yield (b"," if number else b"") + line.rstrip(b"\n")
    yield _TAIL
