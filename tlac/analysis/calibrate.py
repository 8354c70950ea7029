"""Learns from labelled runs how sure predictions are, and keeps that in a file.

Does not know how confidence is computed (tlac.scoring.confidence) nor the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlac.errors import UsageError
from tlac.results.record import Run
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
