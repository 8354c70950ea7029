"""Anthropic's Message Batches, in the shapes of the official SDK's types."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from aiohttp import web
from anthropic.types import Message
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import BatchCreateParams, Request

from . import anthropic
from .batches import Batch
from .checks import require, require_shape
from .replies import Fault

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_REQUESTS = 100_000


class AnthropicBatches:
    """The routes; `manager` is the emulator."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._shelf = manager.shelves["anthropic"]

    def add_routes(self, app: web.Application) -> None:
        """Batches, and their results."""
        add, path = self._manager.add_batch_route, "/v1/messages/batches"
        add(app, "POST", path, "create", anthropic, self._create)
        add(app, "GET", path, "list", anthropic, self._list)
        add(app, "GET", f"{path}/{{batch}}", "status", anthropic, self._status)
        add(app, "POST", f"{path}/{{batch}}/cancel", "cancel", anthropic, self._cancel)
        add(app, "GET", f"{path}/{{batch}}/results", "results", anthropic, self._results)

    async def _create(self, request: web.Request) -> Any:
        require("Content-Length" in request.headers, "length required", 411)
        body = await request.json()
        require_shape(BatchCreateParams, body, "body")
        require(len(body["requests"]) <= MOST_REQUESTS, "requests: too many")
        for one in body["requests"]:
            require(set(one) == set(Request.__annotations__), "requests")
            require(_ID.fullmatch(one["custom_id"]) is not None, "custom_id: string should match pattern")
        requests = [(one["custom_id"], "", one["params"]) for one in body["requests"]]
        headers = request.headers.copy()
        # the official SDK has the key where others have a token
        headers.setdefault("x-api-key", headers.get("Authorization", "").removeprefix("Bearer "))
        return self._document(await self._manager.take("anthropic", anthropic, requests, headers))

    async def _list(self, request: web.Request) -> Any:
        batches = self._shelf.newest()
        after = request.query.get("after_id")
        if after:
            batches = batches[[batch.id for batch in batches].index(after) + 1 :]
        limit = int(request.query.get("limit", 20))
        require(1 <= limit <= 1000, "limit: between 1 and 1000")
        page = batches[:limit]
        for batch in page:
            batch.poll()
        return {
            "data": [self._document(batch) for batch in page],
            "has_more": len(page) < len(batches),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    async def _status(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.poll()
        return self._document(batch)

    async def _cancel(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.cancel()
        return self._document(batch)

    async def _results(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        lines = [self._line(batch, *result) for result in batch.results()]
        lines += [
            _line(custom_id, _errored("invalid_request_error", text)) for custom_id, text in batch.refused.items()
        ]
        return web.Response(body=batch.controls.mangle("".join(json.dumps(line) + "\n" for line in lines).encode()))

    def _line(self, batch: Batch, custom_id: str, fate: str, reply: Any) -> dict[str, Any]:
        if fate == "expired":
            return _line(custom_id, {"type": "canceled" if batch.state == "cancelled" else "expired"})
        if fate == "failed" or isinstance(reply, Fault):
            return _line(custom_id, _errored("api_error", "the server had an error"))
        message = anthropic.shape(batch.asked[custom_id], reply)
        Message.model_validate(message)
        return _line(custom_id, {"type": "succeeded", "message": message})

    def _document(self, batch: Batch) -> dict[str, Any]:
        is_over = batch.is_over
        counts: Counter[str] = Counter()
        if is_over:
            counts["errored"] = len(batch.refused)
            for _, fate, _ in batch.results():
                counts[{"answered": "succeeded", "failed": "errored"}.get(fate, "expired")] += 1
            # results that are lost or come twice are not in the provider's books
            counts["succeeded"] += batch.size - counts.total()
        names = ("succeeded", "errored", "canceled", "expired")
        results_url = f"{self._manager.base('anthropic')}/v1/messages/batches/{batch.id}/results"
        document = {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if is_over else "canceling" if batch.state == "cancelling" else "in_progress",
            "created_at": batch.created_at.isoformat(),
            "expires_at": batch.expires_at.isoformat(),
            "ended_at": batch.created_at.isoformat() if is_over else None,
            "request_counts": {"processing": 0 if is_over else batch.size} | {name: counts[name] for name in names},
            "results_url": results_url if batch.has_results else None,
        }
        return MessageBatch.model_validate(document).model_dump(mode="json")


def _errored(kind: str, message: str) -> dict[str, Any]:
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": message}}}


def _line(custom_id: str, result: dict[str, Any]) -> dict[str, Any]:
    document = {"custom_id": custom_id, "result": result}
    MessageBatchIndividualResponse.model_validate(document)
    return document
