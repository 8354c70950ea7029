"""Learns from labelled runs how sure predictions are, and keeps that in a file.

Does not know how confidence is computed (tlac.scoring.confidence) nor the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from tlac.errors import InputError, TlacError, UsageError
from tlac.runs.folder import Run
from tlac.scoring.confidence import Calibration, fit


def calibrate(runs: Sequence[Run]) -> Calibration:
    """What labelled runs of one text encoder teach.

    Raises UsageError where they have different encoders, or nothing that can be learnt from.
    """
    encoders = sorted({(run.record.encoder, run.record.digests.get("encoder", "")) for run in runs})
    if len(encoders) > 1:
        raise UsageError(
            f"runs of several text encoders ({', '.join(name for name, _ in encoders)}), "
            "or with and without the image: their margins mean different things; calibrate each by itself"
        )
    predictions = [prediction for run in runs for prediction in run.predictions]
    found = fit(predictions, encoders[0][1] if encoders else "", tuple(run.record.run for run in runs))
    if found is None:
        raise UsageError(
            f"{len(predictions)} predictions teach nothing: it takes labelled ones, some of them right and some wrong"
        )
    return found


def require_encoder(calibration: Calibration, fingerprint: str) -> None:
    """Raise UsageError for a calibration that was learnt with another text encoder."""
    if calibration.encoder != fingerprint:
        raise UsageError(
            "the calibration was learnt with another text encoder or other weights: "
            "make one from runs of this encoder with `tlac calibrate`"
        )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON. Raises TlacError where the file can't be written."""
    try:
        path.write_text(json.dumps(asdict(calibration), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise TlacError(f"{path}: can't be written: {error.strerror}") from error


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises InputError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; `tlac calibrate RUNS` makes one") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a calibration: {error}") from error
    if found.temperature is not None and not found.temperature > 0:
        raise InputError(f"{path}: not a calibration: temperature {found.temperature} is not above 0")
    return found
