"""Images: what is sent as it is, what is re-encoded, and what is refused in one line."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pillow_heif
import pytest

from tests.support.fakes import make_png
from tlac.errors import InputError
from tlac.images import IMAGE_SUFFIXES, identify, open_image, prepare, within_limits
from tlac.types import Preparation


def picture(width: int = 40, height: int = 20, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image: PIL.Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def heif(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
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
    return prepare(identify(content, "image"), preparation or Preparation())


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
    assert len(sent(content, Preparation(quality=30))[0]) < len(sent(content)[0])


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
    with pytest.raises(InputError, match="No such file"):
        open_image(tmp_path / "gone.jpg", "gone.jpg")
    with pytest.raises(InputError, match="can't be read"):
        identify(tmp_path, "folder")


SAVED_AS = {".heic": "HEIF", ".heif": "HEIF", ".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM"}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_a_file_with_a_listed_suffix_opens_and_is_sent_in_a_form_that_providers_take(suffix: str) -> None:
    format_ = SAVED_AS.get(suffix) or PIL.Image.registered_extensions()[suffix]
    content = heif(picture()) if format_ == "HEIF" else encoded(picture(), format_)
    assert open_image(content, suffix).size == (40, 20)
    body, media_type = sent(content)
    assert media_type == f"image/{PIL.Image.open(io.BytesIO(body)).format.lower()}"
    assert media_type in ("image/jpeg", "image/png", "image/webp", "image/gif")


def test_a_wrong_suffix_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(heif(picture()))
    assert open_image(file, "photo.png").size == (40, 20)
    assert prepare(identify(file, "photo.png"), Preparation())[1] == "image/jpeg"


def test_reading_heif_teaches_the_rest_of_the_process_nothing() -> None:
    open_image(heif(picture()), "x")
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(io.BytesIO(heif(picture())))


TEXT, SHORT, RATIONAL, SIGNED_RATIONAL = 2, 3, 5, 10
ODD_METADATA = {
    "date as a rational": (0x0132, RATIONAL, 1, struct.pack("<II", 2024, 1)),
    "resolution as text": (0x011A, TEXT, 12, b"seventy-two\0"),
    "a negative rational": (0x011A, SIGNED_RATIONAL, 1, struct.pack("<ii", -72, 1)),
    "a rational over zero": (0x011A, RATIONAL, 1, struct.pack("<II", 72, 0)),
    "place as text": (0x8825, TEXT, 8, b"at home\0"),
    "sub-directory as text": (0x8769, TEXT, 8, b"nowhere\0"),
    "a value that is not there": (0x010E, TEXT, 2**31, b"cut"),
    "a type that there is not": (0x010E, 99, 1, b"odd."),
}


def odd_exif(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """EXIF data that says orientation 6 and holds one more tag, which Pillow itself would not write."""
    values = 8 + 2 + 2 * 12 + 4
    entries = sorted([struct.pack("<HHIHH", 0x0112, SHORT, 1, 6, 0), struct.pack("<HHII", tag, kind, count, values)])
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4) + value


# Pillow warns of some of these, and our tests take warnings for errors
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_METADATA)
def test_a_good_photograph_with_odd_metadata_is_turned_upright(odd: str, format_: str) -> None:
    if odd == "a value that is not there" and PIL.__version__ < "13":
        pytest.skip("Pillow before 13, the last for Python 3.10, reads no tag behind such a one")
    content = encoded(picture(40, 20), format_, exif=odd_exif(*ODD_METADATA[odd]))
    assert open_image(content, "x").size == (20, 40)
    body, _ = sent(content)
    assert PIL.Image.open(io.BytesIO(body)).size == (20, 40)
    np.testing.assert_array_equal(
        np.asarray(open_image(content, "x")),
        np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB").transpose(PIL.Image.Transpose.ROTATE_270)),
    )


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_leaves_the_image_as_it_is(orientation: int) -> None:
    assert open_image(encoded(picture(40, 20), "JPEG", exif=exif(orientation)), "x").size == (40, 20)


RAMPS = {
    "PGM of 16 bits": ([0, 32768, 65535], np.uint16, "PPM"),
    "PNG of 16 bits": ([0, 32768, 65535], np.uint16, "PNG"),
    "TIFF of 16 bits": ([0, 32768, 65535], np.uint16, "TIFF"),
    "TIFF of 32 bits": ([0, 2**30, 2**31 - 1], np.int32, "TIFF"),
    "TIFF of 32 bits, 16 used": ([0, 32768, 65535], np.int32, "TIFF"),
    "TIFF of 32 bits, 8 used": ([0, 128, 255], np.int32, "TIFF"),
    "TIFF of floats up to 1": ([0.0, 0.503, 1.0], np.float32, "TIFF"),
    "TIFF of floats up to 255": ([0.0, 128.0, 255.0], np.float32, "TIFF"),
    "TIFF of other floats": ([-1000.0, 4.0, 1000.0], np.float32, "TIFF"),
}


@pytest.mark.parametrize(("values", "kind", "format_"), RAMPS.values(), ids=RAMPS)
def test_grey_of_more_than_eight_bits_keeps_its_shades(values: list[float], kind: type, format_: str) -> None:
    content = encoded(PIL.Image.fromarray(np.array([values], dtype=kind)), format_)
    opened = open_image(content, "x")
    shades = [opened.getpixel((column, 0))[0] for column in range(3)]
    assert [shades[0], shades[2]] == [0, 255]
    assert shades[1] in (127, 128)


def test_floats_that_are_no_numbers_are_black_or_white() -> None:
    content = encoded(PIL.Image.fromarray(np.array([[np.nan, np.inf, 0.5, 1.0]], dtype=np.float32)), "TIFF")
    opened = open_image(content, "x")
    assert [opened.getpixel((column, 0))[0] for column in range(4)] == [0, 255, 127, 255]


def test_a_huge_jpeg_is_scaled_down_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(4000, 2000), "JPEG")
    decoded = []
    load = PIL.Image.Image.load
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: (decoded.append(self.size), load(self))[1])
    body, _ = sent(content, Preparation(max_side_px=400))
    assert PIL.Image.open(io.BytesIO(body)).size == (400, 200)
    assert max(decoded) == (1000, 500)


def test_a_file_is_read_once_to_be_digested_and_sent(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(make_png(3, 16))
    image = identify(file, "a.png")
    file.unlink()
    assert prepare(image, Preparation())[0] == make_png(3, 16)
    with pytest.raises(InputError, match="No such file"):
        prepare(image, Preparation())


@pytest.mark.parametrize(
    ("model", "most_bytes"),
    [
        ("anthropic/claude-sonnet-4-5", 3_932_160),
        ("bedrock/us.anthropic.claude-sonnet-4-5", 3_750_000),
        ("vertex_ai/claude-opus-4-1", 3_932_160),
        ("openrouter/anthropic/claude-opus-4", 3_932_160),
        ("groq/meta-llama/llama-4-scout", 3_000_000),
        ("gemini/gemini-2.5-flash", 5_000_000),
    ],
)
def test_an_image_keeps_to_the_limit_of_a_provider_whose_backend_file_names_none(model: str, most_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1130, 1130, 3), dtype=np.uint8)
    content = encoded(PIL.Image.fromarray(noise), "PNG")
    assert 3_800_000 < len(content) < 5_000_000
    body = prepare(identify(content, "image"), within_limits(Preparation(), model))[0]
    assert len(body) <= most_bytes


def test_a_limit_that_a_backend_file_names_is_kept() -> None:
    own = Preparation(max_size_bytes=9_000_000)
    assert within_limits(own, "anthropic/claude-sonnet-4-5") == own
