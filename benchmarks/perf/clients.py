"""Asks the server about every image in a folder, in one of several ways.

    python -m benchmarks.perf.clients aiohttp|bodies|litellm|tlac|tlac2 ADDRESS FOLDER CONCURRENCY

Prints the processor seconds that the asking took, after one call to warm up.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

QUESTION = "What is the main subject of this image? Answer with its specific name alone, without a sentence."
_PARAMS = {"temperature": 0, "seed": 0, "max_tokens": 256}


def messages(path: Path) -> list[dict[str, Any]]:
    """What tlac asks about an image in the first stage."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
    return [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]


async def _gather(paths: list[Path], concurrency: int, ask: Callable[[Path], Awaitable[object]]) -> None:
    places = asyncio.Semaphore(concurrency)

    async def one(path: Path) -> None:
        async with places:
            await ask(path)

    await asyncio.gather(*map(one, paths))


async def ask_aiohttp(address: str, paths: list[Path], concurrency: int) -> float:
    """Bare aiohttp posting the same bodies."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(path: Path) -> None:
            body = json.dumps({"model": "default", "messages": messages(path), **_PARAMS})
            async with session.post(f"{address}/v1/chat/completions", data=body) as response:
                await response.json()

        return await _timed(address, ask, paths, concurrency)


async def ask_bodies(address: str, paths: list[Path], concurrency: int) -> float:
    """Bare aiohttp, with litellm's transformations of requests and responses."""
    import aiohttp

    from tlac.config.prompts import load_prompts
    from tlac.config.schemas import load_backend
    from tlac.images import identify
    from tlac.lmms.litellm_requests import WireFormat, wire_messages
    from tlac.types import LMMRequest

    backend = load_backend("openai-compatible")
    bodies, prompts = WireFormat(backend, api_base=f"{address}/v1"), load_prompts("name")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(path: Path) -> None:
            image = identify(path, path.name)
            told = prompts.stage1_messages(image, "default")
            request = LMMRequest("stage1", backend.spec.model, told, backend.spec.params)
            wire = bodies.form(request, wire_messages(request))
            async with session.post(wire.url, data=wire.encode(), headers=wire.headers) as response:
                bodies.read(await response.read(), wire.body)

        return await _timed(address, ask, paths, concurrency)


async def ask_litellm(address: str, paths: list[Path], concurrency: int) -> float:
    """litellm's acompletion in a semaphore."""
    from tlac.runtime.litellm_setup import load_litellm

    litellm = load_litellm()

    async def ask(path: Path) -> None:
        given = {"api_base": f"{address}/v1", "api_key": "none", "max_retries": 0, **_PARAMS}
        await litellm.acompletion(model="openai/default", messages=messages(path), **given)

    return await _timed(address, ask, paths, concurrency)


async def _timed(address: str, ask: Callable[[Path], Awaitable[object]], paths: list[Path], concurrency: int) -> float:
    await ask(paths[0])
    _look(address)
    started = time.process_time()
    await _gather(paths, concurrency, ask)
    return time.process_time() - started


async def ask_tlac(address: str, paths: list[Path], concurrency: int, method: str) -> float:
    """A run's first phase: store, retries, limits and all."""
    from tlac.cache.store import Store
    from tlac.config.prompts import load_prompts
    from tlac.config.registry import load_plugin, open_lmm
    from tlac.config.schemas import load_backend
    from tlac.evaluation.collect import collect
    from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
    from tlac.lmms.middleware.cache import StoredLMM
    from tlac.lmms.middleware.policy import CallPolicy
    from tlac.lmms.middleware.stack import build_stack
    from tlac.types import Sample

    shipped = load_backend("openai-compatible")
    limits = msgspec.structs.replace(shipped.spec.limits, concurrency=concurrency)
    backend = replace(shipped, spec=msgspec.structs.replace(shipped.spec, limits=limits, choice_by_index=False))
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        lmm = StoredLMM(build_stack(open_lmm(backend), backend, CallPolicy()), store, backend.name)
        bound_lmm = BoundLMM(backend, lmm)
        prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("name"), [f"class {n}" for n in range(100)])
        asking = load_plugin("tlac.methods", method)()
        samples = [Sample(path.name, path, 0) for path in paths]
        await collect([Sample("warm-up", paths[0].read_bytes() + b"0")], prompter, asking, 1)
        _look(address)
        started = time.process_time()
        transcripts, _ = await collect(samples, prompter, asking, concurrency)
        failed = next((one.reason for one in transcripts if one.failure), None)
        if failed is not None:
            raise RuntimeError(failed)
        return time.process_time() - started


def _look(address: str) -> None:
    urllib.request.urlopen(f"{address}/window").read()  # noqa: S310 - our own server


def main(kind: str, address: str, folder: str, concurrency: str) -> None:
    """Ask, and print what it took."""
    paths = sorted(Path(folder).iterdir())
    os.environ["OPENAI_COMPATIBLE_API_BASE"] = f"{address}/v1"
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "aiohttp": lambda: ask_aiohttp(address, paths, int(concurrency)),
        "bodies": lambda: ask_bodies(address, paths, int(concurrency)),
        "litellm": lambda: ask_litellm(address, paths, int(concurrency)),
        "tlac": lambda: ask_tlac(address, paths, int(concurrency), "slac"),
        "tlac2": lambda: ask_tlac(address, paths, int(concurrency), "tlac"),
    }

    async def ask() -> float:
        return await ways[kind]()

    sys.stdout.write(f"{asyncio.run(ask())}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
