"""A server that speaks just enough of OpenAI's chat completions, so that it is never what is measured.

    python -m benchmarks.perf.server LATENCY_S

Prints its port. GET /window gives how many calls came, the seconds from the first to the last answer, and when, by
the system's clock, the first came; asking for it starts a new window. The emulator of the tests checks every request
against published types, at some milliseconds a call: too slow for this.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web


class _Window:
    """When the calls since the last look came, and how many."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.last = 0.0

    def note(self, started: float) -> None:
        self.first = min(self.first, started) if self.count else started
        self.last = time.perf_counter()
        self.count += 1


def _answer(text: str) -> dict[str, object]:
    usage = {"prompt_tokens": 280, "completion_tokens": 4, "total_tokens": 284}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "default"}
    return {**head, "choices": [choice], "usage": usage}


def main(latency_s: float) -> None:
    """Serve until killed."""
    window = _Window()

    async def complete(request: web.Request) -> web.Response:
        started = time.perf_counter()
        body = await request.read()
        await asyncio.sleep(latency_s - (time.perf_counter() - started))
        # a first stage shows an image; every image has an answer of its own, which is in no class list
        text = f"thing {hash(body) % 10**9} on a table" if b"data:image" in body else "class 1"
        response = web.json_response(_answer(text))
        window.note(started)
        return response

    async def look(_request: web.Request) -> web.Response:
        seen = {"count": window.count, "seconds": window.last - window.first, "first": window.first}
        window.count = 0
        return web.json_response(seen)

    async def serve() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/window", look)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        sys.stdout.write(f"{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(float(sys.argv[1]))
