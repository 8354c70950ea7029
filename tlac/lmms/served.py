"""Find out which model a server of one's own really serves: two servers may answer to one name.

What is found stands in the revision of the backend, and so in the key of every answer: answers of one server are never
replayed as another's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tlac.config.schemas import Backend
from tlac.errors import InputError
from tlac.runtime.safe_files import read_json, replacing
from tlac.types import LMMRequest, LMMResponse

SERVED = "served:"
"""What a revision begins with that was found out here."""

_SELF_HOSTED = ("ollama", "ollama_chat", "hosted_vllm", "lm_studio", "llamafile", "xinference", "openai")
_FILE = "served.json"
_TIMEOUT_S = 5.0
_MAX_LIST_BYTES = 2**22


def with_served_revision(backend: Backend, folder: Path, is_offline: bool = False) -> Backend:
    """Return the backend with what its server serves as its revision, where its model's name does not say that.

    As it is where the provider is no server of one's own and where the file names a revision. What was found is kept in
    `folder`, the store's, for a later run that is offline or whose server is down.
    """
    spec = backend.spec
    provider, _, model = spec.model.partition("/")
    address = spec.address
    host = urlsplit(address).hostname or ""
    if spec.adapter != "litellm" or spec.revision is not None or provider not in _SELF_HOSTED or not address:
        return backend
    if host == "openai.com" or host.endswith(".openai.com"):
        return backend
    known, place = _read_known(folder), f"{address} {spec.model}"
    served: str | None = None
    if not is_offline:
        is_ollama = provider.startswith("ollama")
        served = _ollama_digest(address, model) if is_ollama else _listed_model(address, model, spec.api_key)
    if served is None:
        served = known.get(place, "")
    elif known.get(place) != served:
        _keep_known(folder, {**known, place: served})
    if not served:
        return backend
    return replace(backend, spec=msgspec.structs.replace(spec, revision=SERVED + served))


def served_version(backend: Backend) -> str:
    """What the backend's server was found to serve; empty where nobody looked, or its file names a revision."""
    revision = backend.spec.revision or ""
    return revision.removeprefix(SERVED) if revision.startswith(SERVED) else ""


def _read_known(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = read_json(folder / _FILE, dict[str, str], _MAX_LIST_BYTES)
    except (InputError, OSError):
        return {}
    return found


def _keep_known(folder: Path, known: Mapping[str, str]) -> None:
    # a folder that can't be written is the store's to complain of
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(folder / _FILE, is_private=True) as file:
            file.write(json.dumps(known, indent=1, sort_keys=True).encode())


def _listed_model(address: str, model: str, key: str) -> str | None:
    """What an OpenAI-compatible server lists for a model: its id, and its root where that says more (vLLM).

    The address where it lists none that can be meant; empty where the model's name says all, None where nobody answers.
    """
    document = _get(f"{address}/models", {"Authorization": f"Bearer {key}"} if key else {})
    if document is None:
        return None
    listed = [entry for entry in _objects(document.get("data")) if isinstance(entry.get("id"), str)]
    named = [entry for entry in listed if entry["id"] == model]
    # a server of one model answers to any name
    entry = named[0] if named else listed[0] if len(listed) == 1 else None
    if entry is None:
        return address
    root = entry.get("root")
    has_root = isinstance(root, str) and root != entry["id"]
    return "" if named and not has_root else f"{entry['id']} {root}" if has_root else str(entry["id"])


def _ollama_digest(address: str, model: str) -> str | None:
    document = _get(f"{address}/api/tags", {})
    if document is None:
        return None
    # a name without a tag means the newest
    names = {model, f"{model}:latest"}
    listed = (entry for entry in _objects(document.get("models")) if entry.get("name") in names)
    digest = next((entry.get("digest") for entry in listed), None)
    return digest if isinstance(digest, str) and digest else address


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _get(url: str, headers: Mapping[str, str]) -> dict[str, Any] | None:
    """The JSON object behind an address; empty where a server answers something else, None where none answers."""
    import httpx

    try:
        # a redirect would take the key along
        with httpx.stream("GET", url, headers=dict(headers), timeout=_TIMEOUT_S, follow_redirects=False) as response:
            content = b""
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MAX_LIST_BYTES:
                    return {}
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and response.status_code == httpx.codes.OK else {}


def request_before(request: LMMRequest) -> LMMRequest | None:
    """Return the request as it was asked before it held what is served; None where it holds nothing of that kind."""
    if request.revision is None or not request.revision.startswith(SERVED):
        return None
    return replace(request, revision=None)


def is_of_served(response: LMMResponse, request: LMMRequest) -> bool:
    """Whether an answer of `request_before` names the very model that is served now."""
    version, served = response.model_version, (request.revision or "").removeprefix(SERVED)
    if not version:
        return False
    if request.model.startswith("ollama"):
        # an answer of Ollama names the model alone; its digest was not asked for then
        return version == request.model.partition("/")[2]
    return served == version or served.startswith(f"{version} ")
