from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.fakes import Shown, make_png
from tests.support.file_server import FileServer, running_file_server
from tlac.config.files import list_names
from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets.prepare.prepare import fetch_mirror
from tlac.errors import ConfigError, TlacError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATASET = """
description: Pets of ours
loader: coop
protocol: CoOp
prompt: oxford_pets
options: {folder: pets, images: images, split_file: split.json}
download:
  mirror:
    repo: ours/wds_pets
    expected: {classes: 3, test: 6}
  steps:
  - put split.json into {folder}
"""


def shard(first: int, count: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number in range(first, first + count):
            for name, part in (
                (f"s{number:07}.cls", str(number % 3).encode()),
                (f"s{number:07}.webp", make_png(number)),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(part)
                archive.addfile(entry, io.BytesIO(part))
    return content.getvalue()


FILES = {
    "classnames.txt": b"cat\ndog\nemu\n",
    "test/0.tar": shard(0, 4),
    "test/1.tar": shard(4, 2),
    "test/nshards.txt": b"2",
    "train/0.tar": shard(0, 1),
    "README.md": b"pets",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    datasets.disable_progress_bars()
    with running_file_server() as told:
        template = told.base + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "ENDPOINT", told.base)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        FakeHub(told).publish("ours/wds_pets", COMMIT, FILES)
        yield told


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    path = tmp_path / "pets.yaml"
    path.write_text(DATASET)
    return path


def test_a_mirror_is_fetched_and_opens_under_its_own_protocol(server: FileServer, pets: Path, tmp_path: Path) -> None:
    mirrored = fetch_mirror(load_dataset_config(str(pets), tmp_path))
    assert mirrored.is_downloaded
    assert mirrored.folder == tmp_path / "mirrors" / "pets"
    fetched = sorted(path.relative_to(mirrored.folder).as_posix() for path in mirrored.folder.rglob("*.*"))
    assert fetched == ["classnames.txt", "pets-mirror.yaml", "test/0.tar", "test/1.tar"]
    dataset = open_dataset(load_dataset_config(str(mirrored.dataset_file)))
    assert (dataset.name, len(dataset), dataset.classes) == ("pets-mirror", 6, ("cat", "dog", "emu"))
    assert dataset.protocol == "mirror ours/wds_pets at 0123456789ab, split test"
    assert dataset.prompt == "oxford_pets"
    assert [sample.label for sample in dataset] == [0, 1, 2, 0, 1, 2]
    assert [sample.source for sample in dataset] == [make_png(number) for number in range(6)]
    assert COMMIT in mirrored.dataset_file.read_text()


def test_what_is_there_is_not_fetched_again(server: FileServer, pets: Path, tmp_path: Path) -> None:
    config = load_dataset_config(str(pets), tmp_path)
    first = fetch_mirror(config)
    asked = len(server.ranges)
    again = fetch_mirror(config)
    assert (again.is_downloaded, again.protocol) == (False, first.protocol)
    assert len(server.ranges) == asked


class _StoppedError(Exception):
    """A person stops the download."""


def test_a_mirror_that_was_stopped_goes_on_within_the_shard(server: FileServer, pets: Path, tmp_path: Path) -> None:
    config = load_dataset_config(str(pets), tmp_path)
    half = len(FILES["test/1.tar"]) // 2

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "1.tar":
            raise _StoppedError

    # the commit, the list, the names, the first shard, half of the second
    server.cuts = [10**6] * 4 + [half]
    with pytest.raises(_StoppedError):
        fetch_mirror(config, stop)
    assert not (tmp_path / "mirrors" / "pets" / "pets-mirror.yaml").exists()
    kept = (tmp_path / "mirrors" / "pets" / "test" / "1.tar.part").stat().st_size
    assert 0 < kept <= half
    before = len(server.sent)
    fetch_mirror(config)
    # the names are short, and without a checksum they are taken as they are
    assert server.sent[before + 2 :] == [len(FILES["test/1.tar"]) - kept]
    for name in ("0.tar", "1.tar"):
        assert (tmp_path / "mirrors" / "pets" / "test" / name).read_bytes() == FILES[f"test/{name}"]


def test_a_shard_with_other_bytes_than_the_hub_says_is_refused(server: FileServer, pets: Path, tmp_path: Path) -> None:
    server.files[f"/datasets/ours/wds_pets/resolve/{COMMIT}/test/1.tar"] = shard(9, 2)
    with pytest.raises(TlacError, match=r"test/1.tar: its sha256 is not \w{64}: what was fetched is removed"):
        fetch_mirror(load_dataset_config(str(pets), tmp_path))


def test_the_commit_that_the_dataset_file_names_is_fetched(server: FileServer, pets: Path, tmp_path: Path) -> None:
    FakeHub(server).publish("ours/wds_pets", "f" * 40, {**FILES, "classnames.txt": b"new\ndog\nemu\n"})
    pets.write_text(DATASET.replace("repo: ours/wds_pets", f"repo: ours/wds_pets\n    revision: {COMMIT}"))
    with pytest.raises(TlacError, match="can't be looked up"):
        # the fake hub answers with the commit that was asked for; an unknown one is not there
        fetch_mirror(_with_revision(pets, "e" * 40, tmp_path))
    mirrored = fetch_mirror(load_dataset_config(str(pets), tmp_path))
    assert (mirrored.folder / "classnames.txt").read_bytes() == FILES["classnames.txt"]


def _with_revision(pets: Path, revision: str, root: Path):
    other = pets.with_name("other.yaml")
    other.write_text(pets.read_text().replace(COMMIT, revision))
    return load_dataset_config(str(other), root)


def test_a_repository_of_another_kind_is_refused(server: FileServer, pets: Path, tmp_path: Path) -> None:
    FakeHub(server).publish("ours/wds_pets", COMMIT, {"data/test.parquet": b"PAR1", "test/../../x.tar": b"x"})
    with pytest.raises(TlacError, match=r"ours/wds_pets does not hold test/\*.tar and classnames.txt"):
        fetch_mirror(load_dataset_config(str(pets), tmp_path))


def test_a_hub_that_does_not_answer_is_one_clear_error(
    server: FileServer, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server.files["/api/datasets/ours/wds_pets"]
    with pytest.raises(TlacError, match=r"pets: its mirror ours/wds_pets can't be looked up \(.*404"):
        fetch_mirror(load_dataset_config(str(pets), tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TlacError, match="can't be looked up"):
        fetch_mirror(load_dataset_config(str(pets), tmp_path))


def test_what_is_needed_for_a_mirror_is_said_before_anything_is_fetched(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="ucf101: no mirror of it is known"):
        fetch_mirror(load_dataset_config("ucf101", tmp_path))
    with pytest.raises(UsageError, match="--data ROOT"):
        fetch_mirror(load_dataset_config(str(pets)))
    monkeypatch.setattr("tlac.datasets.prepare.prepare.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tlac\[hf\]'"):
        fetch_mirror(load_dataset_config(str(pets), tmp_path))


def test_every_dataset_of_the_facts_has_its_mirror() -> None:
    mirrors = {
        name: load_dataset_config(name).spec.download.mirror
        for name in list_names("dataset")
        if load_dataset_config(name).spec.download.mirror
    }
    assert len(mirrors) == 14
    assert all(mirror.repo.startswith("clip-benchmark/wds_") for mirror in mirrors.values())
    assert all(mirror.revision is None or len(mirror.revision) == 40 for mirror in mirrors.values())


def test_the_command_says_how_to_run_on_a_mirror_and_verifies_it(
    server: FileServer, pets: Path, tmp_path: Path, tlac_command: Callable[..., Shown]
) -> None:
    shown = tlac_command("datasets", "prepare", pets, "--data", tmp_path, "--mirror")
    dataset_file = tmp_path / "mirrors" / "pets" / "pets-mirror.yaml"
    assert shown.code == 0
    assert f"mirror ours/wds_pets at 0123456789ab downloaded into {dataset_file.parent}" in shown.out
    assert f"--dataset {dataset_file}" in shown.out
    assert "as expected: 6 test images, 3 classes, 6 looked at" in shown.out
    assert "1.tar: " in shown.err
    again = tlac_command("datasets", "prepare", pets, "--data", tmp_path, "--mirror", "--json")
    document = json.loads(again.out)
    assert (document["good"], document["n"], document["classes"]) == (True, 6, 3)
    assert document["prepared"]["dataset_file"] == str(dataset_file)
    assert not document["prepared"]["is_downloaded"]
    assert again.err == ""


def test_a_mirror_of_another_size_is_found_out(
    server: FileServer, pets: Path, tmp_path: Path, tlac_command: Callable[..., Shown]
) -> None:
    pets.write_text(DATASET.replace("test: 6", "test: 7"))
    shown = tlac_command("datasets", "prepare", pets, "--data", tmp_path, "--mirror")
    assert shown.code == 1
    assert "count: test images: 6, expected 7" in shown.out


def test_the_other_way_is_told_where_files_are_fetched_by_hand(
    pets: Path, tmp_path: Path, tlac_command: Callable[..., Shown]
) -> None:
    shown = tlac_command("datasets", "prepare", pets, "--data", tmp_path)
    assert shown.code == 1
    assert f"or, with other splits and sizes: tlac datasets prepare {pets} --data {tmp_path} --mirror" in shown.out
