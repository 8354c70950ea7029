from __future__ import annotations

import io
import json
from pathlib import Path

import PIL.Image
import pytest

from tests.support.fakes import make_png

OPTIONS = ("--backend", "embedded", "--encoder", "minilm", "--classes", "strawberry, folding chair, drum")


def strawberry() -> Path:
    from importlib.util import find_spec

    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "imagenet_04_949.jpg"


def bomb() -> bytes:
    picture = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(picture, "PNG")
    return picture.getvalue()


def test_an_image_is_classified(tlac_command) -> None:
    shown = tlac_command("classify", strawberry(), *OPTIONS)
    assert shown.code == 0, shown.err
    assert "strawberry" in shown.out
    assert "by exact" in shown.out


def test_json_is_one_document(tlac_command) -> None:
    shown = tlac_command("classify", strawberry(), *OPTIONS, "--method", "slac", "--json")
    (image,) = json.loads(shown.out)["images"]
    assert (image["class_name"], image["outcome"]) == ("strawberry", "answered")
    assert next(name for name, _ in image["ranking"]) == "strawberry"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("corrupt.png", make_png()[:-40]),
        ("zero.jpg", b""),
        ("text.jpg", b"this is not an image at all"),
        ("bomb.png", bomb()),
        ("missing.jpg", None),
    ],
)
def test_an_image_that_can_not_be_used_is_named_in_one_line(
    tlac_command, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    shown = tlac_command("classify", path, *OPTIONS)
    assert (shown.code, shown.out) == (2, "")
    assert str(path) in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        ("cat", "at least two"),
        (",", "at least two"),
        ("cat, ---", "no letter or digit"),
        ("none.txt", "can't be read"),
    ],
)
def test_a_class_list_that_can_not_be_used_is_explained(tlac_command, classes: str, complaint: str) -> None:
    shown = tlac_command("classify", strawberry(), *OPTIONS, "--classes", classes)
    assert shown.code == 2
    assert complaint in shown.err
