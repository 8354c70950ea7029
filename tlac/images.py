"""Images: opened safely, known by a digest, made ready for a provider.

Every file here may be hostile: only the formats listed are tried, whatever the file's name says, and an image that
would need too much memory or time is refused before it is decoded.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import PIL.Image

# among the usual formats: else the first picture that is opened or saved as WebP has Pillow import all formats
import PIL.WebPImagePlugin

from tlac.errors import InputError, one_line
from tlac.runtime.safe_files import read_file
from tlac.types import Image, Preparation, Source

_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".jp2", ".j2k")
IMAGE_SUFFIXES: tuple[str, ...] = (*_PHOTOGRAPHS, ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""File name endings, in lower case, that a folder of images may hold."""

# Pillow knows some fifty formats, one of which starts another program; these are what photographs come in
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
# without TIFF, BMP and PNM: raw photographs, archives and plain text may begin as these do
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_EXIF_ORIENTATION = 0x0112
_TIFF_SAMPLE_FORMAT = 339
_UNSIGNED = 1
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_SHRINK = 0.8
_MAX_BYTES = 2**28
# a progressive JPEG of a camera or a tool has about 10; each costs a pass over all pixels
_MAX_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9


class _Recent:
    """The bytes that were read to be digested, until they are taken to be sent: each file is read once.

    Holds so many bytes at most; the oldest go first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._contents: dict[str, bytes] = {}
        self._size_bytes = 0
        self._lock = threading.Lock()

    def put(self, sha256: str, content: bytes) -> None:
        with self._lock:
            self._drop(sha256)
            self._contents[sha256] = content
            self._size_bytes += len(content)
            while self._size_bytes > self._max_bytes:
                self._drop(next(iter(self._contents)))

    def take(self, sha256: str) -> bytes | None:
        with self._lock:
            return self._drop(sha256)

    def _drop(self, sha256: str) -> bytes | None:
        content = self._contents.pop(sha256, None)
        self._size_bytes -= len(content or b"")
        return content


_recent = _Recent(2**25)


class _PixelBudget:
    """Lets threads decode as long as all their images together have so many pixels at most; a larger one goes alone."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, picture: PIL.Image.Image) -> Iterator[None]:
        pixels = picture.width * picture.height
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0 or self._in_flight + pixels <= self._max_pixels)
            self._in_flight += pixels
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= pixels
                self._changed.notify_all()


# decoding takes 8 to 16 bytes a pixel
_decoding = _PixelBudget(2**26)


def open_image(source: Source, name: str, least_side_px: int | None = None) -> PIL.Image.Image:
    """The first frame as 8-bit RGB, fully decoded, upright by its EXIF data, transparency laid on white.

    With `least_side_px` a JPEG may come scaled down, to no less than that on either side: much faster.

    Raises InputError in one line that starts with `name` for a file that is missing, empty, unreadable, not
    an image, broken, or too large to decode.
    """
    picture = _open_header(_read(source, name), name)
    if least_side_px is not None:
        picture.draft("RGB", (least_side_px, least_side_px))
    with _decoding.hold(picture):
        return _decode(picture, name)


def _decode(picture: PIL.Image.Image, name: str) -> PIL.Image.Image:
    try:
        picture.load()
        rgb = _to_rgb(picture)
        turn = _TURNS.get(_orientation(picture))
        return rgb if turn is None else rgb.transpose(turn)
    except PIL.Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        # decoders raise what they like on broken bytes, and this is the border of one sample
        raise InputError(f"{name}: the image is broken or cut short ({one_line(error)}); replace the file") from error


