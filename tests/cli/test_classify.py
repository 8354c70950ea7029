from __future__ import annotations

import io
import json
import signal
import threading
from pathlib import Path

import PIL.Image
import pytest

from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tests.support.label_files import read_labels
from tlac.types import LMMRequest

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
    assert (image["image"], image["label"], image["outcome"]) == (str(strawberry()), "strawberry", "answered")
    assert next(name for name, _ in image["candidates"]) == "strawberry"


def test_a_failed_image_is_a_line_among_others_and_in_the_file(tlac_command, tmp_path: Path) -> None:
    for name in ("photos/b.jpg", "photos/more/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(strawberry().read_bytes())
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    shown = tlac_command("classify", tmp_path / "photos", *OPTIONS, "-o", "labels.csv")
    assert (shown.code, shown.err) == (3, "tlac: 1 of 3 images failed\n")
    first, second, third = shown.out.splitlines()
    assert first == f"{tmp_path}/photos/a.jpg  no answer (failed)  the file is empty (zero bytes); replace or remove it"
    assert second.startswith(f"{tmp_path}/photos/b.jpg  strawberry  ")
    assert third.startswith(f"{tmp_path}/photos/more/c.jpg  strawberry  ")
    assert [label.label for label in read_labels(Path("labels.csv"))] == [None, "strawberry", "strawberry"]


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
    assert (shown.code, shown.err) == (3, "tlac: 1 of 1 images failed\n")
    assert shown.out.startswith(f"{path}  no answer (failed)  ")
    assert shown.out.count("\n") == 1


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


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("cat, dog, bird\n", "write one class a line; 'cat, dog, bird' looks like a list with commas"),
        ("cat\n", "write one class a line"),
        ("", "write one class a line"),
    ],
)
@pytest.mark.parametrize("command", ["classify", "match", "label"])
def test_a_file_of_fewer_than_two_classes_is_named_with_the_remedy(
    tlac_command, command: str, content: str, complaint: str
) -> None:
    Path("names.txt").write_text(content, encoding="utf-8")
    Path("answers.txt").write_text("a cat\n", encoding="utf-8")
    asked = {"classify": (strawberry(), *OPTIONS), "match": ("answers.txt",), "label": (strawberry(), *OPTIONS)}
    out = () if command == "classify" else ("-o", "out.csv")
    shown = tlac_command(command, *asked[command], "--classes", "names.txt", *out)
    assert shown.code == 2
    assert f"names.txt: {1 if content else 0} given, at least two are needed: {complaint}\n" in shown.err


@pytest.fixture
def lmm(monkeypatch: pytest.MonkeyPatch) -> FakeLMM:
    fake = FakeLMM(lambda request: "strawberry")
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: fake)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    return fake


def photos(count: int) -> list[Path]:
    paths = [Path(f"{number}.png") for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(make_png(number))
    return paths


def test_a_cap_is_kept_and_says_what_it_left_out(tlac_command, lmm: FakeLMM) -> None:
    # a call may cost up to 0.0035 by the prices of gemini, and costs 0.001 here
    asked = ("classify", *photos(6), "--classes", "strawberry, drum", "--backend", "gemini", "--max-cost", "0.005")
    shown = tlac_command(*asked)
    labelled = [line for line in shown.out.splitlines() if "  strawberry  " in line]
    assert (shown.code, len(labelled), len(shown.out.splitlines())) == (3, len(lmm.asked), 6)
    assert 0 < len(labelled) < 6
    assert "the budget of 0.005 USD is used up" in shown.out


def test_an_interrupt_says_that_what_was_answered_is_stored(tlac_command, lmm: FakeLMM) -> None:
    main = threading.main_thread().ident or 0

    def interrupted(request: LMMRequest) -> str:
        if len(lmm.asked) == 2:
            signal.pthread_kill(main, signal.SIGINT)
        return "strawberry"

    lmm._answer = interrupted
    asked = ("classify", *photos(200), "--classes", "strawberry, drum", "--backend", "gemini")
    shown = tlac_command(*asked)
    assert shown.code == 3
    assert "of 200 images; every answer is stored, and the same command goes on from there" in shown.err
    before = len(lmm.asked)
    assert before < 200
    lmm._answer = lambda request: "strawberry"
    assert tlac_command(*asked).code == 0
    assert len(lmm.asked) == 200
