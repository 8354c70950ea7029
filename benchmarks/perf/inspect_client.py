"""The peer: inspect_ai with a minimal image-classification task, through its OpenAI-compatible provider.

    PYTHON-WITH-INSPECT inspect_client.py ADDRESS FOLDER CONCURRENCY

Imports nothing of tlac's. Prints the processor seconds of the evaluation.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

QUESTION = "What is the main subject of this image? Answer with its specific name alone, without a sentence."


def main(address: str, folder: str, concurrency: int) -> None:
    """Evaluate every image in the folder."""
    os.environ.update(PERF_API_KEY="none", PERF_BASE_URL=f"{address}/v1", INSPECT_DISPLAY="none")
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    samples = [
        Sample(
            input=[ChatMessageUser(content=[ContentImage(image=str(path)), ContentText(text=QUESTION)])],
            target="thing",
        )
        for path in sorted(Path(folder).iterdir())
    ]
    config = GenerateConfig(temperature=0, seed=0, max_tokens=256, max_connections=concurrency)
    task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=match(), config=config)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as logs:
        (log,) = eval(
            task,
            model="openai-api/perf/default",
            log_dir=logs,
            display="none",
            max_samples=concurrency,
            log_images=False,
        )
    if log.status != "success":
        raise RuntimeError(str(log.error))
    sys.stdout.write(f"\n{time.process_time() - started}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
