"""What tells one dataset from another: a digest over its classes, sample ids and labels.

Does not open images and does not look at the dataset's name, so that a renamed copy is the same dataset.
"""

from __future__ import annotations

import hashlib

from tlac.interfaces import Dataset
from tlac.keys import canonical_json


def dataset_digest(dataset: Dataset) -> str:
    """The sha256 (hex) of split, protocol, class names and, in order, each sample's id and label."""
    digest = hashlib.sha256()
    head = {"split": dataset.split, "protocol": dataset.protocol, "classes": dataset.classes}
    digest.update(canonical_json(head).encode())
    for sample in dataset:
        digest.update(b"\n" + canonical_json([sample.id, sample.label]).encode())
    return digest.hexdigest()
