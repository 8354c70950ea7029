"""Response packs from the recorded answers in ../shared/lmm-answers.

An LMM gave these answers when it was shown the images, not through any provider's API, and the questions
were put in other words than a prompt set's. A pack restates them in the words of a prompt set, so that a run
with that set finds them; its provenance says so.

    python -m tests.support.lmm_answers \
        ../shared/lmm-answers/samples40.jsonl sentence cassettes/packs/samples40.jsonl.zst
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tlac.cache.pack import Manifest, PackSpec, PromptsRecord, write_pack
from tlac.cache.serialization import StoredAnswer
from tlac.config.prompts import PromptSet, load_prompts
from tlac.config.schemas import Backend, BackendSpec, load_dataset_config
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.hashing import response_key
from tlac.runtime.aio import run
from tlac.types import Image, LMMRequest, LMMResponse, Outcome, Turn

MODEL = "large-multimodal-model"
# the kind of answer that each prompt set asks for
PROMPT_SETS = {"sentence": "default", "name": "name"}
PROVENANCE = (
    "Real answers of a large multimodal model that was shown each image; not obtained through a provider's API, "
    "and not a recording of Gemini, GPT-4o or Claude. It was asked in other words than these requests hold: for "
    "one sentence that tells the specific type, or for the object's name alone, then to pick a class from the list. "
    "The model knew ImageNet, and its words may lean towards that dataset's names."
)


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The lines of imagenet100.jsonl or samples40.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class _Recorded:
    """Gives one recorded answer, whatever is asked, and remembers the request."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.request: LMMRequest | None = None

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.request = request
        return LMMResponse(Outcome.ANSWERED, self._text, model_version=MODEL)


def entries(
    answers: Iterable[dict[str, Any]], kind: str, classes: Sequence[str], prompts: PromptSet, prompt: str
) -> Iterator[StoredAnswer]:
    """The stored form of both stages' answers of one kind ("sentence" or "name"), in the words of `prompts`."""
    backend = Backend("pack", "pack", BackendSpec(adapter="pack", model=MODEL))
    kept: dict[str, StoredAnswer] = {}
    for answer in answers:
        for stage in ("stage1", "stage2"):
            recorded = _Recorded(answer[stage][kind])
            bound_lmm = BoundLMM(backend, recorded)
            prompter = TwoStagePrompter(bound_lmm, bound_lmm, prompts, classes, prompt)
            image = Image(answer["sha256"], b"")
            asked = prompter.ask_stage1(image) if stage == "stage1" else prompter.ask_stage2(answer["stage1"][kind])
            turn: Turn = run(asked)
            assert recorded.request is not None
            assert turn.key == response_key(recorded.request)
            kept.setdefault(turn.key, StoredAnswer.of(recorded.request, turn.response, MODEL))
    return iter(sorted(kept.values(), key=lambda entry: entry.key))


def manifest(prompts: PromptSet) -> Manifest:
    """The manifest of a pack of these answers."""
    return Manifest(
        created_at="2026-01-01T00:00:00+00:00",
        provenance=PROVENANCE,
        backend=MODEL,
        spec=PackSpec(model=MODEL),
        prompts=PromptsRecord(prompts.name, prompts.digest),
    )


def main(source: str, kind: str, target: str) -> None:
    """Write the pack of the packaged samples."""
    prompts = load_prompts(PROMPT_SETS[kind])
    answers = read_answers(Path(source))
    found: dict[str, StoredAnswer] = {}
    for dataset in ("imagenet", "cifar10"):
        spec = load_dataset_config(f"{dataset}-samples").spec
        chosen = [answer for answer in answers if answer["dataset"] == dataset]
        found.update({entry.key: entry for entry in entries(chosen, kind, spec.classes, prompts, spec.prompt)})
    write_pack(Path(target), manifest(prompts), sorted(found.values(), key=lambda entry: entry.key))


if __name__ == "__main__":
    main(*sys.argv[1:])
