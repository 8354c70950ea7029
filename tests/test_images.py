"""Images: what is sent as it is, what is re-encoded, and what is refused in one line."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support.fakes import make_png
from tlac.errors import InputError
from tlac.images import IMAGE_SUFFIXES, identify, open_image, prepare
from tlac.types import Preparation


def picture(width: int = 40, height: int = 20, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image: PIL.Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def exif(orientation: int | None = None, gps: bool = False) -> bytes:
    tags = PIL.Image.Exif()
    if orientation:
        tags[0x0112] = orientation
    if gps:
        tags.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0)})
        tags[0x8825] = tags.get_ifd(0x8825)
    return tags.tobytes()


def bomb() -> bytes:
    """A PNG of a few dozen bytes that claims to be 20,000 by 20,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sent(content: bytes, preparation: Preparation | None = None) -> tuple[bytes, str]:
    prepared = prepare(identify(content, "image"), preparation or Preparation())
    return prepared.content, prepared.media_type


def test_an_image_is_known_by_the_digest_of_its_original_bytes(tmp_path: Path) -> None:
    content = encoded(picture(), "JPEG")
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    assert identify(file, "a.jpg").sha256 == identify(content, "a").sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
def test_original_bytes_are_sent_when_they_fit(format_: str) -> None:
    content = encoded(picture(), format_)
    assert sent(content) == (content, f"image/{format_.lower()}")


@pytest.mark.parametrize(
    ("content", "preparation"),
    [
        (encoded(picture(), "BMP"), Preparation()),
        (encoded(picture(), "GIF"), Preparation(formats=("jpeg", "png"))),
        (encoded(picture(mode="CMYK"), "JPEG"), Preparation()),
        (encoded(picture(mode="RGBA"), "PNG"), Preparation()),
        (encoded(picture(), "JPEG", exif=exif(orientation=6)), Preparation()),
        (encoded(picture(), "JPEG"), Preparation(max_side_px=32)),
        (encoded(picture(), "PNG"), Preparation(max_size_bytes=1500)),
        (encoded(picture(), "JPEG"), Preparation(strip_metadata=True)),
        (encoded(picture(), "GIF", save_all=True, append_images=[picture(mode="P").rotate(180)]), Preparation()),
    ],
    ids=["format", "not accepted", "cmyk", "alpha", "turned", "too wide", "too heavy", "strip", "animated"],
)
def test_what_does_not_fit_is_sent_as_an_rgb_jpeg_within_the_limits(content: bytes, preparation: Preparation) -> None:
    body, media_type = sent(content, preparation)
    result = PIL.Image.open(io.BytesIO(body))
    assert media_type == "image/jpeg"
    assert body != content
    assert (result.format, result.mode) == ("JPEG", "RGB")
    assert max(result.size) <= preparation.max_side_px
    assert len(body) <= preparation.max_size_bytes


def test_a_turned_photograph_is_sent_upright() -> None:
    landscape = encoded(picture(40, 20), "JPEG", exif=exif(orientation=6))
    assert open_image(landscape, "x").size == (20, 40)
    assert PIL.Image.open(io.BytesIO(sent(landscape)[0])).size == (20, 40)


def test_the_place_where_a_photograph_was_taken_is_not_sent_with_a_re_encoded_one() -> None:
    content = encoded(picture(), "JPEG", exif=exif(gps=True), comment=b"at home")
    assert PIL.Image.open(io.BytesIO(content)).getexif().get_ifd(0x8825)
    body, _ = sent(content, Preparation(strip_metadata=True))
    stripped = PIL.Image.open(io.BytesIO(body))
    assert not stripped.getexif()
    assert b"at home" not in body


def test_the_same_preparation_gives_the_same_bytes_and_its_quality_matters() -> None:
    content = encoded(picture(200, 100), "BMP")
    assert sent(content) == sent(content)
    assert len(sent(content, replace(Preparation(), quality=30))[0]) < len(sent(content)[0])


def test_transparency_is_laid_on_white() -> None:
    clear = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(encoded(clear, "PNG"), "x").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    ramp = PIL.Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    opened = open_image(encoded(ramp, "PNG"), "x")
    assert [opened.getpixel((column, 0)) for column in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_a_complete_image_with_bytes_behind_its_end_is_re_encoded_and_not_refused() -> None:
    content = encoded(picture(), "JPEG") + b"\0" * 500
    assert sent(content)[1] == "image/jpeg"
    assert sent(content)[0] != content


CUT = encoded(picture(300, 300), "JPEG")[:9000]
UNUSABLE = {
    "empty": (b"", "zero bytes"),
    "text": (b"just some words\n" * 20, "not an image"),
    "cut jpeg": (CUT, "broken or cut short"),
    "cut png": (encoded(picture(300, 300), "PNG")[:9000], "broken or cut short"),
    "bomb": (bomb(), "decompression bomb"),
    "noise": (b"\xff\xd8\xff" + bytes(range(256)) * 4, "image"),
}


@pytest.mark.parametrize(("content", "complaint"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_image_is_refused_in_one_line_that_names_it(content: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_image(file, "holiday.jpg")
    assert str(caught.value).startswith("holiday.jpg: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [content for content, _ in UNUSABLE.values() if content], ids=list(UNUSABLE)[1:])
def test_an_unusable_image_is_refused_before_it_is_sent(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^image [0-9a-f]{12}: "):
        sent(content)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_image(tmp_path / "gone.jpg", "gone.jpg")
    with pytest.raises(InputError, match="can't be read"):
        identify(tmp_path, "folder")


def test_the_listed_suffixes_are_those_of_formats_that_open() -> None:
    registered = PIL.Image.registered_extensions()
    for suffix in IMAGE_SUFFIXES:
        assert open_image(encoded(picture(), registered[suffix]), suffix).size == (40, 20)


def test_a_file_is_read_once_to_be_digested_and_sent(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(make_png(3, 16))
    image = identify(file, "a.png")
    file.unlink()
    assert prepare(image, Preparation()).content == make_png(3, 16)
    with pytest.raises(InputError, match="no such file"):
        prepare(image, Preparation())
