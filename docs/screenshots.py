"""Makes the screenshots of docs/: the demo's report, a comparison with a real LMM's stored answers, a review page.

Needs Chromium (apt-get install chromium) and the dev extra; asks no network. Run it from the repository:

    python docs/screenshots.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent
PACK = DOCS.parent / "cassettes" / "packs" / "samples40.jsonl.zst"
SIZE = {"width": 1200, "height": 860}
PHONE = {"width": 390, "height": 780}


def tlac(*arguments: object) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "tlac", *map(str, arguments)], check=True)  # noqa: S603


def make_reports(folder: Path) -> tuple[Path, Path]:
    """The page of one run of the demo, and the comparison of all its runs with those of the stored answers."""
    os.environ["TLAC_CACHE_DIR"] = str(folder / "store")
    datasets = ("--dataset", "imagenet-samples", "--dataset", "cifar10-samples")
    common = ("bench", *datasets, "--encoder", "minilm", "--out", folder / "runs", "--backend")
    tlac(*common, "embedded", "--method", "slac", "--method", "tlac")
    tlac(*common, f"pack:{PACK}")
    tlac("report", folder / "runs", "-o", folder / "comparison.html")
    (run,) = (folder / "runs").glob("*imagenet-samples-embedded-tlac")
    return run / "report.html", folder / "comparison.html"


def make_review(folder: Path) -> Path:
    """The page to review labels of the packaged samples on."""
    photos = folder / "photos"
    tlac("datasets", "export", "imagenet-samples", photos)
    options = ("--classes", photos / "classes.txt", "--backend", "embedded", "--encoder", "minilm")
    tlac("label", photos, *options, "-o", folder / "labels.csv")
    return folder / "labels.review.html"


def shoot(browser: Browser, report: Path, name: str, section: str = "", **options: object) -> None:
    """One picture of a report, from `section` on."""
    context = browser.new_context(**{"viewport": SIZE, "color_scheme": "light", "reduced_motion": "reduce", **options})
    page: Page = context.new_page()
    page.goto(report.as_uri())
    # charts are drawn when their place is known, and move what stands below them
    page.wait_for_timeout(300)
    page.evaluate("section => section && document.querySelector(section).scrollIntoView()", section)
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / f"{name}.png")
    context.close()


def main() -> None:
    """Make all of them."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        run, comparison = make_reports(Path(scratch))
        review = make_review(Path(scratch))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shoot(browser, run, "report")
        shoot(browser, run, "report-gallery", "#gallery")
        shoot(browser, run, "report-dark", "#certainty", color_scheme="dark")
        shoot(browser, run, "report-phone", viewport=PHONE)
        shoot(browser, comparison, "comparison")
        shoot(browser, comparison, "comparison-disagreements", "#gallery")
        shoot(browser, review, "review")
        browser.close()


if __name__ == "__main__":
    main()
