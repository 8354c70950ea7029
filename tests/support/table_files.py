"""Parquet files and webdataset shards of small images."""

import io
import tarfile
from pathlib import Path
from typing import Any

from tests.support.fakes import make_png

IMAGES = [make_png(seed) for seed in range(4)]

LABELS = [0, 2, 1, 2]

NAMES = ["cat", "dog", "emu"]


def write_parquet(folder: Path, split: str = "test", labels: list[Any] = LABELS, kind: str = "names") -> Path:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    feature = {"names": ClassLabel(names=NAMES), "text": Value("string"), "number": Value("int64")}[kind]
    images = [{"bytes": image, "path": None} for image in IMAGES]
    table = Dataset.from_dict({"image": images, "label": labels}, features=Features(image=Image(), label=feature))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    table.to_parquet(path)
    return path


def write_shard(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            for name, content in ((f"s{number}.png", image), (f"s{number}.cls", str(label).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    return path
