"""Everything that the README shows, run as it stands there. The provider is the emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks_of, run
from tests.support.label_files import read_labels

README = (ROOT / "README.md").read_text(encoding="utf-8")
blocks = partial(blocks_of, README)


@pytest.fixture
def place(working_folder: Path) -> Path:
    """A working directory with the files that the README names and shows."""
    for text in blocks("yaml"):
        name = text.splitlines()[0].removeprefix("# ")
        (working_folder / name).write_text(text)
    return working_folder


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(place: Path, environment: dict[str, str]) -> None:
    commands = [block for block in blocks("sh") if "tlac label" not in block]
    assert len(commands) >= 5
    shown = run(["bash", "-e", "-c", "\n".join(commands)], place, environment)
    assert "gemini: stage 1: answered" in shown
    assert "car.jpg  red car" in shown
    assert '"class_name": "red apple"' in shown
    assert "requests_per_minute: 150" in shown
    (example,) = blocks("yaml")
    assert len(example.splitlines()) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("position", range(len(blocks("python"))))
def test_the_python_examples_work(place: Path, environment: dict[str, str], position: int) -> None:
    shown = run([sys.executable, "-c", blocks("python")[position]], place, environment)
    assert shown.split()[0] in ("red", "Groenendael")


SAMPLES = ("cifar10-samples ", "imagenet-samples ")


@pytest.mark.slow
def test_the_demo_answers_every_sample(place: Path, environment: dict[str, str]) -> None:
    recipe = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command, *labelling = re.findall(r"\S+/tlac (.*)", recipe.replace("\\\n", " "))
    arguments = command.replace("pack:", f"pack:{ROOT}/").split()
    shown = run(["tlac", *arguments], place, environment)
    rows = [line for line in shown.splitlines() if line.startswith(SAMPLES)]
    assert len(rows) == 8
    again = run(["tlac", *arguments, "--offline"], place, environment)
    asked = [line.split()[-3] for line in again.splitlines() if line.startswith(SAMPLES)]
    assert asked == ["0"] * 8
    shown = "".join(run(["tlac", *one.split()], place, environment) for one in labelling)
    assert "demo/labels.csv: 20 of 20 images labelled" in shown
    assert shown.splitlines()[-1] == "review: demo/labels.review.html"
    assert (place / "demo" / "labels.review.html").exists()


# in a process of its own: its event loop stays in the thread that drives the browser
REVIEW = """
import sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=sys.argv[1], args=["--no-sandbox", "--disable-dev-shm-usage"])
    page = browser.new_page()
    page.goto(sys.argv[2])
    # the first image that is shown is its second candidate, the next is what it is labelled
    page.keyboard.press("2")
    page.keyboard.press("Space")
    with page.expect_download() as waited:
        page.locator("#download").click()
    waited.value.save_as(waited.value.suggested_filename)
    browser.close()
"""


@pytest.mark.slow
def test_images_are_labelled_reviewed_in_the_browser_and_merged(place: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    label, merge = (block for block in blocks("sh") if "tlac label" in block)
    shown = run(["bash", "-e", "-c", label], place, environment)
    assert "labels.csv: 20 of 20 images labelled" in shown
    before = [row.label for row in read_labels(place / "labels.csv")]
    page = (place / "labels.review.html").as_uri()
    run([sys.executable, "-c", REVIEW, chromium, page], place, environment)
    shown = run(["bash", "-e", "-c", merge], place, environment)
    assert "2 of 20 labels reviewed: 50.0 %" in shown
    after = [row.label for row in read_labels(place / "labels.csv")]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_file_that_is_linked_is_there(target: str) -> None:
    assert (ROOT / target).exists()
