"""`tlac datasets prepare` from the server to the verdict: Ctrl-C stops it, and the same command goes on."""

from __future__ import annotations

import hashlib
import io
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fakes import Shown, make_png
from tests.support.file_server import FileServer, running_file_server

VARIANTS = ("A320", "A380", "Yak-42")
SUBSETS = {"train": range(3), "val": range(3, 6), "test": range(6, 12)}


def aircraft_archive() -> bytes:
    """FGVC-Aircraft's archive as it is laid out, with twelve images of noise."""
    lists = {"variants.txt": VARIANTS, "families.txt": VARIANTS, "manufacturers.txt": ("Airbus", "Yakovlev")}
    for subset, numbers in {**SUBSETS, "trainval": range(6)}.items():
        lists[f"images_variant_{subset}.txt"] = tuple(f"{number:07} {VARIANTS[number % 3]}" for number in numbers)
    files = {name: "".join(f"{line}\n" for line in lines).encode() for name, lines in lists.items()}
    files.update({f"images/{number:07}.jpg": noise(number) for number in range(12)})
    return packed({f"fgvc-aircraft-2013b/data/{name}": content for name, content in files.items()})


def textures_archive() -> bytes:
    """DTD's archive as it is laid out, with two images a class and subset."""
    files = {}
    for number, subset in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}{copy}.jpg" for kind in ("banded", "dotted") for copy in range(2)]
        files[f"labels/{subset}1.txt"] = "".join(f"{name}\n" for name in names).encode()
        files.update({f"images/{name}": make_png(len(files) + place) for place, name in enumerate(names)})
    return packed({f"dtd/{name}": content for name, content in files.items()})


def packed(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, part in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(part)
            archive.addfile(entry, io.BytesIO(part))
    return content.getvalue()


def noise(seed: int) -> bytes:
    """An image that a gzip file can't make much smaller, so that half an archive is a lot."""
    import numpy as np
    import PIL.Image

    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)
    picture = io.BytesIO()
    PIL.Image.fromarray(pixels).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running_file_server() as told:
        told.files["/fgvc-aircraft-2013b.tar.gz"] = aircraft_archive()
        yield told


@pytest.fixture
def dataset(server: FileServer, tmp_path: Path) -> Path:
    path = tmp_path / "planes.yaml"
    path.write_text(
        f"""
loader: aircraft
protocol: ours
options: {{folder: planes}}
classes: [{", ".join(VARIANTS)}]
expected: {{classes: 3, test: 6, val: 3, train: 3, per_class: 2}}
download:
  torchvision: FGVCAircraft
  archives:
  - url: {server.base}/fgvc-aircraft-2013b.tar.gz
    path: fgvc-aircraft-2013b.tar.gz
  makes: fgvc-aircraft-2013b/data
"""
    )
    return path


def test_ctrl_c_stops_a_download_and_the_same_command_finishes_it(
    server: FileServer, dataset: Path, tmp_path: Path, tlac_command: Callable[..., Shown]
) -> None:
    size = len(server.files["/fgvc-aircraft-2013b.tar.gz"])
    server.cuts, server.stalls = [size // 2], threading.Event()
    arguments = ["datasets", "prepare", str(dataset), "--data", str(tmp_path / "data")]
    part = tmp_path / "data" / ".tlac-download" / "planes" / "fgvc-aircraft-2013b.tar.gz.part"
    command = [sys.executable, "-m", "tlac", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("fgvc-aircraft-2013b.tar.gz: ")
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
        assert run.wait() == 1
    server.stalls.set()
    assert [line for line in said.splitlines() if line] == [
        "planes: stopped: the same command goes on from here",
        "tlac: stopped",
    ]
    kept = part.stat().st_size
    assert 0 < kept <= size // 2

    shown = tlac_command(*arguments)
    assert shown.code == 0, shown.err
    assert "\nplanes: unpacking, which may take minutes\n" in shown.err
    assert f"planes: downloaded into {tmp_path / 'data' / 'planes'}" in shown.out
    assert "as expected: 6 test images, 3 classes, 12 looked at" in shown.out
    assert server.ranges == [None, f"bytes={kept}-"]
    assert server.sent[1] == size - kept
    assert not (tmp_path / "data" / ".tlac-download" / "planes").exists()

    again = tlac_command(*arguments)
    assert again.code == 0
    assert f"planes: lies in {tmp_path / 'data' / 'planes'}" in again.out
    assert len(server.ranges) == 2
    assert again.err == ""


def test_a_damaged_archive_leaves_no_dataset_behind(
    server: FileServer, dataset: Path, tmp_path: Path, tlac_command: Callable[..., Shown]
) -> None:
    server.files["/fgvc-aircraft-2013b.tar.gz"] = aircraft_archive()[:1000]
    shown = tlac_command("datasets", "prepare", dataset, "--data", tmp_path / "data")
    assert shown.code == 1
    assert "planes: an archive can't be unpacked" in shown.err
    assert not (tmp_path / "data" / "planes").exists()


def test_without_archives_in_its_file_a_dataset_is_left_to_torchvision(
    dataset: Path, tmp_path: Path, tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FGVCAircraft

    url = next(line.split()[-1] for line in dataset.read_text().splitlines() if "url:" in line)
    monkeypatch.setattr(FGVCAircraft, "_URL", url)
    kept = [line for line in dataset.read_text().splitlines() if "url:" not in line and "path:" not in line]
    dataset.write_text("\n".join(line for line in kept if "archives:" not in line))
    shown = tlac_command("datasets", "prepare", dataset, "--data", tmp_path / "data")
    assert "its file lists no archives: torchvision fetches them, and begins a broken one anew" in shown.out
    assert shown.code == 0, shown.err


def test_torchvision_takes_the_archive_that_is_there_and_fetches_nothing(
    server: FileServer, tmp_path: Path, tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import DTD

    archive = textures_archive()
    digest = hashlib.md5(archive).hexdigest()
    server.files["/moved/dtd.tar.gz"] = archive
    monkeypatch.setattr(DTD, "_URL", f"{server.base}/gone/dtd-r1.0.1.tar.gz")
    monkeypatch.setattr(DTD, "_MD5", digest)
    (tmp_path / "textures.yaml").write_text(
        f"""
loader: coop
protocol: CoOp
options:
  folder: dtd
  images: images
  split_file: split.json
  official: {{reader: dtd, protocol: official split}}
download:
  torchvision: DTD
  archives: [{{url: {server.base}/moved/dtd.tar.gz, path: dtd/dtd-r1.0.1.tar.gz, md5: {digest}}}]
  makes: dtd/dtd
expected: {{classes: 2, test: 4}}
classes: [banded, dotted]
"""
    )
    server.cuts = [len(archive) // 3]
    monkeypatch.setattr("tlac.datasets.prepare.download._FIRST_PAUSE_S", 0.0)
    shown = tlac_command("datasets", "prepare", tmp_path / "textures.yaml", "--data", tmp_path / "data")
    assert shown.code == 0, shown.err
    assert "official split" in shown.out
    assert "nothing wrong found: 4 test images, 2 classes, 4 looked at" in shown.out
    assert sum(server.sent) == len(archive)