def _orientation(picture: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none that can be read."""
    # metadata that breaks the EXIF standard stands in many good photographs, and says nothing about the pixels
    with suppress(Exception):
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
        return orientation if isinstance(orientation, int) else 1
    return 1


def begins_like_image(start: bytes) -> bool:
    """Whether a file whose first 16 bytes these are is surely meant for an image, whatever its name says."""
    if start[4:8] == b"ftyp":
        return start[8:12] in (*_HEIF_BRANDS, *_AVIF_BRANDS)
    return start.startswith(_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def identify(source: Source, name: str) -> Image:
    """The image known by the sha256 (hex) of its bytes, which are read but not decoded.

    Raises InputError where there are none to read.
    """
    content = _read(source, name)
    sha256 = hashlib.sha256(content).hexdigest()
    if not isinstance(source, bytes):
        _recent.put(sha256, content)
    return Image(sha256, source)


def size_of(source: Source, name: str) -> tuple[int, int]:
    """Width and height in pixels as the file says, whichever way it is turned. Raises InputError as open_image does."""
    picture = _open_header(_read(source, name), name)
    return picture.width, picture.height


def read_image(source: Source, name: str) -> tuple[bytes, str]:
    """An image file's bytes, and its format's usual ending, such as ".png". Raises InputError as open_image does."""
    content = _read(source, name)
    return content, f".{_format(_open_header(content, name))}"


def name_of(image: Image) -> str:
    """What complaints call an image, of which there may be several files; who knows which one was meant names it."""
    return f"image {image.sha256[:12]}"


def prepare(image: Image, preparation: Preparation) -> tuple[bytes, str]:
    """The bytes to send and their media type: the original ones where they fit `preparation`, else a JPEG that does.

    Original bytes are judged by header and end alone, since decoding costs some forty times as much.
    Raises InputError as open_image does.
    """
    name = name_of(image)
    content = _recent.take(image.sha256) or _read(image.source, name)
    picture = _open_header(content, name)
    if not preparation.strip_metadata and _fits(picture, content, preparation):
        return content, f"image/{_format(picture)}"
    # a JPEG decodes to a half, quarter or eighth of its size many times faster; twice the side leaves the rest to the
    # better filter
    ratio = 2 * preparation.max_side_px / max(picture.size)
    picture.draft("RGB", (max(1, int(picture.width * ratio)), max(1, int(picture.height * ratio))))
    with _decoding.hold(picture):
        return _encode(_decode(picture, name), preparation), "image/jpeg"


# bytes of an image file: what is sent is base64, a third longer. https://docs.claude.com/en/docs/build-with-claude/vision
# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ImageBlock.html https://console.groq.com/docs/vision
_PROVIDER_LIMITS = (
    (re.compile(r"^bedrock/"), 3_750_000),
    (re.compile(r"^anthropic/|claude"), 3_900_000),
    (re.compile(r"^groq/"), 3_000_000),
)


def within_limits(preparation: Preparation, model: str) -> Preparation:
    """The preparation, where a backend's file says nothing of its own, within what the model's provider takes.

    It is no part of a response's key: an image past the limit was refused, and any other is the same.
    """
    if preparation != Preparation():
        return preparation
    limits = [limit for pattern, limit in _PROVIDER_LIMITS if pattern.search(model)]
    return msgspec.structs.replace(preparation, max_size_bytes=min([*limits, preparation.max_size_bytes]))


def _read(source: Source, name: str) -> bytes:
    if isinstance(source, Path):
        content = _read_file(source, name)
    else:
        content = source if isinstance(source, bytes) else source()
    if not content:
        raise InputError(f"{name}: the file is empty (zero bytes); replace or remove it")
    return content


def _read_file(path: Path, name: str) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except InputError as error:
        raise InputError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from error


def _open_header(content: bytes, name: str) -> PIL.Image.Image:
    try:
        picture = _open_by_content(content)
    except PIL.Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        raise InputError(f"{name}: the image is broken ({one_line(error)}); replace the file") from error
    if picture is None:
        raise InputError(f"{name}: not an image, whatever its name says; known: {', '.join(_FORMATS)}")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > PIL.Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    if picture.info.get("progressive") and (scans := _count_scans(content)) > _MAX_SCANS:
        raise InputError(f"{name}: a JPEG of {scans} scans would take minutes to decode; save it anew")
    return picture


def _open_by_content(content: bytes) -> PIL.Image.Image | None:
    """As PIL.Image.open, which warns of large images and of each format that does not fit: warnings can only be
    caught for the whole process, and this is called on worker threads."""
    # the usual formats first: the module of each of the others takes half a millisecond to import
    PIL.Image.preinit()
    picture = _open_as(content, [name for name in _FORMATS if name in PIL.Image.OPEN])
    if picture is not None:
        return picture
    PIL.Image.init()
    return _open_as(content, _FORMATS)


def _open_as(content: bytes, names: Sequence[str]) -> PIL.Image.Image | None:
    for name in names:
        factory, accept = _heif() if name == "HEIF" else PIL.Image.OPEN.get(name, (None, None))
        if factory is not None and (accept is None or accept(content[:16]) is True):
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(io.BytesIO(content), "")
    return None


def _heif() -> tuple[Callable[..., PIL.Image.Image], Callable[[bytes], bool]]:
    """What Pillow's table of formats would hold for HEIF: to register it would change the rest of the process."""
    from pillow_heif import HeifImageFile

    return HeifImageFile, lambda prefix: prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS


def _count_scans(content: bytes) -> int:
    """The scans of a JPEG up to its end; what stands in its metadata or behind it is not counted."""
    scans, place = 0, 2
    while marker := _JPEG_MARKER.search(content, place):
        kind = marker[1][0]
        if kind == _JPEG_END:
            break
        scans += kind == _JPEG_SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return scans


def _too_large(name: str) -> InputError:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    return InputError(f"{name}: the image has more than {limit:,} pixels (a decompression bomb?); scale it down first")


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _to_grey(picture).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", layer.size, "white")
        return PIL.Image.alpha_composite(white, layer).convert("RGB")
    # convert() copies, and an image may have 90 million pixels
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_grey(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Grey of 16 or 32 bits or of floating point, scaled to 8 bits: convert() would clip it at 255, blank white.

    16 bits have a known white, and so have floats between 0 and 1. Of other numbers, those up to 255 or 65,535 are
    taken for grey of 8 or 16 bits, and any others are stretched between the least and the greatest.
    """
    import numpy as np

    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    if values.dtype == np.int32 and tags.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    black = 0.0
    if picture.mode == "F" and least >= 0 and most <= 1:
        scale = 255.0
    elif picture.format != "TIFF" or values.dtype.itemsize == 2 or (least >= 0 and 255 < most <= 65_535):
        scale = 1 / 256
    elif least >= 0 and most <= 255:
        scale = 1.0
    else:
        black, scale = least, 255 / ((most - least) or 1.0)
    grey = np.nan_to_num((values.astype(np.float64) - black) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return PIL.Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def _format(picture: PIL.Image.Image) -> str:
    return (picture.format or "").lower()


def _fits(picture: PIL.Image.Image, content: bytes, preparation: Preparation) -> bool:
    return (
        _format(picture) in preparation.formats
        and max(picture.size) <= preparation.max_side_px
        and len(content) <= preparation.max_size_bytes
        and picture.mode in ("RGB", "L", "P")
        and "transparency" not in picture.info
        and not getattr(picture, "is_animated", False)
        and _orientation(picture) == 1
        and _has_end(content, _format(picture))
    )


def _has_end(content: bytes, format_: str) -> bool:
    """Whether the file ends as its format must; a file cut short would be refused by the provider."""
    if format_ == "jpeg":
        return b"\xff\xd9" in content[-64:]
    if format_ == "png":
        return b"IEND" in content[-64:]
    if format_ == "gif":
        return b"\x3b" in content[-8:]
    # a WEBP says how long it is, and one that is shorter is not opened
    return format_ == "webp"


def _encode(picture: PIL.Image.Image, preparation: Preparation) -> bytes:
    """A JPEG within the limits; the smaller side may shrink to one pixel."""
    side = min(preparation.max_side_px, max(picture.size))
    while True:
        scaled = picture.copy()
        scaled.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
        # what came from the original (GPS place, camera, comments) stays behind
        scaled.info.clear()
        buffer = io.BytesIO()
        scaled.save(buffer, "JPEG", quality=preparation.quality)
        if buffer.tell() <= preparation.max_size_bytes or side == 1:
            return buffer.getvalue()
        side = max(1, int(side * _SHRINK))


def shrink_image(source: Source, name: str, side: int) -> bytes | None:
    """A WebP picture of at most so many pixels a side, without metadata; None for what can't be decoded."""
    try:
        picture = open_image(source, name, least_side_px=side)
    except InputError:
        return None
    picture.thumbnail((side, side), PIL.Image.Resampling.BILINEAR)
    picture.info.clear()
    content = io.BytesIO()
    # method 0: a quarter faster than 2 for a sixth more bytes, and a bench waits for it
    picture.save(content, "WEBP", quality=60, method=0)
    return content.getvalue()
