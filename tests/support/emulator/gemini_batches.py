"""Gemini's file upload and batch mode, in the shapes of the official SDK's types."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from google.genai import types

from . import gemini
from .batches import Batch
from .checks import require, require_shape
from .replies import Fault

_STATE = {
    "working": "RUNNING",
    "cancelling": "RUNNING",
    "ended": "SUCCEEDED",
    "cancelled": "CANCELLED",
    "expired": "EXPIRED",
    "refused": "FAILED",
}
LARGEST_BYTES = 2_000_000_000


class GeminiBatches:
    """The routes; `manager` is the emulator."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._shelf = manager.shelves["gemini"]
        self._uploads: dict[str, bytearray] = {}

    def add_routes(self, app: web.Application) -> None:
        """Files and jobs."""
        add = self._manager.add_batch_route
        add(app, "POST", "/upload/v1beta/files", "upload", gemini, self._start)
        add(app, "POST", "/uploading/{upload}", "upload", gemini, self._upload)
        add(app, "POST", "/v1beta/models/{model}:batchGenerateContent", "create", gemini, self._create)
        add(app, "GET", "/v1beta/batches", "list", gemini, self._list)
        add(app, "GET", "/v1beta/batches/{batch}", "status", gemini, self._status)
        add(app, "POST", "/v1beta/batches/{batch}:cancel", "cancel", gemini, self._cancel)
        for prefix in ("", "/download"):
            add(app, "GET", f"{prefix}/v1beta/files/{{file}}:download", "results", gemini, self._download)

    async def _start(self, request: web.Request) -> Any:
        require(bool(request.headers.get("x-goog-api-key")), "unregistered caller", 403)
        body = await request.json()
        require_shape(types.File, body["file"], "file")
        name = f"upload{len(self._uploads) + 1}"
        self._uploads[name] = bytearray()
        headers = {"x-goog-upload-url": f"http://127.0.0.1:{self._manager.port}/uploading/{name}"}
        return web.json_response({}, headers=headers)

    async def _upload(self, request: web.Request) -> Any:
        content = self._uploads[request.match_info["upload"]]
        require(int(request.headers["X-Goog-Upload-Offset"]) == len(content), "offset")
        content += await request.read()
        require(len(content) <= LARGEST_BYTES, "file is too large")
        if "finalize" not in request.headers["X-Goog-Upload-Command"]:
            return web.json_response({}, headers={"x-goog-upload-status": "active"})
        file = {"name": f"files/{self._shelf.keep(bytes(content))}", "mimeType": "jsonl", "state": "ACTIVE"}
        require_shape(types.File, file, "file")
        return web.json_response({"file": file}, headers={"x-goog-upload-status": "final"})

    async def _create(self, request: web.Request) -> Any:
        batch = (await request.json())["batch"]
        require(set(batch) == {"displayName", "inputConfig"}, "batch")
        name = batch["inputConfig"]["fileName"].removeprefix("files/")
        lines = [json.loads(line) for line in self._shelf.files[name].splitlines()]
        for line in lines:
            require(set(line) == {"key", "request"}, "a line of the file")
        model = request.match_info["model"]
        requests = [(line["key"], model, line["request"]) for line in lines]
        return self._document(
            await self._manager.take("gemini", gemini, requests, request.headers, batch["displayName"])
        )

    async def _list(self, request: web.Request) -> Any:
        batches = self._shelf.newest()
        start = int(request.query.get("pageToken", 0))
        end = start + int(request.query.get("pageSize", 20))
        document: dict[str, Any] = {"operations": [self._document(batch) for batch in batches[start:end]]}
        if end < len(batches):
            document["nextPageToken"] = str(end)
        return document

    async def _status(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.poll()
        return self._document(batch)

    async def _cancel(self, request: web.Request) -> Any:
        batch = self._shelf.find(request.match_info["batch"])
        batch.cancel()
        return {}

    async def _download(self, request: web.Request) -> Any:
        require(request.query.get("alt") == "media", "alt")
        batch = self._shelf.find(request.match_info["file"])
        body = "".join(json.dumps(line) + "\n" for line in self._lines(batch)).encode()
        return web.Response(body=batch.controls.mangle(body))

    def _lines(self, batch: Batch) -> list[dict[str, Any]]:
        lines = [self._line(batch, *result) for result in batch.results()]
        return lines + [{"key": key, "error": {"code": 3, "message": text}} for key, text in batch.refused.items()]

    def _line(self, batch: Batch, key: str, fate: str, reply: Any) -> dict[str, Any]:
        if fate == "expired":
            return {"key": key, "error": {"code": 4, "message": "the deadline passed before the request was answered"}}
        if fate == "failed" or isinstance(reply, Fault):
            return {"key": key, "error": {"code": 13, "message": "the server had an error"}}
        response = gemini.shape(batch.asked[key], reply)
        types.GenerateContentResponse.model_validate(response)
        return {"key": key, "response": response}

    def _document(self, batch: Batch) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "displayName": batch.tag,
            "state": f"BATCH_STATE_{_STATE[batch.state]}",
            "createTime": batch.created_at.isoformat(),
            "model": "models/gemini",
        }
        if batch.has_results and batch.state != "expired":
            inline = [{"metadata": {"key": line.pop("key")}, **line} for line in self._lines(batch)]
            is_inline = batch.controls.is_inline
            metadata["output"] = (
                {"inlinedResponses": {"inlinedResponses": inline}}
                if is_inline
                else {"responsesFile": f"files/{batch.id}"}
            )
        successful, failed = batch.counted() if batch.state != "expired" else (0, 0)
        # 64-bit integers are strings in Google's JSON, and zeros are left out
        counts = {"successfulRequestCount": successful, "failedRequestCount": failed}
        metadata["batchStats"] = {"requestCount": str(batch.size)} | {n: str(c) for n, c in counts.items() if c}
        document = {"name": f"batches/{batch.id}", "metadata": metadata, "done": batch.is_over}
        if batch.state == "refused":
            document["error"] = {"code": 8, "message": self._manager.batching.refusal}
        return document
