"""Zero-shot CLIP through `tlac bench`, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from tlac.images import open_image
from tlac.results.calibration import write_calibration
from tlac.scoring.confidence import Calibration


@pytest.fixture
def clip(tlac_command, weights: Path, pets: Path):
    encoder = f"open_clip:tlac-tiny/{weights}"

    def run(*arguments: object, method: str = "clip"):
        return tlac_command(
            "bench", "--method", method, "--encoder", encoder, "--dataset", f"folder:{pets}", *arguments
        )

    return run


def read(run: dict) -> tuple[dict, list[dict]]:
    folder = Path(run["run"])
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "run.json").read_text()), [json.loads(line) for line in lines]


def test_it_predicts_what_open_clip_itself_does(clip, weights: Path, pets: Path) -> None:
    shown = clip("--json")
    assert shown.code == 0, shown.err
    record, predictions = read(json.loads(shown.out)["runs"][0])
    model, _, prepare = open_clip.create_model_and_transforms("tlac-tiny", pretrained=str(weights))
    tokenizer = open_clip.get_tokenizer("tlac-tiny")
    images = torch.stack([prepare(open_image(pets / one["sample"], "")) for one in predictions])
    names = [f"a photo of a {name.replace('_', ' ')}" for name in record["classes"]]
    with torch.inference_mode():
        texts = model.eval().encode_text(tokenizer(names), normalize=True)
        expected = (model.encode_image(images, normalize=True) @ texts.T).numpy()
    assert [one["predicted"] for one in predictions] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([one["score"] for one in predictions], expected.max(axis=1), atol=2e-6)


def test_the_run_says_that_nobody_was_asked(clip) -> None:
    run = json.loads(clip("--json").out)["runs"][0]
    record, _ = read(run)
    assert (run["method"], run["matching"], run["n"], run["is_complete"]) == ("clip", "similarity", 6, True)
    assert (run["calls"]["stage1"]["asked"], run["cost_usd"], run["answers_cost_usd"]) == (0, 0, 0)
    assert (record["stage2_backend"], record["prompts"], record["template"]) == ("", "", "a photo of a {}")
    assert "templates" in record["digests"]


def test_templates_change_the_result_and_are_told(clip) -> None:
    runs = [
        json.loads(clip("--json", method=method).out)["runs"][0]
        for method in ("clip", "clip:templates=coop", "clip:templates=imagenet")
    ]
    found = [read(run) for run in runs]
    assert [record["template"] for record, _ in found] == ["a photo of a {}", "a photo of a {}.", "80 templates"]
    assert len({record["digests"]["templates"] for record, _ in found}) == 3
    assert len({predictions[0]["score"] for _, predictions in found}) == 3


def test_a_second_run_offline_gives_the_same_bytes(clip) -> None:
    first = json.loads(clip("--json").out)["runs"][0]["run"]
    again = json.loads(clip("--json", "--offline").out)["runs"][0]["run"]
    assert first != again
    assert len({(Path(run) / "predictions.jsonl").read_bytes() for run in (first, again)}) == 1


def test_an_encoder_of_texts_alone_is_refused(tlac_command, pets: Path) -> None:
    shown = tlac_command("bench", "--method", "clip", "--encoder", "minilm", "--dataset", f"folder:{pets}")
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert "encodes texts alone" in shown.err


def test_what_another_encoder_has_taught_is_refused(clip, tlac_command, weights: Path, pets: Path) -> None:
    write_calibration(Path("learnt.json"), Calibration({"similarity": 0.5}, 1.0, 0.1, 9, "another"))
    how = ("--method", "clip", "--encoder", f"open_clip:tlac-tiny/{weights}", "--calibration", "learnt.json")
    for shown in (clip("--calibration", "learnt.json"), tlac_command("label", pets, "--classes", "cat,dog", *how)):
        assert (shown.code, shown.out) == (2, "")
        assert "learnt with another text encoder" in shown.err


def test_what_its_runs_teach_serves_it_and_no_method_that_compares_words(clip, tlac_command, weights: Path) -> None:
    run = json.loads(clip("--json").out)["runs"][0]["run"]
    assert tlac_command("calibrate", run, "-o", "learnt.json").code == 0
    assert clip("--calibration", "learnt.json").code == 0
    words = ("bench", "--backend", "embedded", "--encoder", f"open_clip:tlac-tiny/{weights}", "--method", "slac")
    shown = tlac_command(*words, "--dataset", "imagenet-samples", "--limit", "2", "--calibration", "learnt.json")
    assert (shown.code, shown.out) == (2, "")
    assert "where the image took part in another way" in shown.err


def test_weights_that_are_not_there_are_not_answered_with_an_encoder_without_an_image_side(
    tlac_command, pets: Path
) -> None:
    asked = ("--method", "clip", "--encoder", "clip-vit-b-16", "--dataset", f"folder:{pets}", "--offline")
    shown = tlac_command("bench", *asked)
    assert shown.code == 2
    assert "clip-vit-b-16" in shown.err
    assert "minilm" not in shown.err
    assert shown.err.endswith("or give a file with --encoder open_clip:MODEL/FILE\n")


def test_images_without_labels_are_labelled_as_they_are_in_a_run(clip, tlac_command, weights: Path, pets: Path) -> None:
    record, predictions = read(json.loads(clip("--json").out)["runs"][0])
    how = ("--method", "clip", "--encoder", f"open_clip:tlac-tiny/{weights}", "--no-review", "-o", "labels.jsonl")
    shown = tlac_command("label", pets, "--classes", ",".join(record["classes"]), *how)
    assert (shown.code, shown.out.splitlines()[0]) == (0, "labels.jsonl: 6 of 6 images labelled"), shown.err
    rows = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [record["classes"][one["predicted"]] for one in predictions]
    assert [row["path"] for row in rows] == [str(pets / one["sample"]) for one in predictions]
