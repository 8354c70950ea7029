"""Gemini's batch mode through google-genai (extra `batch`): a file of requests is uploaded, then made into a job.

A job is found again by its display name, which is our tag.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tlac.config.schemas import Backend
from tlac.interfaces import BatchResult, BatchStatus
from tlac.lmms.batch_common import BatchAdapter, as_object, load_sdk, plain_reason, read_lines

_OVER = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
# by the page of the Gemini API on its batch mode
_LIFETIME = timedelta(hours=48)
_PAGE = 100
_TIMEOUT_MS = 600_000


class GeminiBatches(BatchAdapter):
    """Batches of one backend at the Gemini API. Raises ConfigError where a live call would, and without the SDK.

    A file may have 2 GB, by the page of the Gemini API on its batch mode, which names no number of requests; ours
    keeps the lists of keys short.
    """

    max_requests, max_bytes = 100_000, 2_000_000_000

    address = "https://generativelanguage.googleapis.com/v1beta"

    def __init__(self, backend: Backend) -> None:
        self._sdk = load_sdk("google.genai", "google-genai")
        super().__init__(backend)

    def line(self, custom_id: str, body: bytes) -> bytes:
        """See tlac.interfaces.BatchInterface."""
        return b'{"key":' + json.dumps(custom_id).encode() + b',"request":' + body + b"}\n"

    def submit(self, file: Path, tag: str) -> str:
        """See tlac.interfaces.BatchInterface."""
        model = self._backend.spec.model.partition("/")[2]
        with self._client() as client:
            uploaded = client.files.upload(file=file, config={"display_name": tag, "mime_type": "jsonl"})
            job = client.batches.create(model=model, src=uploaded.name, config={"display_name": tag})
        return str(job.name)

    def find(self, tag: str, since: datetime, custom_ids: Collection[str], taken: Collection[str]) -> str | None:
        """See tlac.interfaces.BatchInterface."""
        with self._client() as client:
            for job in client.batches.list(config={"page_size": _PAGE}):
                if job.display_name == tag:
                    return str(job.name)
        return None

    def status(self, job: str) -> BatchStatus:
        """See tlac.interfaces.BatchInterface."""
        document = self._get(job)
        metadata = as_object(document.get("metadata"))
        state = str(metadata.get("state") or "unknown").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
        reason = plain_reason("failed", document["error"]) if document.get("error") else ""
        counts = as_object(metadata.get("batchStats"))
        # 64-bit integers are strings in Google's JSON
        counted = sum(int(counts.get(f"{end}RequestCount") or 0) for end in ("successful", "failed"))
        # where nobody has counted, a batch that has succeeded has a result of every request
        results = None if state == "SUCCEEDED" and not counted else counted
        created_at = metadata.get("createTime")
        expires_at = datetime.fromisoformat(created_at.replace("Z", "+00:00")) + _LIFETIME if created_at else None
        return BatchStatus(state.lower(), state in _OVER, reason, results, expires_at)

    def results(self, job: str) -> Iterator[BatchResult]:
        """See tlac.interfaces.BatchInterface."""
        output = as_object(as_object(self._get(job).get("metadata")).get("output"))
        # a small batch may have its results here, though its requests came in a file
        for line in as_object(output.get("inlinedResponses")).get("inlinedResponses") or ():
            yield self._read({**as_object(line), "key": as_object(as_object(line).get("metadata")).get("key")})
        if file := output.get("responsesFile"):
            with self._known_batch(job, is_for_results=True), self._client() as client:
                content = client.files.download(file=str(file))
            yield from read_lines([content], self._read, f"{self._backend.name}: batch {job}")

    def cancel(self, job: str) -> None:
        """See tlac.interfaces.BatchInterface."""
        with self._known_batch(job), self._client() as client:
            client.batches.cancel(name=job)

    def _read(self, line: dict[str, Any]) -> BatchResult:
        custom_id = str(line.get("key") or "")
        if isinstance(line.get("response"), dict):
            return self._read_answer(custom_id, line["response"])
        return BatchResult(custom_id, None, plain_reason("failed", line.get("error") or line.get("status")))

    def _get(self, job: str) -> dict[str, Any]:
        """The provider's JSON of a job: the SDK leaves out the counts of its requests, and what it complains of."""
        documents: list[dict[str, Any]] = []

        def note(response: Any) -> None:
            response.read()
            if response.is_success:
                documents.append(as_object(response.json()))

        with self._known_batch(job), self._client({"event_hooks": {"response": [note]}}) as client:
            client.batches.get(name=job)
        return documents[-1]

    @contextmanager
    def _client(self, client_args: dict[str, Any] | None = None) -> Iterator[Any]:
        base, _, version = self._api_base.rpartition("/")
        # a redirect would take the key and the images along
        sent = {"follow_redirects": False, **(client_args or {})}
        options = {"timeout": _TIMEOUT_MS, "base_url": base, "api_version": version, "client_args": sent}
        with self._translated(self._sdk.errors.APIError, KeyError, ValueError):
            client = self._sdk.Client(vertexai=False, api_key=self._api_key, http_options=options)
            try:
                yield client
            finally:
                client.close()
