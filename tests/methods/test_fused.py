"""slac-fused with the image's own score: fakes for the LMM, small random open_clip weights for both encoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM
from tlac.analysis.review import calibrate
from tlac.api import Classifier
from tlac.cache.store import Store
from tlac.config.registry import open_image_encoder
from tlac.config.schemas import EncoderConfig, load_encoder_config
from tlac.errors import MissingAnswersError, UsageError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.hashing import embedding_key
from tlac.results.record import Run
from tlac.scoring.confidence import Calibration
from tlac.scoring.similarity import fuse_scores, similarities
from tlac.types import LMMRequest, LMMResponse, Outcome

METHOD = "slac-fused:image=true"


@pytest.fixture
def encoder(weights: Path) -> EncoderConfig:
    return load_encoder_config(f"open_clip:tlac-tiny/{weights}")


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: EncoderConfig):
    def ran(method: str = METHOD, reply=answer, is_offline: bool = False, **changes) -> tuple[Run, FakeLMM]:
        lmm = FakeLMM(reply)
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
        spec = replace(SPEC, **{"method": method, "encoder": encoder, **changes})
        return Runner(store, is_offline).run(spec, tmp_path / "runs"), lmm

    return ran


def test_the_prediction_is_the_mean_of_both_standardised_scores(run, encoder: EncoderConfig, store: Store) -> None:
    found, _ = run(matching="paper")
    runner = Runner(store)
    classes = runner.encoder(encoder).encode([f"a photo of a {name}" for name in Cars().classes]).vectors
    images = open_image_encoder(encoder)
    for one in found.predictions:
        # both views have the same words here
        words = runner.encoder(encoder).encode([f"a photo of a {one.answer.rstrip('.')}"]).vectors
        key = embedding_key(images.fingerprint, one.image_sha256)
        seen = store.get_embeddings([key])[key].vector
        expected = fuse_scores(similarities(words, classes), similarities(seen[None], classes))[0]
        assert one.predicted == int(expected.argmax())
        assert [one.score, *(score for _, score in one.top5[1:])] == pytest.approx(sorted(expected)[::-1], abs=1e-5)
        assert one.margin == pytest.approx(sorted(expected)[-1] - sorted(expected)[-2], abs=1e-5)
        assert one.decided_by == "similarity"


def test_without_the_option_nothing_changes(run) -> None:
    plain, off = run("slac-fused"), run("slac-fused:image=false")
    assert plain[0].predictions == off[0].predictions
    assert plain[0].record.digests == off[0].record.digests
    fused, _ = run()
    assert [one.score for one in fused.predictions] != [one.score for one in plain[0].predictions]
    assert fused.record.digests["encoder"] == plain[0].record.digests["encoder"] + "+images"


def test_a_class_name_still_decides(run) -> None:
    found, _ = run()
    assert [(one.decided_by, one.predicted) for one in found.predictions[::3]] == [("exact", 0)] * 3
    for one in found.predictions:
        assert one.margin == pytest.approx(one.score - one.top5[1][1], abs=1e-6)


def test_an_image_without_an_answer_is_not_guessed(run) -> None:
    def refuse_some(request: LMMRequest) -> str | LMMResponse:
        text = answer(request)
        return LMMResponse(Outcome.REFUSED, "", reason="policy") if "truck" in text else text

    found, _ = run(reply=refuse_some)
    assert found.metrics.refused == 3
    assert [one.predicted is None for one in found.predictions] == [False, False, True] * 3


def test_again_offline_and_scored_again_it_gives_the_same_bytes(run, store: Store, tmp_path: Path) -> None:
    first, _ = run()
    again, lmm = run(is_offline=True)
    scored = rescore(first.folder, store, Rescoring(), tmp_path / "runs")
    assert lmm.asked == []
    assert len({(one.folder / "predictions.jsonl").read_bytes() for one in (first, again, scored)}) == 1
    assert scored.record.digests == first.record.digests


def test_scored_again_as_slac_it_is_without_the_image(run, store: Store, tmp_path: Path) -> None:
    fused = run()[0]
    slac = run("slac")[0]
    again = rescore(fused.folder, store, Rescoring(method="slac"), tmp_path)
    assert again.predictions == slac.predictions
    assert again.record.digests["encoder"] == slac.record.digests["encoder"]


def test_vectors_that_scoring_again_lacks_are_named(run, store: Store, tmp_path: Path) -> None:
    found, _ = run()
    with Store(tmp_path / "other") as other:
        other.put_entries(store.entries())
        with pytest.raises(MissingAnswersError, match=r"9 of 9 images, 0\.png first, .*`tlac bench`"):
            rescore(found.folder, other, Rescoring(), tmp_path)


def test_an_encoder_of_texts_alone_is_refused_before_anybody_is_asked(run) -> None:
    with pytest.raises(UsageError, match=r"'minilm' encodes texts alone: the method slac-fused:image=true .*clip-vit"):
        run(encoder=load_encoder_config("minilm"), reply=lambda request: pytest.fail("asked"))


def test_two_classes_are_refused(run) -> None:
    with pytest.raises(UsageError, match="needs 3 classes or more"):
        run(dataset=replace(Cars(), classes=("red car", "old car")))


def test_a_calibration_holds_with_the_image_or_without(run, store: Store, tmp_path: Path) -> None:
    runs = [run()[0], run("slac-fused")[0]]
    with pytest.raises(UsageError, match="with and without the image"):
        calibrate(runs)
    other = Calibration({"similarity": 0.5}, 1.0, 0.1, 9, runs[1].record.digests["encoder"])
    with pytest.raises(UsageError, match="learnt with another text encoder"):
        run(calibration=other)
    own = replace(other, encoder=runs[0].record.digests["encoder"])
    sure, _ = run(calibration=own)
    assert rescore(sure.folder, store, Rescoring(), tmp_path).record.calibration == own
    assert rescore(sure.folder, store, Rescoring(method="slac"), tmp_path).record.calibration is None


def test_single_images_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use `tlac bench`"):
        Classifier("embedded", ["a", "b", "c"], method=METHOD, store=tmp_path / "single")


def test_the_command_line_runs_it_and_scores_it_again(tlac_command, weights: Path, pets: Path) -> None:
    given = ("--backend", "embedded", "--encoder", f"open_clip:tlac-tiny/{weights}", "--dataset", f"folder:{pets}")
    shown = tlac_command("bench", *given, "--method", METHOD, "--json")
    assert shown.code == 0, shown.err
    (made,) = json.loads(shown.out)["runs"]
    assert (made["method"], made["n"], made["is_complete"]) == (METHOD, 6, True)
    again = tlac_command("score", made["run"], "--json")
    assert again.code == 0, again.err
    (scored,) = json.loads(again.out)["runs"]
    assert len({(Path(one["run"]) / "predictions.jsonl").read_bytes() for one in (made, scored)}) == 1
    refused = tlac_command("score", made["run"], "--encoder", "minilm")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "the method slac-fused:image=true needs one" in refused.err


def test_the_average_of_image_description_and_prediction_decides_whatever_they_name(
    run, encoder: EncoderConfig, store: Store
) -> None:
    """Against numpy: three vectors of length 1, summed, and the cosines with the class names."""

    def describe_or_predict(request: LMMRequest) -> str:
        (words,) = [part.text for part in request.messages[0].parts[-1:]]
        return "lorry" if words.startswith("Which class from the list") else answer(request)

    found, lmm = run("wdys", describe_or_predict, matching="paper")
    listed = [request for request in lmm.asked if len(request.messages[0].parts) == 3]
    assert len(lmm.asked) == 18
    assert [
        request.messages[0].parts[0].text.count(f"\n{name}\n") for request in listed for name in Cars().classes
    ] == [1] * 27
    runner, images = Runner(store), open_image_encoder(encoder)

    def encode(texts: list[str]) -> np.ndarray:
        return runner.encoder(encoder).encode([f"a photo of a {text}" for text in texts]).vectors.astype(float)

    for one in found.predictions:
        key = embedding_key(images.fingerprint, one.image_sha256)
        seen = store.get_embeddings([key])[key].vector
        total = encode([one.answer.rstrip("."), "lorry"]).sum(axis=0) + seen
        expected = encode(list(Cars().classes)) @ (total / np.linalg.norm(total))
        assert one.predicted == int(expected.argmax())
        assert one.score == pytest.approx(expected.max(), abs=1e-5)
        assert one.decided_by == "similarity"
    assert found.record.digests["encoder"].endswith("+average+images")
    assert found.record.hints == ()
    assert found.metrics.unhinted is None


def test_an_average_is_scored_again_to_the_same_bytes_and_leaves_out_what_was_refused(
    run, store: Store, tmp_path: Path
) -> None:
    def refuse_some(request: LMMRequest) -> str | LMMResponse:
        text = answer(request)
        return LMMResponse(Outcome.REFUSED, "", reason="policy") if "truck" in text else text

    first, _ = run("wdys", refuse_some)
    assert first.metrics.refused == 3
    again = rescore(first.folder, store, Rescoring(), tmp_path / "runs")
    assert (again.folder / "predictions.jsonl").read_bytes() == (first.folder / "predictions.jsonl").read_bytes()
