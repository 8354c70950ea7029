"""What the answers of a run would cost at today's prices, beside what they did cost.

Reads usage from the store. Does not ask anybody, and changes nothing.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.schemas import BackendSpec, Prices, load_backend
from tlac.errors import MissingAnswersError, UsageError
from tlac.lmms.prices import cost_usd, prices_of
from tlac.results.folder import read_record
from tlac.results.predictions import PREDICTIONS, read_predictions


def reprice(folder: Path, store: Store) -> dict[str, Any]:
    """Price the answers of the run in `folder`, each once, by their stored usage, as `--json` prints it.

    `then_usd` and `now_usd` are None where a price was or is not known; `then_table` and `now_table` name the price
    tables: the version of litellm, which carries one.

    Raises InputError for a folder that is no run, MissingAnswersError for answers that are not in the store.
    """
    record = read_record(folder)
    keys = {key for prediction in read_predictions(folder / PREDICTIONS) for key in prediction.keys}
    entries = [entry for entry in map(store.get_entry, sorted(keys)) if entry is not None]
    if len(entries) < len(keys):
        raise MissingAnswersError(
            f"{len(keys) - len(entries)} of {len(keys)} answers of {record.run} are not in the store {store.path}; "
            "name the run's own store with --store"
        )
    names = {record.backend, record.stage2_backend, *record.ensemble}
    own = {spec.model: spec for name in sorted(names) if (spec := _spec_of(name)) is not None}
    prices = {model: _prices_of(model, own) for model in sorted({entry.request["model"] for entry in entries})}
    return {
        "run": record.run,
        "answers": len(entries),
        "then_usd": record.answers_cost_usd,
        "then_table": _table(record.versions.get("litellm")),
        "now_usd": _total_usd(entries, prices),
        "now_table": _table(version("litellm")),
    }


def _spec_of(name: str) -> BackendSpec | None:
    """The backend's file of today, if there still is one that can be read."""
    try:
        # the name comes from a run folder, which may not have anything fetched
        return load_backend(name, is_offline=True).spec
    except UsageError:
        return None


def _prices_of(model: str, own: dict[str, BackendSpec]) -> Prices | None:
    # a backend file may state prices, and says which models are no paid service
    return prices_of(own.get(model) or BackendSpec(adapter="litellm", model=model))


def _total_usd(entries: list[StoredAnswer], prices: dict[str, Prices | None]) -> float | None:
    total = 0.0
    for entry in entries:
        known = prices[entry.request["model"]]
        if known is None:
            return None
        total += cost_usd(entry.response.usage, known)
    return total


def _table(litellm_version: str | None) -> str:
    return f"litellm {litellm_version}" if litellm_version else "unknown"
