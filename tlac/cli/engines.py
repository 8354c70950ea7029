"""Where `tlac bench` asks: in this process, on a Ray cluster, or through a provider's batch interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tlac.errors import UsageError

if TYPE_CHECKING:
    from tlac.asking.engine import Engine
    from tlac.calls.surround import Care
    from tlac.store import Store

_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Ask from this process, or from the workers of a Ray cluster (extra: tlac[ray]).",
    ),
    click.option(
        "--ray-address", metavar="ADDRESS", help="Ray cluster to join, such as auto.  [default: start one here]"
    ),
    click.option("--parallelism", type=click.IntRange(min=1), help="Ray workers.  [default: one for each CPU]"),
    click.option(
        "--batch",
        is_flag=True,
        help="Ask through the provider's batch interface: half the price, answers within a day.",
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `open_engine` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_engine(given: dict[str, Any], store: Store, care: Care) -> Engine | None:
    """What the options ask for; None for this process. Raises UsageError for options that don't go together."""
    is_ray = given["engine"] == "ray"
    if not is_ray and (given["ray_address"] or given["parallelism"]):
        raise UsageError("--ray-address and --parallelism belong to --engine ray: add it, or leave them out")
    if is_ray and given["batch"]:
        raise UsageError("--engine ray and --batch are two ways to ask: choose one")
    if (is_ray or given["batch"]) and given["order_trials"]:
        raise UsageError("--order-trials asks from this process: run it by itself, after --engine ray or --batch")
    if is_ray:
        return _ray(given, store, care)
    return _batch(given, store, care) if given["batch"] else None


def _ray(given: dict[str, Any], store: Store, care: Care) -> Engine:
    from tlac.cluster.engine import RayEngine
    from tlac.types import Outcome

    retry = [Outcome(name) for name in given["retry"]]
    return RayEngine(store, care, given["ray_address"], given["parallelism"], retry)


def _batch(given: dict[str, Any], store: Store, care: Care) -> Engine:
    from tlac.batches.engine import BatchEngine
    from tlac.types import Outcome

    return BatchEngine(store, care, [Outcome(name) for name in given["retry"]])
