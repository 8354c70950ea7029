"""Bounds on what an image may cost: memory for bytes read ahead, pixels, files cut short, the smallest JPEG."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageOps

from tlac.errors import InputError
from tlac.images import (
    IMAGE_SUFFIXES,
    begins_like_image,
    identify,
    open_image,
    prepare,
    read_image,
    size_of,
    within_limits,
)
from tlac.types import Image, Preparation

MIB = 2**20
FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
    **dict.fromkeys((".jp2", ".j2k"), "JPEG2000"),
    ".gif": "GIF",
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
}


def encoded(format_: str, width: int = 40, height: int = 20) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes that claims a size, and holds no pixel of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def read_and_gone(folder: Path, name: str, size_bytes: int) -> Image:
    """An image of a size whose file is removed once it was digested: what is kept of it is all there is."""
    content = encoded("JPEG")
    file = folder / name
    file.write_bytes(content + name.encode().ljust(size_bytes - len(content), b"\0"))
    image = identify(file, name)
    file.unlink()
    return image


def is_kept(image: Image) -> bool:
    with suppress(InputError):
        return prepare(image, Preparation())[1] == "image/jpeg"
    with pytest.raises(InputError, match=r"(?i)no such file"):
        prepare(image, Preparation())
    return False


def test_32_mib_of_files_read_ahead_are_kept(tmp_path: Path) -> None:
    images = [read_and_gone(tmp_path, name, 16 * MIB) for name in "ab"]
    assert [is_kept(image) for image in images] == [True, True]


SIZES = {"a": 16 * MIB, "b": 15 * MIB, "c": MIB + 1}


def test_beyond_32_mib_those_read_first_are_read_again(tmp_path: Path) -> None:
    images = [read_and_gone(tmp_path, name, size) for name, size in SIZES.items()]
    assert [is_kept(image) for image in images] == [False, True, True]


def test_a_file_that_is_read_twice_counts_once_and_what_was_taken_no_more(tmp_path: Path) -> None:
    again = [read_and_gone(tmp_path, "a", 16 * MIB) for _ in range(3)][-1]
    other = read_and_gone(tmp_path, "b", 16 * MIB)
    assert is_kept(again)
    third = read_and_gone(tmp_path, "c", 16 * MIB)
    assert [is_kept(image) for image in (other, third)] == [True, True]


def test_a_file_larger_than_that_is_read_again(tmp_path: Path) -> None:
    small = read_and_gone(tmp_path, "small", MIB)
    large = read_and_gone(tmp_path, "large", 32 * MIB + 1)
    assert [is_kept(image) for image in (small, large)] == [False, False]


# Pillow's limit is 89,478,485 pixels: it warns above it, and refuses above twice as many
@pytest.mark.parametrize("side", [9_460, 12_000, 13_377, 13_379, 20_000])
def test_more_pixels_than_pillows_limit_are_refused_before_they_are_decoded(side: int) -> None:
    with pytest.raises(InputError, match=r"^bomb: the image has more than 89,478,485 pixels"):
        open_image(claimed(side, side), "bomb")
    with pytest.raises(InputError, match=r"more than 89,478,485 pixels"):
        prepare(identify(claimed(side, side), "bomb"), Preparation())


def test_what_counts_is_the_product_of_both_sides() -> None:
    with pytest.raises(InputError, match=r"more than 89,478,485 pixels"):
        open_image(claimed(30_000, 3_000), "x")


@pytest.mark.parametrize("size", [(9_459, 9_459), (29_800, 3_000)])
def test_an_image_just_below_the_limit_is_looked_at(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="broken or cut short"):
        open_image(claimed(*size), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.open(io.BytesIO(encoded("PNG"))).save(buffer, "PNG", exif=tags)
    expected = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(buffer.getvalue())))
    assert open_image(buffer.getvalue(), "x").tobytes() == expected.tobytes()
    # only what stands upright is sent as it is
    prepared, _ = prepare(identify(buffer.getvalue(), "x"), Preparation())
    assert (prepared == buffer.getvalue()) == (orientation == 1)


@pytest.mark.parametrize(
    ("values", "kind", "shades"),
    [
        # 8 bits in a wider number, then 16 bits, then anything
        ([0, 100, 255], np.int32, [0, 100, 255]),
        ([0, 128, 256], np.int32, [0, 0, 1]),
        ([0, 32_768, 65_535], np.int32, [0, 128, 255]),
        ([0, 32_768, 65_536], np.int32, [0, 127, 255]),
        ([-1, 0, 254], np.int32, [0, 1, 255]),
        ([-100, 0, 1_000], np.int32, [0, 23, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 127, 255]),
        ([0.0, 0.5, 1.5], np.float32, [0, 0, 1]),
        ([0.0, 100.0, 255.0], np.float32, [0, 100, 255]),
        ([0.0, 128.0, 256.0], np.float32, [0, 0, 1]),
        ([-0.5, 0.0, 0.5], np.float32, [0, 127, 255]),
        ([7.0, 7.0, 7.0], np.float32, [7, 7, 7]),
    ],
)
def test_grey_of_wide_numbers_has_these_shades(values: list[float], kind: type, shades: list[int]) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.array([values], kind)).save(buffer, "TIFF")
    opened = open_image(buffer.getvalue(), "x")
    assert [opened.getpixel((column, 0)) for column in range(3)] == [(shade,) * 3 for shade in shades]


@pytest.mark.parametrize(("scans", "is_read"), [(100, True), (101, False)])
def test_a_progressive_jpeg_may_have_a_hundred_scans(scans: int, is_read: bool) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    more = scans - content.count(b"\xff\xda")
    content = content[:-2] + content[last:-2] * more + content[-2:]
    if is_read:
        assert open_image(content, "x").size == (64, 64)
    else:
        with pytest.raises(InputError, match="a JPEG of 101 scans"):
            open_image(content, "x")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused_and_not_sent(format_: str, share: float) -> None:
    whole = encoded(format_, 60, 60)
    cut = whole[: int(len(whole) * share)]
    assert prepare(identify(whole, "x"), Preparation())[0] == whole
    with pytest.raises(InputError, match=r"^holiday: the image is broken"):
        open_image(cut, "holiday")
    with pytest.raises(InputError, match="the image is broken"):
        prepare(identify(cut, "holiday"), Preparation())


@pytest.mark.parametrize("size", [(300, 100), (1, 300), (300, 1)])
def test_where_no_jpeg_is_small_enough_the_smallest_is_sent(size: tuple[int, int]) -> None:
    prepared, _ = prepare(identify(encoded("PNG", *size), "x"), Preparation(max_size_bytes=1))
    assert PIL.Image.open(io.BytesIO(prepared)).size == (1, 1)


@pytest.mark.parametrize(("side", "expected"), [(300, (300, 100)), (299, (299, 100)), (30, (30, 10)), (1, (1, 1))])
def test_no_side_is_longer_than_the_limit_and_none_shorter_than_need_be(side: int, expected: tuple[int, int]) -> None:
    prepared, _ = prepare(identify(encoded("PPM", 300, 100), "x"), Preparation(max_side_px=side))
    assert PIL.Image.open(io.BytesIO(prepared)).size == expected


def test_an_image_as_large_as_the_limits_is_sent_as_it_is() -> None:
    content = encoded("PNG", 300, 100)
    exact = Preparation(max_side_px=300, max_size_bytes=len(content))
    assert prepare(identify(content, "x"), exact)[0] == content
    for tighter in (Preparation(max_side_px=299), Preparation(max_size_bytes=len(content) - 1)):
        assert prepare(identify(content, "x"), tighter)[1] == "image/jpeg"


def test_a_folder_of_images_may_hold_these_formats() -> None:
    assert sorted(IMAGE_SUFFIXES) == sorted(FORMAT_OF_SUFFIX)
    # Pillow alone writes no HEIF: tests/test_images.py opens one
    for format_ in sorted({*FORMAT_OF_SUFFIX.values()} - {"HEIF"}):
        assert open_image(encoded(format_), "x").size == (40, 20)


@pytest.mark.parametrize("format_", ["ICO", "PCX", "TGA", "EPS", "PDF"])
def test_other_formats_are_refused_though_pillow_could_read_them(format_: str) -> None:
    with pytest.raises(InputError, match="not an image, whatever its name says"):
        open_image(encoded(format_), "x")


def png(width: int, height: int) -> bytes:
    return encoded("PNG", width, height)


@pytest.mark.parametrize(
    ("format_", "behind", "is_sent"),
    [
        # the end marker must stand in the last 64 bytes, a GIF's in the last 8
        ("JPEG", 62, True),
        ("JPEG", 63, False),
        ("PNG", 56, True),
        ("PNG", 57, False),
        ("GIF", 7, True),
        ("GIF", 8, False),
        # a WEBP says how long it is
        ("WEBP", 0, True),
        ("WEBP", 1000, True),
    ],
)
def test_bytes_behind_an_images_end_are_sent_along_where_they_are_few(format_: str, behind: int, is_sent: bool) -> None:
    content = encoded(format_) + bytes(behind)
    assert (prepare(identify(content, "x"), Preparation())[0] == content) == is_sent


def test_a_size_is_that_of_the_file_however_it_is_turned() -> None:
    tags = PIL.Image.Exif()
    tags[0x0112] = 6
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=tags)
    assert (size_of(buffer.getvalue(), "x"), open_image(buffer.getvalue(), "x").size) == ((40, 20), (20, 40))
    with pytest.raises(InputError, match=r"^x: not an image"):
        size_of(b"words", "x")


@pytest.mark.parametrize(
    ("format_", "ending"), [("JPEG", ".jpeg"), ("PNG", ".png"), ("GIF", ".gif"), ("WEBP", ".webp")]
)
def test_an_images_bytes_come_with_the_ending_of_what_it_is(format_: str, ending: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.tiff"
    file.write_bytes(encoded(format_))
    assert read_image(file, "photo.tiff") == (encoded(format_), ending)


@pytest.mark.parametrize(
    ("start", "is_image"),
    [
        *((encoded(format_)[:16], True) for format_ in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000")),
        *((b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0", True) for brand in (b"heic", b"mif1", b"avif", b"avis")),
        (b"\xff\x4f\xff\x51" + bytes(12), True),
        # films, sounds, fonts, archives, words, and a raw photograph that begins as any TIFF
        (b"\0\0\0\x18ftypmp42\0\0\0\0", False),
        (b"RIFF\0\0\0\0WAVEfmt ", False),
        (b"XXXX\0\0\0\0WEBPVP8 ", False),
        (b"OTTO\0\x01\0\0\0\0\0\0\0\0\0\0", False),
        (b"PK\x03\x04" + bytes(12), False),
        (b"GIF88a" + bytes(10), False),
        (encoded("TIFF")[:16], False),
        (encoded("BMP")[:16], False),
        (b"", False),
    ],
)
def test_a_file_is_surely_meant_for_an_image_by_its_first_bytes(start: bytes, is_image: bool) -> None:
    assert begins_like_image(start) is is_image


@pytest.mark.parametrize(
    ("least", "decoded"),
    [(None, (800, 400)), (400, (800, 400)), (201, (800, 400)), (200, (400, 200)), (101, (400, 200)), (50, (100, 50))],
)
def test_a_jpeg_comes_scaled_down_where_less_is_enough_on_both_sides(
    least: int | None, decoded: tuple[int, int]
) -> None:
    assert open_image(encoded("JPEG", 800, 400), "x", least).size == decoded
    assert open_image(encoded("PNG", 800, 400), "x", least).size == (800, 400)


def test_an_image_too_heavy_shrinks_by_a_fifth_until_it_fits() -> None:
    def reencoded(side: int) -> bytes:
        scaled = PIL.Image.open(io.BytesIO(png(300, 100))).convert("RGB")
        scaled.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    # 300, then four fifths of it, each rounded down
    sides = [300, 240, 192, 153, 122]
    sizes = [len(reencoded(side)) for side in sides]
    assert sizes == sorted(sizes, reverse=True)
    for side, size_bytes in zip(sides, sizes, strict=True):
        prepared, _ = prepare(identify(png(300, 100), "x"), Preparation(formats=("jpeg",), max_size_bytes=size_bytes))
        assert prepared == reencoded(side)


@pytest.mark.parametrize(
    ("model", "most_bytes"),
    [
        ("bedrock/us.anthropic.claude-sonnet-4-5", 3_750_000),
        ("anthropic/claude-sonnet-4-5", 3_900_000),
        ("openrouter/anthropic/claude-opus-4", 3_900_000),
        ("groq/meta-llama/llama-4-scout", 3_000_000),
        ("openai/gpt-5", 5_000_000),
        # a name that only holds a provider's
        ("openai/groq/bedrock/x", 5_000_000),
    ],
)
def test_the_limit_of_a_models_provider_holds_and_nothing_else_changes(model: str, most_bytes: int) -> None:
    assert within_limits(Preparation(), model) == Preparation(max_size_bytes=most_bytes)


def test_a_side_of_twice_the_limit_and_more_is_decoded_at_a_part_of_its_size() -> None:
    """By Pillow's own draft: what is decoded has at least twice the side that is wanted."""
    content = encoded("JPEG", 1600, 800)

    def expected(decoded: tuple[int, int], side: int) -> bytes:
        drafted = PIL.Image.open(io.BytesIO(content))
        drafted.draft("RGB", decoded)
        drafted.load()
        assert drafted.size == decoded
        scaled = drafted.convert("RGB")
        scaled.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    for side, decoded in ((800, (1600, 800)), (401, (1600, 800)), (400, (800, 400)), (200, (400, 200))):
        assert prepare(identify(content, "x"), Preparation(max_side_px=side))[0] == expected(decoded, side), side


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 5000), (1, 1568)), ((5000, 1), (1568, 1)), ((2, 9000), (1, 1568)), ((1, 1568), (1, 1568))],
)
def test_a_strip_of_a_pixel_or_two_is_sent_as_any_other_jpeg(size: tuple[int, int], expected: tuple[int, int]) -> None:
    prepared, _ = prepare(identify(encoded("JPEG", *size), "x"), Preparation())
    assert PIL.Image.open(io.BytesIO(prepared)).size == expected
