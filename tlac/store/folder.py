"""The store's folder: where it lies, and the file that says which format it is in.

Format 1 kept every request whole; format 2 keeps long texts once (tlac.store.texts). Does not know the
databases inside.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs

from tlac.errors import StoreError

FORMAT = 2
FORMAT_FILE = "tlac-store.json"
RESPONSES = "responses"
EMBEDDINGS = "embeddings"


class _FormatDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tlac_store: Annotated[int, msgspec.Meta(ge=1)]


def store_folder() -> Path:
    """Where the store lies unless --store says otherwise: TLAC_CACHE_DIR, else the platform's cache folder."""
    override = os.environ.get("TLAC_CACHE_DIR")
    return Path(override) if override else Path(platformdirs.user_cache_dir("tlac"))


def prepare_folder(folder: Path) -> int:
    """Make the folder where there is none; returns the format of what lies there.

    Raises StoreError where it can't be made, is something else's, or a newer tlac wrote it.
    """
    # diskcache would expand variables and open another folder than the one that was looked at
    if os.path.expandvars(str(folder)) != str(folder):
        raise StoreError(f"{folder}: a store's path can't hold a variable; choose another --store (or TLAC_CACHE_DIR)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = read_format(folder)
        if written is None:
            write_format(folder)
            return FORMAT
    except OSError as error:
        raise StoreError(
            f"{folder}: the store can't be made or read here: {error.strerror or error};"
            " choose another --store (or TLAC_CACHE_DIR)"
        ) from error
    if written > FORMAT:
        raise StoreError(
            f"{folder}: the store has format {written}, and this tlac knows up to {FORMAT}:"
            " upgrade tlac or choose another --store"
        )
    return written


def read_format(folder: Path) -> int | None:
    """The format of the store in a folder, None where there is none. Raises StoreError, OSError."""
    path = folder / FORMAT_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if not (folder / RESPONSES).exists():
            return None
        # another process that makes the store just now writes the format before anything else
        if not path.exists():
            raise StoreError(
                f"{folder}: holds a folder {RESPONSES!r} but no {FORMAT_FILE}: not a store of tlac's;"
                " choose another --store (or TLAC_CACHE_DIR)"
            ) from None
        content = path.read_bytes()
    try:
        return msgspec.json.decode(content, type=_FormatDocument, strict=True).tlac_store
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is not as tlac writes it: {error}; choose another --store") from error


def write_format(folder: Path) -> None:
    """Say that the folder is in our format. Raises OSError."""
    temporary = folder / f".{FORMAT_FILE}.{secrets.token_hex(4)}"
    try:
        temporary.write_text(f'{{"tlac_store": {FORMAT}}}\n', encoding="utf-8")
        temporary.replace(folder / FORMAT_FILE)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
