"""Gemini's batch mode through google-genai (extra `batch`): a file of requests is uploaded, then made into a job.

Does not know where answers are kept. A job is found again by its display name, which is our tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlac.config.schemas import Backend
from tlac.interfaces import BatchLimits, BatchResult, BatchStatus, Intent
from tlac.lmms.batch_common import (
    BATCH_DISCOUNT,
    BatchBodies,
    json_lines,
    known_batch,
    load_sdk,
    plain_reason,
    translated,
)
from tlac.types import LMMRequest

_OVER = {f"JOB_STATE_{end}" for end in ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")}
_PAGE = 100
_TIMEOUT_MS = 600_000


class GeminiBatches:
    """Batches of one backend at the Gemini API. Raises ConfigError where a live call would, and without the SDK.

    A file may have 2 GB, by the page of the Gemini API on its batch mode, which names no number of requests; ours
    keeps the lists of keys short.
    """

    limits = BatchLimits(requests=100_000, size_bytes=2_000_000_000)
    discount = BATCH_DISCOUNT

    def __init__(self, backend: Backend) -> None:
        self._sdk = load_sdk("google.genai", "google-genai")
        self._bodies = BatchBodies(backend, "https://generativelanguage.googleapis.com/v1beta")
        self._backend = backend

    async def form(self, request: LMMRequest) -> bytes:
        """See tlac.interfaces.BatchInterface."""
        return (await self._bodies.form(request)).encode()

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

    def find(self, intent: Intent) -> str | None:
        """See tlac.interfaces.BatchInterface."""
        with self._client() as client:
            for job in client.batches.list(config={"page_size": _PAGE}):
                if job.display_name == intent.tag:
                    return str(job.name)
        return None

    def status(self, job: str) -> BatchStatus:
        """See tlac.interfaces.BatchInterface."""
        with known_batch(self._backend, job), self._client() as client:
            found = client.batches.get(name=job)
        state = found.state.name if found.state else "unknown"
        reason = plain_reason("failed", found.error.message) if found.error else ""
        return BatchStatus(state.removeprefix("JOB_STATE_").lower(), state in _OVER, reason)

    def results(self, job: str) -> Iterator[BatchResult]:
        """See tlac.interfaces.BatchInterface."""
        with self._client() as client:
            destination = client.batches.get(name=job).dest
            if destination is None or not destination.file_name:
                return
            content = client.files.download(file=destination.file_name)
        yield from map(self._read, json_lines(content, f"{self._backend.name}: batch {job}"))

    def cancel(self, job: str) -> None:
        """See tlac.interfaces.BatchInterface."""
        with known_batch(self._backend, job), self._client() as client:
            client.batches.cancel(name=job)

    def _read(self, line: dict[str, Any]) -> BatchResult:
        custom_id = str(line.get("key"))
        if isinstance(line.get("response"), dict):
            return self._bodies.read(custom_id, line["response"])
        return BatchResult(custom_id, None, plain_reason("failed", line.get("error") or line.get("status")))

    @contextmanager
    def _client(self) -> Iterator[Any]:
        base, _, version = self._bodies.api_base.rpartition("/")
        options = {"timeout": _TIMEOUT_MS, "base_url": base, "api_version": version}
        with translated(self._backend, self._sdk.errors.APIError, KeyError, ValueError):
            client = self._sdk.Client(vertexai=False, api_key=self._bodies.api_key, http_options=options)
            try:
                yield client
            finally:
                client.close()
