"""Response packs at addresses that fsspec reaches: hf://datasets/ORG/REPO/FILE, https://..., s3://...

    path, address = fetch_pack("hf://datasets/ours/tables/caltech101.jsonl.zst")

A pack is data, whoever made it: what was fetched is bounded, kept in the store's folder under its sha256, and read
like any other pack. Only addresses that a user gives are fetched, never one from a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tlac.cache.pack import ZSTD_SUFFIX
from tlac.cache.store import prepare_folder, store_folder
from tlac.errors import InputError
from tlac.hashing import sha256_of
from tlac.runtime.libraries import check_hub
from tlac.runtime.redaction import reason_of, remember_secret
from tlac.runtime.safe_files import read_file, replacing

MAX_FETCHED_BYTES = 2 * 2**30
FOLDER = "packs"
_PIN = re.compile(r"(.*)#sha256=([^#]*)")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_CHUNK_BYTES = 2**20


def fetch_pack(address: str, is_offline: bool = False) -> tuple[Path, str]:
    """A local copy of the pack at URL or URL#sha256=HEX, and its address with its digest and without secrets.

    With a digest, a copy that is here is taken, and anything else that the address has is refused. Without one, the
    pack is fetched anew each time, as it may have changed; offline, the copy that was fetched last is taken. Raises
    InputError for what can't be had, StoreError.
    """
    url, pin = _split(address)
    shown = _without_secrets(url)
    path = find_fetched(address) if pin or is_offline else None
    if path is None:
        if is_offline:
            raise InputError(f"{shown}: is not on this machine, and this run is offline; leave --offline out")
        path = _fetch(url, shown, pin)
    return path, f"{shown}#sha256={path.name.partition('.')[0]}"


def find_fetched(address: str) -> Path | None:
    """The copy of a pack that was fetched before, None where there is none. Asks nobody."""
    url, pin = _split(address)
    folder = store_folder() / FOLDER
    latest = folder / f"{sha256_of(url)}.latest"
    if not pin:
        if not latest.is_file():
            return None
        pin = read_file(latest, 100).decode("ascii", "replace").strip()
    path = folder / _file_name(url, pin)
    return path if path.is_file() else None


def push_pack(path: Path, url: str) -> str:
    """Put a pack at an address, and give it with its digest. The token for hf:// is the environment's HF_TOKEN.

    Raises InputError where it can't be put there.
    """
    shown = _without_secrets(url)
    with path.open("rb") as file, _translated(shown, "written"), _open(url, "wb") as remote:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            remote.write(chunk)
    return f"{shown}#sha256={digest.hexdigest()}"


def _split(address: str) -> tuple[str, str]:
    """The URL, and the sha256 that is asked for, "" for none."""
    match = _PIN.fullmatch(address)
    # whoever names a digest means it: one that can't be read is not left out
    if match and not _DIGEST.fullmatch(match[2]):
        raise InputError(f"{_without_secrets(match[1])}: {match[2][:80]!r} is not a sha256 (64 hex digits)")
    return (match[1], match[2].lower()) if match else (address, "")


def _file_name(url: str, digest: str) -> str:
    # how it ends says whether it is compressed
    return f"{digest}.jsonl{ZSTD_SUFFIX if urlsplit(url).path.endswith(ZSTD_SUFFIX) else ''}"


def _without_secrets(url: str) -> str:
    """The address without user, password and query, which may be a signature."""
    parts = urlsplit(url)
    remember_secret(parts.query)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _fetch(url: str, shown: str, pin: str) -> Path:
    """Fetch a pack into the store's folder. Raises InputError, StoreError."""
    prepare_folder(store_folder())
    folder = store_folder() / FOLDER
    digest, size_bytes = hashlib.sha256(), 0
    part = folder / _file_name(url, f"fetched-{secrets.token_hex(4)}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with replacing(part, is_private=True) as file:
            for chunk in _read_remote(url, shown):
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > MAX_FETCHED_BYTES:
                    raise InputError(f"{shown}: holds more than {MAX_FETCHED_BYTES:,} bytes, the most that is fetched")
                file.write(chunk)
            if pin and digest.hexdigest() != pin:
                raise InputError(f"{shown}: its sha256 is {digest.hexdigest()}, and {pin} was asked for: not used")
        path = part.replace(folder / _file_name(url, digest.hexdigest()))
        with replacing(folder / f"{sha256_of(url)}.latest", is_private=True) as file:
            file.write(digest.hexdigest().encode())
    except OSError as error:
        raise InputError(f"{shown}: can't be kept in {folder}: {error.strerror or error}") from error
    return path


def _read_remote(url: str, shown: str) -> Iterator[bytes]:
    with _translated(shown, "read"), _open(url, "rb") as remote:
        while chunk := remote.read(_CHUNK_BYTES):
            yield chunk


def _open(url: str, mode: str) -> IO[bytes]:
    """A file at an address; raises whatever the file system behind it raises."""
    import fsspec

    # no instance that is kept: it would remember what lay there, and the token
    options: dict[str, Any] = {"skip_instance_cache": True}
    if "::" in url:
        raise InputError("an address in several parts (::) is not supported")
    if url.startswith("hf://"):
        # not the one that `hf auth login` keeps: what a command may use stands in its environment
        options["token"] = os.environ.get("HF_TOKEN") or False
        if mode == "wb" and not options["token"]:
            raise InputError("HF_TOKEN is not set: give a token that may write there")
        if obstacle := check_hub(is_offline=False):
            raise InputError(obstacle)
    system, place = fsspec.url_to_fs(url, **options)
    # as one stream: pieces that are asked for one by one could be of two versions
    streams = {"block_size": 0} if mode == "rb" and url.startswith(("hf://", "http://", "https://")) else {}
    file: IO[bytes] = system.open(place, mode, **streams)
    return file


@contextmanager
def _translated(shown: str, done: str) -> Iterator[None]:
    """Raise InputError for whatever is raised inside."""
    try:
        yield
    except ImportError as error:
        # says which package to install
        raise InputError(f"{shown}: can't be {done}: {error}") from error
    except Exception as error:
        # file systems are of many makers, and their errors have no common kind
        raise InputError(f"{shown}: can't be {done}: {reason_of(error)}") from error
