"""Images: opened safely, known by a digest, made ready for a provider.

Does not know datasets, providers or the store. Every file here may be hostile: only the formats listed are
tried, and an image that would need too much memory is refused before it is decoded.
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
from contextlib import suppress
from pathlib import Path

import PIL.Image
from PIL import ImageOps

from tlac.errors import InputError
from tlac.types import Image, Preparation, PreparedImage

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""File name endings, in lower case, that a folder of images may hold."""

# Pillow knows some fifty formats, one of which starts another program; these are what photographs come in
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# what Pillow's decoders raise on broken bytes, depending on the format and the place
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
_EXIF_ORIENTATION = 0x0112
_SHRINK = 0.8


class _Recent:
    """The bytes that were read to be digested, until they are taken to be sent: each file is read once.

    Holds so many bytes at most; the oldest go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._contents: dict[str, bytes] = {}
        self._size_bytes = 0
        self._lock = threading.Lock()

    def put(self, sha256: str, content: bytes) -> None:
        with self._lock:
            self._drop(sha256)
            self._contents[sha256] = content
            self._size_bytes += len(content)
            while self._size_bytes > self._most_bytes:
                self._drop(next(iter(self._contents)))

    def take(self, sha256: str) -> bytes | None:
        with self._lock:
            return self._drop(sha256)

    def _drop(self, sha256: str) -> bytes | None:
        content = self._contents.pop(sha256, None)
        self._size_bytes -= len(content or b"")
        return content


_recent = _Recent(2**25)


def open_image(source: Path | bytes, name: str, least_side_px: int | None = None) -> PIL.Image.Image:
    """The first frame as 8-bit RGB, fully decoded, upright by its EXIF data, transparency laid on white.

    With `least_side_px` a JPEG may come scaled down, to no less than that on either side: much faster.

    Raises InputError in one line that starts with `name` for a file that is missing, empty, unreadable, not
    an image, broken, or too large to decode.
    """
    content = _read(source, name)
    picture = _open_header(content, name)
    try:
        if least_side_px is not None:
            picture.draft("RGB", (least_side_px, least_side_px))
        picture.load()
        return _to_rgb(ImageOps.exif_transpose(picture))
    except PIL.Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except _BROKEN as error:
        raise InputError(f"{name}: the image is broken or cut short ({_one_line(error)}); replace the file") from error


def identify(source: Path | bytes, name: str) -> Image:
    """The image known by the sha256 (hex) of its bytes, which are read but not decoded.

    Raises InputError where there are none to read.
    """
    content = _read(source, name)
    sha256 = hashlib.sha256(content).hexdigest()
    if not isinstance(source, bytes):
        _recent.put(sha256, content)
    return Image(sha256, source)


def prepare(image: Image, preparation: Preparation) -> PreparedImage:
    """The bytes to send: the original ones where they fit `preparation`, else a JPEG that does.

    Original bytes are judged by header and end alone, since decoding costs some forty times as much.
    Raises InputError as open_image does.
    """
    name = str(image.source) if isinstance(image.source, Path) else f"image {image.sha256[:12]}"
    content = _recent.take(image.sha256) or _read(image.source, name)
    picture = _open_header(content, name)
    if not preparation.strip_metadata and _fits(picture, content, preparation):
        return PreparedImage(content, f"image/{_format(picture)}")
    return PreparedImage(_encode(open_image(content, name), preparation), "image/jpeg")


def _read(source: Path | bytes, name: str) -> bytes:
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise InputError(f"{name}: can't be read ({reason}); check that it is a file you may read") from error
    if not content:
        raise InputError(f"{name}: the file is empty (zero bytes); replace or remove it")
    return content


def _open_header(content: bytes, name: str) -> PIL.Image.Image:
    try:
        picture = _open_by_content(content)
    except PIL.Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except _BROKEN as error:
        raise InputError(f"{name}: the image is broken ({_one_line(error)}); replace the file") from error
    if picture is None:
        raise InputError(f"{name}: not an image, whatever its name says; known: {', '.join(_FORMATS)}")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > PIL.Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)
    return picture


def _open_by_content(content: bytes) -> PIL.Image.Image | None:
    """As PIL.Image.open, which warns of large images and of each format that does not fit: warnings can only be
    caught for the whole process, and this is called on worker threads."""
    PIL.Image.init()
    for name in _FORMATS:
        factory, accept = PIL.Image.OPEN[name]
        if accept is None or accept(content[:16]) is True:
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(io.BytesIO(content), "")
    return None


def _too_large(name: str) -> InputError:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    return InputError(f"{name}: the image has more than {limit:,} pixels (a decompression bomb?); scale it down first")


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode.startswith("I;16"):
        # convert() would clip 16-bit grey at 255 instead of scaling it
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", layer.size, "white")
        return PIL.Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


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
        and _is_upright(picture)
        and _has_end(content, _format(picture))
    )


def _is_upright(picture: PIL.Image.Image) -> bool:
    try:
        return bool(picture.getexif().get(_EXIF_ORIENTATION, 1) == 1)
    except _BROKEN:
        return False


def _has_end(content: bytes, format_: str) -> bool:
    """Whether the file ends as its format must; a file cut short would be refused by the provider."""
    if format_ == "jpeg":
        return b"\xff\xd9" in content[-64:]
    if format_ == "png":
        return b"IEND" in content[-64:]
    if format_ == "gif":
        return b"\x3b" in content[-8:]
    if format_ == "webp":
        return len(content) >= int.from_bytes(content[4:8], "little") + 8
    return False


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
