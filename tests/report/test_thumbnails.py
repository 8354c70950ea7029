from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from tests.support.fakes import digest, make_png
from tests.support.reported_runs import prediction, refusal, some_predictions
from tlac.report import samples as thumbnails
from tlac.report.samples import make_thumbnails
from tlac.results.folder import find_thumbnails
from tlac.scoring.predictions import Predictions
from tlac.types import Sample


def samples(count: int) -> list[Sample]:
    return [Sample(f"{number:03}.png", make_png(number), 0) for number in range(count)]


def test_each_image_has_one_small_picture_by_its_digest() -> None:
    found, files = make_thumbnails(samples(12), Predictions.of(some_predictions()))
    assert files == {}
    assert set(found) == {digest(f"image {number}") for number in range(12)}
    opened = PIL.Image.open(io.BytesIO(found[digest("image 0")]))
    assert (opened.format, opened.size) == ("WEBP", (8, 8))


def test_a_large_photo_is_scaled_down_and_loses_its_metadata(tmp_path: Path) -> None:
    photo = PIL.Image.new("RGB", (900, 600), "teal")
    exif = photo.getexif()
    exif[0x010E] = "where I live"
    photo.save(tmp_path / "photo.jpg", exif=exif)
    found, files = make_thumbnails(
        [Sample("photo.jpg", tmp_path / "photo.jpg", 0)], Predictions.of([prediction(0, 0, 0)])
    )
    assert files == {digest("image 0"): tmp_path / "photo.jpg"}
    (content,) = found.values()
    opened = PIL.Image.open(io.BytesIO(content))
    assert opened.size == (320, 213)
    assert b"where I live" not in content


def test_a_broken_image_has_none_and_the_others_do() -> None:
    given = [Sample("000.png", b"no image", 0), *samples(2)[1:]]
    assert set(make_thumbnails(given, Predictions.of([prediction(0, 0, 0), prediction(1, 0, 0)]))[0]) == {
        digest("image 1")
    }


def test_where_there_are_too_many_the_most_interesting_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MOST", 3)
    given = [
        prediction(0, 0, 0, margin=0.5),
        prediction(1, 0, 0, margin=0.01),
        prediction(2, 0, 1),
        refusal(3, 0),
        replace(prediction(4, 0, 0), margin=0.4),
    ]
    found, _ = make_thumbnails(samples(5), Predictions.of(given))
    assert set(found) == {digest(f"image {number}") for number in (1, 2, 3)}


def test_only_files_that_are_named_by_a_digest_are_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "thumbnails"
    folder.mkdir()
    (folder / f"{'a' * 64}.webp").write_bytes(b"x")
    (folder / "..evil.webp").write_bytes(b"x")
    assert find_thumbnails(tmp_path) == {"a" * 64: folder / f"{'a' * 64}.webp"}
    assert find_thumbnails(tmp_path / "none") == {}
