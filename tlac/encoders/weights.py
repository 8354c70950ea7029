"""Gets hold of model weights: from this machine first, from the Hugging Face hub where it can be reached.

Where weights are missing and the hub can't be reached, one error says what was wanted.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tlac.config.schemas import EncoderConfig
from tlac.errors import EncoderUnavailableError, one_line
from tlac.hashing import canonical_json
from tlac.runtime.libraries import check_hub, http_errors, library_settings, offline_hub, restored_environment
from tlac.runtime.redaction import redact

T = TypeVar("T")

# by scikit-learn, sentence-transformers and torch
_SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "CODECARBON_LOG_LEVEL", "TORCHINDUCTOR_CACHE_DIR")
_LOUD = ("huggingface_hub", "transformers", "sentence_transformers")
# what a model folder's vectors depend on, beside its Python code
_MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")


def unavailable(config: EncoderConfig, wanted: str, why: str) -> EncoderUnavailableError:
    """The error for an encoder that wants something which can't be had, with one that can."""
    return EncoderUnavailableError(f"encoder {config.name!r} wants {wanted}, which {why}", "or use --encoder minilm")


def load_errors() -> tuple[type[Exception], ...]:
    """What the model libraries raise where files are missing, broken, or of another model."""
    import safetensors

    missing = (OSError, ImportError, *http_errors())
    broken = (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, safetensors.SafetensorError)
    foreign = (ValueError, RuntimeError, LookupError, AttributeError, TypeError)
    return (*missing, *broken, *foreign)


def load_from_hub(config: EncoderConfig, wanted: str, load: Callable[[], T]) -> T:
    """What `load` gives: first with the hub's files on this machine only, then, unless offline, with the hub.

    `wanted` names the weights in the error. Raises EncoderUnavailableError.
    """
    errors = load_errors()
    with quiet(), offline_hub():
        try:
            return load()
        except errors:
            # what was wrong shows again below, where it is not just the missing network
            pass
    if obstacle := check_hub(config.is_offline):
        raise unavailable(config, wanted, f"is not on this machine, and {obstacle}; connect once to fetch it")
    return load_from_disk(config, wanted, load)


def load_from_disk(config: EncoderConfig, wanted: str, load: Callable[[], T]) -> T:
    """What `load` gives, quietly. Raises EncoderUnavailableError naming `wanted` where it can't be used."""
    with quiet():
        try:
            return load()
        except load_errors() as error:
            reason = f"can't be loaded: {short_reason(error)}; check the name or file"
            raise unavailable(config, wanted, reason) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the model libraries while it lasts, and no settings left behind.

    Warnings are left alone on other threads than the main one: their filters belong to the whole process, and a thread
    that restores them undoes what others have set meanwhile.
    """
    with library_settings, restored_environment(_SET_BY_IMPORTS), ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        # without a handler the libraries' logging.info() calls would install one on stderr, for good
        silence = logging.NullHandler()
        logging.getLogger().addHandler(silence)
        undo.callback(logging.getLogger().removeHandler, silence)
        for name in _LOUD:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        undo.enter_context(_no_progress_bars())
        yield


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # imported first: it keeps for good whether the hub's bars were on when it was imported
    transformers_bars: Any = None
    with suppress(ImportError):
        transformers_bars = importlib.import_module("transformers.utils.logging")
    restore_hub = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    has_bars = transformers_bars is not None and transformers_bars.is_progress_bar_enabled()
    disable_progress_bars()
    if has_bars:
        transformers_bars.disable_progress_bar()
    try:
        yield
    finally:
        if has_bars:
            # switches the hub's on as well
            transformers_bars.enable_progress_bar()
        restore_hub()


def describe(config: EncoderConfig, *parts: str) -> str:
    """A fingerprint: the adapter, `parts`, and the options, which all change the vectors."""
    options = [canonical_json(config.spec.options)] if config.spec.options else []
    return ":".join([config.spec.adapter, *parts, *options])


def check_sha256(config: EncoderConfig, path: Path) -> None:
    """Compare the weights file with the digest that the encoder's description promises, if it does.

    Raises EncoderUnavailableError.
    """
    expected = config.spec.weights_sha256
    if expected is None:
        return
    found = file_sha256(config, path)
    if found != expected:
        reason = f"has sha256 {found}, not the {expected} of {config.source}; install the right file"
        raise unavailable(config, str(path), reason)


def file_sha256(config: EncoderConfig, path: Path) -> str:
    """The sha256 (hex) of a weights file. Raises EncoderUnavailableError where it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise unavailable(config, str(path), f"can't be read ({error.strerror}); check the path") from error
    return digest.hexdigest()


def folder_sha256(config: EncoderConfig, folder: Path) -> str:
    """The sha256 (hex) over names and contents of a model folder's weights, configuration and vocabulary."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES and path.is_file())
    listing = [[path.relative_to(folder).as_posix(), file_sha256(config, path)] for path in files]
    return hashlib.sha256(canonical_json(listing).encode()).hexdigest()


def short_reason(error: BaseException) -> str:
    """What an error says, as one line of at most 200 characters without secrets."""
    text = redact(one_line(error))
    return text if len(text) <= 200 else f"{text[:197]}..."


def is_path_like(text: Any) -> bool:
    """True where a name can only have been meant as a path."""
    return isinstance(text, str) and (text.startswith((".", "/", "~", "\\")) or text.count("/") > 1)
