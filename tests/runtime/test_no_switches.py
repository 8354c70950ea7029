"""What tlac's calls leave behind in the process: nothing."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tlac
from tests.support.fakes import Shown, make_png
from tlac import Classifier, match
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_encoder_config
from tlac.encoders.weights import quiet
from tlac.errors import EncoderUnavailableError, MissingAnswersError
from tlac.images import open_image
from tlac.runtime.libraries import offline_hub

LIBRARIES = ("huggingface_hub.constants", "transformers.utils.hub", "datasets.config")
LOGGERS = (None, "huggingface_hub", "transformers", "sentence_transformers", "datasets", "PIL")


def settings() -> dict[str, Any]:
    """What belongs to the whole process, and so to whoever started it."""
    import datasets
    import huggingface_hub
    import scipy.special  # noqa: F401 - its import adds a filter for its own warnings
    import torch
    from transformers.utils import logging as transformers_logging

    constants = {
        f"{name}.{key}": value
        for name in LIBRARIES
        for key, value in vars(importlib.import_module(name)).items()
        if key.isupper() and isinstance(value, (bool, int, float, str, Path, type(None)))
    }
    return {
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "constants": constants,
        "levels": {name: logging.getLogger(name).level for name in LOGGERS},
        "handlers": [
            handler
            for name in LOGGERS
            for handler in logging.getLogger(name).handlers
            if not type(handler).__module__.startswith("_pytest")
        ],
        "bars": (
            datasets.are_progress_bars_disabled(),
            huggingface_hub.utils.are_progress_bars_disabled(),
            transformers_logging.is_progress_bar_enabled(),
        ),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "signals": {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "collection": gc.get_threshold(),
        "folder": Path.cwd(),
        "umask": os.umask(os.umask(0o077)),
    }


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = settings()
    yield
    after = settings()
    for name, value in before.items():
        assert after[name] == value, name


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(make_png())
    return path


@pytest.mark.usefixtures("unchanged")
def test_an_offline_classifier_changes_nothing_for_the_process(photo: Path) -> None:
    classifier = Classifier("embedded", ["cat", "dog"], encoder="minilm", offline=True)
    with pytest.raises(MissingAnswersError):
        classifier.classify(photo)


@pytest.mark.usefixtures("unchanged")
def test_an_encoder_of_the_hub_that_is_not_here_changes_nothing(tmp_path: Path) -> None:
    config = replace(load_encoder_config("sentence_transformers:nobody/nothing"), is_offline=True)
    with pytest.raises(EncoderUnavailableError, match="not on this machine, and this run is offline"):
        open_encoder(config).encode(["a"])


@pytest.mark.usefixtures("unchanged")
def test_match_changes_nothing_for_the_process() -> None:
    assert match(["a grey cat"], ["cat", "dog"], encoder="minilm")[0].class_name == "cat"


def test_commands_change_nothing_for_the_process(
    tlac_command: Callable[..., Shown], tmp_path: Path, photo: Path, unchanged: None
) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text("a cat\n")
    bench = ("bench", "--backend", "embedded", "--encoder", "minilm", "--dataset", "cifar10-samples", "--limit", "2")
    assert tlac_command(*bench, "--out", "runs").code == 0
    assert tlac_command(*bench, "--offline", "--out", "runs").code == 0
    (run, again) = sorted(Path("runs").iterdir())
    for command, code in (
        (("score", run, "--template", "{}", "--out", "scored"), 0),
        (("report", run), 0),
        (("compare", run, again), 0),
        (("leaderboard", "runs"), 0),
        (("classify", photo, "--classes", "cat, dog", "--backend", "embedded", "--encoder", "minilm"), 0),
        (("match", answers, "--classes", "cat, dog", "--encoder", "minilm"), 0),
        (("datasets", "show", "cifar10-samples"), 0),
        (("datasets", "show", "nothing"), 2),
        (("encoders", "list"), 0),
        (("cache", "stats"), 0),
        (("--help",), 0),
        (("bench", *bench[1:-4], "--dataset", "hf:nobody/nothing", "--offline"), 2),
    ):
        assert tlac_command(*command).code == code, command


def test_threads_that_load_at_the_same_time_put_the_libraries_settings_back(unchanged: None) -> None:
    first_is_in, first_may_leave = threading.Event(), threading.Event()
    switch = sys.modules["huggingface_hub.constants"]

    def first() -> None:
        with quiet(), offline_hub():
            first_is_in.set()
            first_may_leave.wait(20)

    def second() -> None:
        with quiet(), offline_hub():
            seen.append(switch.HF_HUB_OFFLINE)

    seen: list[bool] = []
    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert first_is_in.wait(20)
    threads[1].start()
    first_may_leave.set()
    for thread in threads:
        thread.join(20)
    assert seen == [True]


def test_no_thread_but_the_main_one_catches_warnings(monkeypatch: pytest.MonkeyPatch, photo: Path) -> None:
    entered: list[str] = []

    class Watched(warnings.catch_warnings):
        def __enter__(self) -> Any:
            callers = (sys._getframe(1).f_code.co_filename, sys._getframe(2).f_code.co_filename)
            if any(Path(tlac.__file__).parent in Path(caller).parents for caller in callers):
                entered.append(threading.current_thread().name)
            return super().__enter__()

    monkeypatch.setattr(warnings, "catch_warnings", Watched)

    def work() -> None:
        open_image(photo, "photo")
        with quiet():
            pass

    worker = threading.Thread(target=work, name="worker")
    worker.start()
    worker.join()
    assert "worker" not in entered
    work()
    assert "MainThread" in entered


def test_the_first_texts_that_a_process_encodes_leave_its_environment_alone() -> None:
    """In a process of its own, since what a library sets when it is imported it sets once."""
    script = (
        "import os; from tlac.config.registry import open_encoder; before = dict(os.environ); "
        "open_encoder('minilm').encode(['a cat']); assert dict(os.environ) == before, set(os.environ) - set(before)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
