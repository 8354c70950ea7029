from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from tests.support.fakes import make_png
from tests.support.file_server import running_file_server
from tests.support.table_files import IMAGES, write_parquet
from tlac.datasets.unlabelled import open_images
from tlac.errors import InputError
from tlac.images import identify
from tlac.types import Sample


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("b.png", "a.JPG", "deep/er/c.webp", "deep/d.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_png(number))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def ids(samples: list[Sample]) -> list[str]:
    assert all(sample.label is None for sample in samples)
    return [sample.id for sample in samples]


def test_a_folder_is_all_images_in_it_and_below(photos: Path) -> None:
    samples, notes = open_images(["photos"])
    assert ids(samples) == ["photos/a.JPG", "photos/b.png", "photos/deep/d.png", "photos/deep/er/c.webp"]
    assert notes == ("1 file in photos is no image: skipped: notes.txt",)


def test_hidden_images_are_left_out_and_called_so(photos: Path) -> None:
    for name in (".x.jpg", "deep/.thumbs/1.png"):
        (photos / "photos" / name).parent.mkdir(exist_ok=True)
        (photos / "photos" / name).write_bytes(make_png(9))
    samples, notes = open_images(["photos"])
    assert len(samples) == 4
    assert notes == (
        "1 file in photos is no image: skipped: notes.txt",
        "2 hidden files or folders in photos left out: .x.jpg, deep/.thumbs",
    )


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["photos/b.png", "photos/a.JPG"], ["photos/b.png", "photos/a.JPG"]),
        (["photos/**/*.png"], ["photos/b.png", "photos/deep/d.png"]),
        (["list.txt"], ["photos/b.png", "photos/none.png"]),
        (["list.csv"], ["photos/deep/d.png", "photos/a.JPG"]),
    ],
)
def test_images_are_named_one_by_one_by_pattern_or_in_a_list(
    photos: Path, inputs: list[str], expected: list[str]
) -> None:
    Path("list.txt").write_text("photos/b.png\nphotos/none.png\n")
    Path("list.csv").write_text("camera;Path\n1;photos/deep/d.png\n2;photos/a.JPG\n")
    assert ids(open_images(inputs)[0]) == expected


@pytest.mark.parametrize("text", ["", "hf:"])
def test_an_empty_input_is_not_taken_for_this_folder(photos: Path, text: str) -> None:
    with pytest.raises(InputError, match="an input is empty, perhaps an unset variable"):
        open_images(["photos", text])


def test_an_image_that_is_given_twice_is_taken_once_and_said(photos: Path) -> None:
    samples, notes = open_images(["photos/b.png", "photos"])
    assert len(samples) == 4
    assert notes[-1] == "1 image is given more than once, and taken once: photos/b.png"


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        (["photso"], "photso: no such file or folder"),
        (["photos/*.gif"], r"photos/\*.gif: no image there"),
        (["empty"], "empty: no image there"),
    ],
)
def test_an_input_that_names_nothing_is_an_error(photos: Path, inputs: list[str], complaint: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match=complaint):
        open_images(inputs)


def test_an_image_that_is_not_there_is_a_sample_that_will_fail(photos: Path) -> None:
    assert ids(open_images(["photos/none.jpg"])[0]) == ["photos/none.jpg"]


@pytest.mark.parametrize("name", ["/etc/secret.png", "../outside.png", "s3://bucket/a.png"])
def test_a_list_leads_out_of_its_folder_only_where_that_is_allowed(photos: Path, name: str) -> None:
    Path("photos/list.txt").write_text(f"b.png\n{name}\n")
    with pytest.raises(InputError, match=r"leads outside photos: .*--anywhere allows it"):
        open_images(["photos/list.txt"])
    first, second = open_images(["photos/list.txt"], is_anywhere=True)[0]
    assert first.id == "photos/b.png"
    assert second.id == (name if "://" in name or name.startswith("/") else f"photos/{name}")


def test_what_a_server_refuses_is_one_line_with_its_status() -> None:
    with running_file_server() as server:
        for name, act in (("x.png", "read"), ("folder", "listed")):
            server.statuses = [500, 500]
            with pytest.raises(InputError, match=rf"^{server.base}/{name}: can't be {act}: 500"):
                [identify(sample.source, "x") for sample in open_images([f"{server.base}/{name}"])[0]]


def test_urls_that_fsspec_reads_are_fetched_when_they_are_looked_at() -> None:
    system = fsspec.filesystem("memory")
    try:
        for number, name in enumerate(("b.png", "deep/a.png", "notes.txt")):
            system.pipe(f"/bucket/{name}", make_png(number))
        samples, notes = open_images(["memory://bucket"])
        assert ids(samples) == ["memory:///bucket/b.png", "memory:///bucket/deep/a.png"]
        assert notes == ("1 file in memory://bucket is no image: skipped: memory:///bucket/notes.txt",)
        assert identify(samples[0].source, "x") != identify(samples[1].source, "x")
        assert identify(samples[1].source, "x").sha256 == identify(make_png(1), "x").sha256
        system.rm("/bucket", recursive=True)
        with pytest.raises(InputError, match=r"memory:///bucket/b.png: can't be read: nothing is there"):
            identify(samples[0].source, "x")
        (missing,) = open_images(["memory://bucket/none.png"])[0]
        with pytest.raises(InputError, match=r"memory://bucket/none.png: can't be read: "):
            identify(missing.source, "x")
    finally:
        system.store.clear()
    with pytest.raises(InputError, match="leave --offline out"):
        open_images(["memory://bucket"], is_offline=True)


def test_a_table_needs_no_labels(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image

    write_parquet(tmp_path / "labelled")
    images = [{"bytes": image, "path": None} for image in IMAGES]
    (tmp_path / "bare").mkdir()
    bare = Dataset.from_dict({"image": images}, features=Features(image=Image()))
    bare.to_parquet(tmp_path / "bare" / "test-00000-of-00001.parquet")
    for name in ("bare", "labelled"):
        samples, _ = open_images([f"hf:{tmp_path / name}"])
        assert ids(samples)[:2] == [f"hf:{tmp_path / name}#000000", f"hf:{tmp_path / name}#000001"]
        assert [identify(sample.source, "x").sha256 for sample in samples] == [
            identify(image, "x").sha256 for image in IMAGES
        ]


def test_names_and_links_that_cannot_be_used_fail_by_name_and_the_rest_is_listed(photos: Path) -> None:
    folder = photos / "photos"
    (folder / "deep" / "nowhere.png").symlink_to("gone.png")
    (photos / "private.png").write_bytes(make_png(9))
    (folder / "outside.png").symlink_to(photos / "private.png")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123 - a name that is no text
        file.write(make_png(8))
    samples = {sample.id: sample for sample in open_images(["photos"])[0]}
    assert len(samples) == 7
    complaints = {
        "photos/deep/nowhere.png": "a link that leads nowhere",
        "photos/outside.png": "a link that leads outside",
        "photos/caf\\xe9.png": "its name is not UTF-8: rename it",
    }
    for name, complaint in complaints.items():
        with pytest.raises(InputError, match=complaint):
            identify(samples[name].source, name)
