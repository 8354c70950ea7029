"""Gets hold of model weights: from this machine first, from the Hugging Face hub where it can be reached.

Does not know any model. Where weights are missing and the hub can't be reached, one error says what was wanted.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tlac.config.schemas import EncoderConfig
from tlac.errors import ConfigError, EncoderUnavailableError
from tlac.hashing import canonical_json
from tlac.runtime.hub import http_errors, hub_obstacle, offline_hub

T = TypeVar("T")

REMEDY = "or use --encoder minilm"
_LOUD = ("huggingface_hub", "transformers", "sentence_transformers")
# what a model folder's vectors depend on, beside its Python code
_MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")


def load_errors() -> tuple[type[Exception], ...]:
    """What the model libraries raise where files are missing, broken, or of another model."""
    import safetensors

    missing = (OSError, ImportError, *http_errors())
    broken = (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, safetensors.SafetensorError)
    foreign = (ValueError, RuntimeError, LookupError, AttributeError, TypeError)
    return (*missing, *broken, *foreign)


def load_from_hub(config: EncoderConfig, wanted: str, load: Callable[[], T]) -> T:
    """What `load` gives: first with the hub's files on this machine only, then with the hub.

    `wanted` names the weights in the error. Raises EncoderUnavailableError.
    """
    errors = load_errors()
    with quiet(), offline_hub():
        try:
            return load()
        except errors:
            # what was wrong shows again below, where it is not just the missing network
            pass
    obstacle = hub_obstacle()
    if obstacle:
        raise EncoderUnavailableError(
            f"encoder {config.name!r} wants {wanted}, which is not on this machine, and {obstacle}; "
            f"connect once to fetch it, {REMEDY}"
        )
    return load_from_disk(config, wanted, load)


def load_from_disk(config: EncoderConfig, wanted: str, load: Callable[[], T]) -> T:
    """What `load` gives, quietly. Raises EncoderUnavailableError naming `wanted` where it can't be used."""
    with quiet():
        try:
            return load()
        except load_errors() as error:
            raise EncoderUnavailableError(
                f"encoder {config.name!r} wants {wanted}, which can't be loaded: {one_line(error)}; "
                f"check the name or file, {REMEDY}"
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines or warnings of the model libraries while it lasts."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # without a handler the libraries' logging.info() calls would install one on stderr, for good
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    has_hub_bars = not are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        disable_progress_bars()
        try:
            yield
        finally:
            if has_hub_bars:
                enable_progress_bars()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            logging.getLogger().removeHandler(silence)


def check_options(config: EncoderConfig, known: Mapping[str, type]) -> None:
    """Raises ConfigError naming file and key for an option that is unknown or of another type."""
    for key, value in config.spec.options.items():
        if key not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{config.source}: unknown key {key!r} in 'options': known: {names}")
        if type(value) is not known[key]:
            raise ConfigError(f"{config.source}: option {key!r} must be of type {known[key].__name__}, not {value!r}")


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
        raise EncoderUnavailableError(
            f"encoder {config.name!r}: {path} has sha256 {found}, not the {expected} of {config.source}; "
            f"install the right file, {REMEDY}"
        )


def file_sha256(config: EncoderConfig, path: Path) -> str:
    """The sha256 (hex) of a weights file. Raises EncoderUnavailableError where it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise EncoderUnavailableError(
            f"encoder {config.name!r} wants {path}, which can't be read ({error.strerror}); check the path, {REMEDY}"
        ) from error
    return digest.hexdigest()


def folder_sha256(config: EncoderConfig, folder: Path) -> str:
    """The sha256 (hex) over names and contents of a model folder's weights, configuration and vocabulary."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES and path.is_file())
    listing = [[path.relative_to(folder).as_posix(), file_sha256(config, path)] for path in files]
    return hashlib.sha256(canonical_json(listing).encode()).hexdigest()


def one_line(error: BaseException, limit: int = 200) -> str:
    """An error's text on one line of at most `limit` characters, or its kind where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def is_path_like(text: Any) -> bool:
    """True where a name can only have been meant as a path."""
    return isinstance(text, str) and (text.startswith((".", "/", "~", "\\")) or text.count("/") > 1)
