"""From options to what would be asked: shared by commands that look for stored answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlac.asking.recall import Inquiry
    from tlac.interfaces import Dataset


def read_inquiry(given: dict[str, Any]) -> tuple[Inquiry, Dataset]:
    """The inquiry and dataset that --backend, --dataset, --method, --prompts, --matching and --data name.

    Raises UnknownNameError, ConfigError, InputError.
    """
    from tlac.asking.recall import Inquiry
    from tlac.config import load_backend, load_dataset_config
    from tlac.prompts import load_prompts
    from tlac.registry import open_dataset
    from tlac.scoring.matching import find_rule

    backend = load_backend(given["backend"])
    inquiry = Inquiry(backend, backend, given["method"], load_prompts(given["prompts"]), find_rule(given["matching"]))
    return inquiry, open_dataset(load_dataset_config(given["dataset"], given.get("root")))
