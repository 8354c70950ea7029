"""OpenAI's files and batches, in the shapes of the official SDK's types."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from openai.types import Batch as BatchObject
from openai.types import FileObject
from openai.types.batch_create_params import BatchCreateParams
from openai.types.chat import ChatCompletion

from . import openai
from .batches import Batch
from .checks import require, require_shape
from .replies import Fault

_STATUS = {
    "working": "in_progress",
    "cancelling": "cancelling",
    "ended": "completed",
    "cancelled": "cancelled",
    "expired": "expired",
    "refused": "failed",
}
_LINE = {"custom_id", "method", "url", "body"}
_ENDPOINT = "/v1/chat/completions"
LARGEST_BYTES, MOST_REQUESTS = 200_000_000, 50_000


class OpenAIBatches:
    """The routes; `manager` is the emulator."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._shelf = manager.shelves["openai"]

    def add_routes(self, app: web.Application) -> None:
        """Files and batches."""
        add = self._manager.add_batch_route
        add(app, "POST", "/v1/files", "upload", openai, self._upload)
        add(app, "GET", "/v1/files/{file}/content", "results", openai, self._download)
        add(app, "POST", "/v1/batches", "create", openai, self._create)
        add(app, "GET", "/v1/batches", "list", openai, self._list)
        add(app, "GET", "/v1/batches/{batch}", "status", openai, self._status)
        add(app, "POST", "/v1/batches/{batch}/cancel", "cancel", openai, self._cancel)

    async def _upload(self, request: web.Request) -> Any:
        form = await request.post()
        require(form.get("purpose") == "batch", "purpose must be batch")
        file: Any = form["file"]
        content = file.file.read()
        require(len(content) <= LARGEST_BYTES, "file is too large")
        made = FileObject(
            id=self._shelf.keep(content),
            bytes=len(content),
            created_at=0,
            filename=file.filename,
            object="file",
            purpose="batch",
            status="processed",
        )
        return made.model_dump(mode="json")

    async def _create(self, request: web.Request) -> Any:
        body = await request.json()
        require_shape(BatchCreateParams, body, "body")
        require(body["endpoint"] == _ENDPOINT, "endpoint")
        lines = [json.loads(line) for line in self._shelf.files[body["input_file_id"]].splitlines()]
        require(len(lines) <= MOST_REQUESTS, "too many requests")
        for line in lines:
            require(set(line) == _LINE and line["method"] == "POST" and line["url"] == _ENDPOINT, "a line of the file")
        requests = [(line["custom_id"], "", line["body"]) for line in lines]
        tag = (body.get("metadata") or {}).get("tlac_batch", "")
        batch = await self._manager.take("openai", openai, requests, request.headers, tag)
        return self._document(batch)

    async def _list(self, request: web.Request) -> Any:
        batches = self._shelf.newest()
        after = request.query.get("after")
        if after:
            batches = batches[[batch.id for batch in batches].index(after) + 1 :]
        limit = int(request.query.get("limit", 20))
        require(1 <= limit <= 100, "limit: between 1 and 100")
        page = batches[:limit]
        return {
            "object": "list",
            "data": [self._document(batch) for batch in page],
            "has_more": len(page) < len(batches),
        }

    async def _status(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.poll()
        return self._document(batch)

    async def _cancel(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.cancel(409)
        return self._document(batch)

    async def _download(self, request: web.Request) -> Any:
        job, _, kind = request.match_info["file"].rpartition(".")
        batch = self._shelf.find(job)
        wanted = self._lines(batch, kind)
        require(bool(wanted), "No such File object", 404)
        return web.Response(body=batch.controls.mangle("".join(json.dumps(line) + "\n" for line in wanted).encode()))

    def _lines(self, batch: Batch, kind: str) -> list[dict[str, Any]]:
        lines = [self._line(batch, *result) for result in batch.results()]
        lines += [_error(custom_id, "invalid_request", text) for custom_id, text in batch.refused.items()]
        return [line for line in lines if (line["error"] is None) == (kind == "output")]

    def _file(self, batch: Batch, kind: str) -> str | None:
        # a file without a line is not there: of a batch without an answer there are the errors alone
        return f"{batch.id}.{kind}" if batch.has_results and self._lines(batch, kind) else None

    def _line(self, batch: Batch, custom_id: str, fate: str, reply: Any) -> dict[str, Any]:
        if fate == "expired":
            return _error(custom_id, "batch_expired", "This request could not be executed before the batch expired.")
        if fate == "failed" or isinstance(reply, Fault):
            return _error(custom_id, "server_error", "the server had an error")
        body = openai.shape(batch.asked[custom_id], reply)
        ChatCompletion.model_validate(body)
        response = {"status_code": 200, "request_id": "r", "body": body}
        return {"id": "line", "custom_id": custom_id, "response": response, "error": None}

    def _document(self, batch: Batch) -> dict[str, Any]:
        status = _STATUS[batch.state]
        completed, failed = batch.counted()
        refusal = {"data": [{"code": "invalid", "message": self._manager.batching.refusal}], "object": "list"}
        document = {
            "id": batch.id,
            "object": "batch",
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "input_file_id": "file1",
            "status": status,
            "created_at": int(batch.created_at.timestamp()),
            "metadata": {"tlac_batch": batch.tag},
            "output_file_id": self._file(batch, "output"),
            "error_file_id": self._file(batch, "errors"),
            "errors": refusal if batch.state == "refused" else None,
            "request_counts": {"total": batch.size, "completed": completed, "failed": failed},
            "expires_at": int(batch.expires_at.timestamp()),
        }
        return BatchObject.model_validate(document).model_dump(mode="json")


def _error(custom_id: str, code: str, message: str) -> dict[str, Any]:
    return {"id": "line", "custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}
