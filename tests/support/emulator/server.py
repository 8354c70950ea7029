"""The HTTP server: finds the provider by the path, and does what the script says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import format_datetime
from types import ModuleType
from typing import Any

from aiohttp import web

from . import anthropic, gemini, ollama, openai
from .anthropic_batches import AnthropicBatches
from .batches import Batch, BatchControls, Endpoint, Shelf
from .checks import RefusedRequestError
from .gemini_batches import GeminiBatches
from .openai_batches import OpenAIBatches
from .replies import Asked, Fault, Reply, Script, default_script

_LARGEST_BODY_BYTES = 64 * 2**20
_PROVIDERS: dict[str, ModuleType] = {"gemini": gemini, "openai": openai, "anthropic": anthropic, "ollama": ollama}


class Emulator:
    """One server for all providers. `script` may be replaced at any time; `asked` holds what came in and was valid,
    `refused` the complaints about what was not. `batching` says what batches do, `shelves` holds them by provider."""

    def __init__(self, script: Script = default_script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.refused: list[str] = []
        self.batching = BatchControls()
        self.shelves = {name: Shelf(name) for name in ("openai", "anthropic", "gemini")}
        self.port = 0

    def base(self, provider: str) -> str:
        """The address that a backend's api_base is set to."""
        ends = {"gemini": "/v1beta", "openai": "/v1"}
        return f"http://127.0.0.1:{self.port}{ends.get(provider, '')}"

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        app.on_response_prepare.append(self._date)
        for name, provider in _PROVIDERS.items():
            app.router.add_post(provider.PATH, self._handler(name, provider))
        for batches in (OpenAIBatches(self), AnthropicBatches(self), GeminiBatches(self)):
            batches.add_routes(app)
        return app

    async def _date(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = format_datetime(datetime.now(timezone.utc) + self.batching.clock_ahead, usegmt=True)

    async def take(self, name: str, provider: ModuleType, requests: Any, headers: Any, tag: str = "") -> Batch:
        """A batch of a provider's has come in. Its answers are thought of in a thread, as live ones are."""
        batch = await asyncio.to_thread(
            self.shelves[name].take, provider, requests, headers, self.batching, self.script, tag
        )
        self.refused += [f"{name} batch: {complaint}" for complaint in batch.refused.values()]
        return batch

    def add_batch_route(
        self, app: web.Application, method: str, path: str, endpoint: Endpoint, provider: ModuleType, work: Any
    ) -> None:
        """A route of a batch interface; it has the faults of its endpoint."""

        async def handle(request: web.Request) -> web.StreamResponse:
            waiting = self.batching.faults.get(endpoint) or [None]
            fault = waiting.pop(0)
            if fault is not None and fault.kind == "status":
                return _refuse(provider, fault)
            try:
                done = await work(request)
            except RefusedRequestError as error:
                self.refused.append(f"{endpoint}: {error}")
                return web.json_response(provider.shape_error(error.status, str(error), None), status=error.status)
            if fault is not None:
                if fault.kind == "hung":
                    await asyncio.sleep(3600)
                if fault.kind == "error_inside":
                    return _refuse(provider, fault)
                if fault.kind == "malformed":
                    return web.Response(body=done.body[:-40])
                return await _drop(request, b"{}" * 20)
            return done if isinstance(done, web.StreamResponse) else web.json_response(done)

        app.router.add_route(method, path, handle)

    def _handler(self, name: str, provider: ModuleType) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                body = json.loads(await request.text())
                asked = provider.read(request.match_info.get("model", ""), body, request.headers)
            except RefusedRequestError as error:
                self.refused.append(f"{name}: {error}")
                return web.json_response(provider.shape_error(error.status, str(error), None), status=error.status)
            self.asked.append(asked)
            step = await asyncio.to_thread(self.script, asked)
            return await self._perform(request, provider, asked, step)

        return handle

    async def _perform(
        self, request: web.Request, provider: ModuleType, asked: Asked, step: Reply | Fault
    ) -> web.StreamResponse:
        if isinstance(step, Reply):
            return web.json_response(provider.shape(asked, step), headers=dict(step.headers))
        if step.kind == "status":
            # a careless server repeats what it was sent: no key in it may reach a log
            document = provider.shape_error(step.status, step.message.replace("{key}", asked.key), step.retry_after)
            headers = {"Retry-After": step.retry_after} if step.retry_after and provider is not gemini else {}
            body = document if step.document is None else step.document
            return web.json_response(body, status=step.status, headers=headers | dict(step.headers))
        if step.kind == "malformed":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if step.kind == "error_inside":
            return web.json_response(step.document or provider.shape_error(500, step.message, None))
        if step.kind == "dropped":
            return await _drop(request, json.dumps(provider.shape(asked, Reply("a dog"))).encode())
        # "hung" answers so late that every caller has gone; "slow" within its patience
        await asyncio.sleep(3600 if step.kind == "hung" else step.delay_s)
        return web.json_response(provider.shape(asked, Reply("a dog, after a while")))


def _refuse(provider: ModuleType, fault: Fault) -> web.Response:
    document = provider.shape_error(fault.status, fault.message, fault.retry_after)
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
    refusal = web.json_response(document, status=fault.status, headers=headers)
    # litellm's clients for batches close none by themselves
    refusal.force_close()
    return refusal


async def _drop(request: web.Request, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


async def _finish(runner: web.AppRunner) -> None:
    await runner.cleanup()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@contextmanager
def running_emulator(script: Script = default_script, port: int = 0) -> Iterator[Emulator]:
    """The emulator on a port of its own, in a thread of its own: litellm blocks its loop now and then."""
    emulator = Emulator(script)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(emulator.app(), shutdown_timeout=0.1, access_log=None)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        emulator.port = runner.addresses[0][1]

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, name="emulator", daemon=True)
    thread.start()
    try:
        yield emulator
    finally:
        asyncio.run_coroutine_threadsafe(_finish(runner), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
