"""Images and files that are made to take all memory or time: that sample fails, and at once."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tlac import images
from tlac.errors import InputError
from tlac.images import identify, open_image, prepare
from tlac.types import Preparation


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A JPEG whose last scan, which refines the finest coefficients, stands there again and again."""
    buffer = io.BytesIO()
    PIL.Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InputError, match=r"^x: a JPEG of 3\d\d scans would take minutes to decode"):
        open_image(progressive_jpeg(64, 300), "x")


def test_scans_in_metadata_and_behind_the_end_are_none() -> None:
    comment = b"\xff\xda" * 400
    buffer = io.BytesIO()
    PIL.Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True, comment=comment)
    assert open_image(buffer.getvalue() + comment, "x").size == (64, 64)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_and_a_device_are_no_images(make: object, tmp_path: Path) -> None:
    make(tmp_path / "x.jpg")  # type: ignore[operator]
    for use in (identify, open_image):
        with pytest.raises(InputError, match=r"^x: can't be read: it is no regular file"):
            use(tmp_path / "x.jpg", "x")


def test_a_sparse_file_of_sixty_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(60 * 10**9)
    with pytest.raises(InputError, match=r"^x: holds more than 268,435,456 bytes"):
        identify(tmp_path / "x.jpg", "x")


def test_large_images_are_decoded_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they have eight times the pixels that may be in flight; small ones beside them go on."""
    monkeypatch.setattr(images, "_decoding", images._PixelBudget(10_000))
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(buffer, "BMP")
    image = identify(buffer.getvalue(), "x")
    at_once, most = [0], [0]
    decode = images._decode

    def watched(picture: PIL.Image.Image, name: str) -> PIL.Image.Image:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        decoded = decode(picture, name)
        at_once[0] -= 1
        return decoded

    monkeypatch.setattr(images, "_decode", watched)
    threads = [threading.Thread(target=prepare, args=(image, Preparation())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (at_once[0], most[0]) == (0, 1)


def test_an_image_beyond_the_budget_is_decoded_alone_and_not_waited_for_for_ever() -> None:
    budget = images._PixelBudget(100)
    with budget.hold(PIL.Image.new("L", (50, 50))):
        pass
    with budget.hold(PIL.Image.new("L", (5, 5))), budget.hold(PIL.Image.new("L", (5, 5))):
        pass


def encoded(kind: str) -> bytes:
    content = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(content, kind)
    return content.getvalue()


NO_PHOTOGRAPHS = {
    # Pillow would start Ghostscript for it
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch owned) (w) file\n",
    "pdf": b"%PDF-1.4\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "psd": b"8BPS\0\1" + bytes(100),
    "ico": encoded("ICO"),
    "icns": encoded("ICNS"),
    "pcx": encoded("PCX"),
}


@pytest.mark.parametrize("content", NO_PHOTOGRAPHS.values(), ids=NO_PHOTOGRAPHS)
def test_what_is_no_photograph_is_none_whatever_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(InputError, match="not an image, whatever its name says"):
        prepare(identify(tmp_path / "photo.png", "photo.png"), Preparation())
