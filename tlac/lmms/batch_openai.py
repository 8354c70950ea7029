"""OpenAI's batch interface through litellm: a file of requests is uploaded, then made into a batch.

A batch is found again by the tag in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tlac.interfaces import BatchResult, BatchStatus
from tlac.lmms.batch_common import CLOCK_SLACK, BatchAdapter, as_object, clock_shift, plain_reason, read_lines
from tlac.runtime.litellm_setup import litellm_call, load_litellm
from tlac.types import LMMResponse, Outcome

_ENDPOINT = "/v1/chat/completions"
_OVER = ("completed", "failed", "expired", "cancelled")
_PAGE = 100
_TIMEOUT_S = 600.0


class OpenAIBatches(BatchAdapter):
    """Batches of one backend at OpenAI. Raises ConfigError where a live call would.

    The limits are those in the docstring of openai.types.BatchCreateParams.
    """

    max_requests, max_bytes = 50_000, 200_000_000

    address = "https://api.openai.com/v1"

    def line(self, custom_id: str, body: bytes) -> bytes:
        """See tlac.interfaces.BatchInterface."""
        head = json.dumps({"custom_id": custom_id, "method": "POST", "url": _ENDPOINT})
        return head[:-1].encode() + b', "body": ' + body + b"}\n"

    def submit(self, file: Path, tag: str) -> str:
        """See tlac.interfaces.BatchInterface."""
        with file.open("rb") as lines:
            uploaded = self._call("create_file", file=(f"{tag}.jsonl", lines), purpose="batch")
        made = self._call(
            "create_batch",
            completion_window="24h",
            endpoint=_ENDPOINT,
            input_file_id=uploaded.id,
            metadata={"tlac_batch": tag},
        )
        return str(made.id)

    def find(self, tag: str, since: datetime, custom_ids: Collection[str], taken: Collection[str]) -> str | None:
        """See tlac.interfaces.BatchInterface."""
        earliest = since + clock_shift(self._api_base) - CLOCK_SLACK
        after: str | None = None
        while True:
            page = list(self._call("list_batches", after=after, limit=_PAGE).data)
            for batch in page:
                if (batch.metadata or {}).get("tlac_batch") == tag:
                    return str(batch.id)
            # the newest come first
            if len(page) < _PAGE or _is_older(page[-1], earliest):
                return None
            after = page[-1].id

    def status(self, job: str) -> BatchStatus:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job):
            batch = self._call("retrieve_batch", batch_id=job)
        complaints = [error.message or error.code or "" for error in (batch.errors.data or [] if batch.errors else [])]
        reason = plain_reason("refused", complaints[0]) if complaints else ""
        counts = batch.request_counts
        counted = counts.completed + counts.failed if counts else 0
        # where nobody has counted, a batch that is completed has a result of every request
        results = None if batch.status == "completed" and not counted else counted
        expires_at = datetime.fromtimestamp(batch.expires_at, timezone.utc) if batch.expires_at else None
        return BatchStatus(str(batch.status), batch.status in _OVER, reason, results, expires_at)

    def results(self, job: str) -> Iterator[BatchResult]:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job):
            batch = self._call("retrieve_batch", batch_id=job)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                with self._known_batch(job, is_for_results=True):
                    content = self._call("file_content", file_id=file_id).content
                yield from read_lines([content], self._read, f"{self._backend.name}: batch {job}")

    def cancel(self, job: str) -> None:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job):
            self._call("cancel_batch", batch_id=job)

    def _read(self, line: dict[str, Any]) -> BatchResult:
        custom_id, response = str(line.get("custom_id") or ""), as_object(line.get("response"))
        body, status = as_object(response.get("body")), response.get("status_code")
        if status == 200 and body:
            return self._read_answer(custom_id, body)
        error = as_object(line.get("error")) or as_object(body.get("error"))
        reason = plain_reason(str(error.get("code") or f"HTTP {status}"), error)
        if error.get("code") == "content_policy_violation":
            # as a live call has it
            return BatchResult(custom_id, LMMResponse(Outcome.REFUSED, "", reason))
        return BatchResult(custom_id, None, reason)

    def _call(self, name: str, **arguments: Any) -> Any:
        litellm = load_litellm()
        from openai import OpenAIError

        with self._translated(OpenAIError), litellm_call():
            return getattr(litellm, name)(
                custom_llm_provider="openai",
                api_key=self._api_key,
                api_base=self._api_base,
                # a second try after a time-out could make a second batch
                max_retries=0,
                timeout=_TIMEOUT_S,
                # litellm makes a client for each call and closes none
                extra_headers={"Connection": "close"},
                **arguments,
            )


def _is_older(batch: Any, moment: datetime) -> bool:
    return bool(batch.created_at and batch.created_at < moment.timestamp())
