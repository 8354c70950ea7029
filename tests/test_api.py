from __future__ import annotations

import asyncio
import concurrent.futures.thread
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tlac import Classifier, Match, match
from tlac.cache.store import Store
from tlac.config.schemas import Prices
from tlac.errors import CallError, InputError, PermanentError, UsageError
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Outcome

CLASSES = ["red car", "old car", "red apple"]


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch):
    def opened(reply, **options) -> Classifier:
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(reply))
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        return Classifier("embedded", CLASSES, **options)

    return opened


def test_an_image_gets_a_class_a_score_and_its_words(classifier, tmp_path: Path) -> None:
    path = tmp_path / "car.png"
    path.write_bytes(make_png())
    found = classifier(lambda request: "a fast automobile" if request.stage == "stage1" else "red car").classify(path)
    assert (found.class_name, found.index, found.decided_by) == ("red car", 0, "choice")
    assert (found.answer, found.choice) == ("a fast automobile", "red car")
    assert found.top(2)[0] == ("red car", found.score)
    assert len(found.top(3)) == 3


def test_async_code_gives_the_same(classifier) -> None:
    asked = classifier(lambda request: "old car")
    assert asyncio.run(asked.aclassify(make_png())) == asked.classify(make_png())


def test_a_refusal_is_no_class(classifier) -> None:
    found = classifier(lambda request: LMMResponse(Outcome.REFUSED, "")).classify(make_png())
    assert (found.class_name, found.score, found.outcome, found.top()) == (None, None, Outcome.REFUSED, ())


def test_errors_reach_the_caller_of_one_image_and_are_results_among_many(classifier, tmp_path: Path) -> None:
    asked = classifier(lambda request: "old car")
    with pytest.raises(InputError, match=r"none.png"):
        asked.classify(tmp_path / "none.png")
    good, broken = asked.classify_many([make_png(1), b""])
    assert (good.label, broken.label, broken.outcome) == ("old car", None, Outcome.FAILED)
    assert broken.reason.startswith("the file is empty")


@pytest.mark.parametrize("is_async", [False, True])
def test_the_first_error_among_many_is_raised_where_that_is_wished(classifier, is_async: bool) -> None:
    def fail(request: LMMRequest) -> str:
        raise PermanentError("fake: down")

    asked = classifier(fail)

    def many(*images: bytes, **how: bool):
        return asyncio.run(asked.aclassify_many(images, **how)) if is_async else asked.classify_many(images, **how)

    with pytest.raises(CallError, match="fake: down"):
        many(make_png(1), make_png(2), raise_errors=True)
    assert {one.reason for one in many(make_png(3))} == {"fake: down"}


def test_results_come_while_later_images_are_asked_about_and_leaving_early_ends_it(classifier) -> None:
    asked: list[LMMRequest] = []
    streaming = classifier(lambda request: asked.append(request) or "old car", method="slac")
    images = [make_png(number) for number in range(3000)]
    for result in streaming.stream(images):
        assert (result.path, result.label) == ("image 0", "old car")
        break
    assert 0 < len(asked) < 3000


def test_a_stream_keeps_to_its_own_cap(classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = Prices(prompt=100.0, completion=100.0)
    monkeypatch.setattr("tlac.lmms.middleware.stack.prices_of", lambda spec: prices)
    capped = classifier(lambda request: "old car", method="slac")
    first, *others = capped.stream([make_png(number) for number in range(5)], max_cost=1.0)
    # each may cost up to 0.8, and costs 0.001
    assert first.label == "old car"
    assert sum(one.cost_usd for one in (first, *others)) <= 1.0
    (broke,) = capped.stream([make_png(9)], max_cost=0.1)
    assert "the budget of 0.1 USD is used up" in broke.reason


def test_images_are_paths_bytes_pictures_and_arrays(classifier, tmp_path: Path) -> None:
    asked: list[str] = []

    def note(request: LMMRequest) -> str:
        asked.append(request.images[0].sha256)
        return "old car"

    path = tmp_path / "car.png"
    path.write_bytes(make_png())
    picture = PIL.Image.open(path)
    pixels = np.asarray(picture)
    given = [str(path), path, path.read_bytes(), picture, pixels, pixels / 255.0, pixels[:, :, 0]]
    found = classifier(note, method="slac").classify_many(given)
    assert [one.label for one in found] == ["old car"] * 7
    assert [one.path for one in found] == [str(path), str(path), *(f"image {number}" for number in range(2, 7))]
    # equal pixels are one image; the grey one is another
    assert len(asked) == len(set(asked)) == 2


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int64),
        np.full((4, 4), 7.5),
        np.zeros((2, 2, 2, 2), np.uint8),
        np.zeros((3, 8, 9), np.uint8),
        None,
    ],
)
def test_an_array_that_is_no_image_is_a_failed_result(classifier, image: object) -> None:
    (found,) = classifier(lambda request: "old car").classify_many([image])
    assert found.outcome is Outcome.FAILED
    assert found.reason.startswith("can't be made an image: ")


def test_classes_are_names_or_the_text_that_the_command_line_takes(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("red car: {aliases: [scarlet motor]}\nlorry:\n")
    for classes in (str(tmp_path / "classes.yaml"), "red car, lorry", ["red car", "lorry"]):
        with Classifier("embedded", classes, encoder="minilm") as opened:
            assert opened.classes == ("red car", "lorry")


def test_results_are_dicts_tables_and_markup_without_a_models_markup(classifier, tmp_path: Path) -> None:
    path = tmp_path / "<b>.png"
    path.write_bytes(make_png())
    found = classifier(lambda request: "<script>a red car</script>", method="slac").classify_many([path, b""])
    table = found.to_pandas()
    assert table["label"].tolist()[0] == found[0].label
    assert table["outcome"].tolist() == ["answered", "failed"]
    assert json.loads(json.dumps(found[0].to_dict()))["candidates"][0][0] == found[0].label
    shown = found._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert shown.count('<img src="data:image/webp;base64,') == 1
    assert (found[0].class_name, found[0].top()) == (found[0].label, found[0].candidates)


def test_a_classifier_is_closed_by_with_and_says_so_afterwards(classifier) -> None:
    with classifier(lambda request: "old car") as opened:
        assert opened.classify(make_png()).label == "old car"
    opened.close()
    with pytest.raises(UsageError, match="the classifier is closed"):
        opened.classify(make_png())


def test_one_that_nobody_closes_says_nothing_when_python_ends(classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    closed: list[Store] = []
    really_close = Store.close

    def close(store: Store) -> None:
        closed.append(store)
        # as a pool says when Python has begun to end
        raise RuntimeError("cannot schedule new futures after shutdown")

    async def listen() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def wait_for_close() -> None:
        while not closed:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asyncio.get_running_loop().set_exception_handler(None)

    aio.run(listen())
    monkeypatch.setattr("tlac.api.Store.close", close)
    classifier(lambda request: "old car")
    aio.run(wait_for_close())
    really_close(closed[0])
    assert complaints == []


def test_it_can_be_forgotten_in_the_midst_of_code_that_holds_a_lock(classifier) -> None:
    forgotten = [classifier(lambda request: "old car")]

    def forget() -> None:
        # a pool takes it whenever work is handed in, and garbage may be collected just then
        with concurrent.futures.thread._global_shutdown_lock:
            forgotten.clear()

    forgetting = threading.Thread(target=forget, daemon=True)
    forgetting.start()
    forgetting.join(60)
    assert not forgetting.is_alive()


@pytest.mark.parametrize("method", ["tlac-shortlist:k=2", "tlac-relook:k=2", "slac-fused"])
def test_every_method_about_one_image_works_here_too(classifier, method: str) -> None:
    found = classifier(
        lambda request: "a red car there" if request.stage == "stage1" else "red car", method=method
    ).classify(make_png())
    assert found.class_name == "red car"
    assert found.confidence is not None
    assert 0 < found.confidence < 1


@pytest.mark.parametrize("method", ["vote", "clip"])
def test_a_method_that_asks_nobody_or_several_is_for_bench(classifier, method: str) -> None:
    with pytest.raises(UsageError, match=f"the method {method} asks (no LMM|several backends)"):
        classifier(lambda request: "old car", method=method)


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", ""], ["a", "?!"], ["a", 1]])
def test_a_class_list_that_can_not_be_told_apart_is_refused(classes: list[str]) -> None:
    with pytest.raises(UsageError, match="classes:"):
        match(["x"], classes, encoder=LetterEncoder())


def test_match_names_what_is_no_list_of_answers() -> None:
    with pytest.raises(UsageError, match="one text is given where several are expected"):
        match("old car", CLASSES, encoder=LetterEncoder())
    (found,) = match(["old car"], "red car, old car", encoder=LetterEncoder())
    assert found.class_name == "old car"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_match_names_an_answer_that_is_no_text(missing: object) -> None:
    with pytest.raises(UsageError, match=r"answers: the one at 1 is (None|nan), and no text"):
        match(["old car", missing], CLASSES, encoder=LetterEncoder())
    assert len(match(iter(["old car"]), CLASSES, encoder=LetterEncoder())) == 1


@pytest.mark.parametrize("classes", [set(CLASSES), frozenset(CLASSES), None, b"red car, old car", 3])
def test_what_is_no_list_of_classes_is_named(classes: object) -> None:
    with pytest.raises(UsageError, match=f"classes: a {type(classes).__name__} is no list of names"):
        Classifier("embedded", classes)
    with pytest.raises(UsageError, match="is no list of names"):
        match(["old car"], classes, encoder=LetterEncoder())


def test_files_may_be_given_as_paths(classifier, tmp_path: Path) -> None:
    classifier(lambda request: "old car")
    (tmp_path / "names.txt").write_text("red car\nold car\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("adapter: embedded\nmodel: x\n", encoding="utf-8")
    assert Classifier(tmp_path / "mine.yaml", tmp_path / "names.txt").classes == ("red car", "old car")


def test_bytes_are_bytes_in_whatever_they_come(classifier) -> None:
    asked = classifier(lambda request: "old car")
    content = make_png(3)
    same = asked.classify_many([content, bytearray(content), memoryview(content)])
    assert len({one.sha256 for one in same}) == 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "I", "F", "1", "LA", "P"])
def test_pictures_are_taken_in_every_mode(classifier, mode: str) -> None:
    picture = PIL.Image.new("LA" if mode == "LA" else "RGB", (8, 8))
    assert classifier(lambda request: "old car").classify(picture.convert(mode)).label == "old car"


@pytest.mark.parametrize("images", ["car.png", Path("car.png"), make_png()])
def test_one_image_in_place_of_several_is_named(classifier, images: object) -> None:
    with pytest.raises(UsageError, match="use classify, or a list of it"):
        classifier(lambda request: "old car").classify_many(images)


def test_a_cap_that_caps_nothing_is_refused(classifier) -> None:
    for cap in (float("nan"), -1.0):
        with pytest.raises(UsageError, match="caps nothing"):
            classifier(lambda request: "old car").classify_many([make_png()], max_cost=cap)


@pytest.mark.parametrize("classes", [["a car", "The car"], ["C", "C++", "c"], ["T-shirt", "t shirt"]])
def test_names_that_differ_in_any_sign_are_different_classes(classes: list[str]) -> None:
    assert [one.class_name for one in match(classes, classes, encoder=LetterEncoder())] == classes


def test_names_that_begin_with_their_numbers_are_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"each name begins with its number \('0 cat'\), which is taken for a part"):
        assert match(["0 cat"], ["0 cat", "1 dog"], encoder=LetterEncoder())[0].class_name == "0 cat"
    with pytest.warns(UserWarning, match="each name begins with its number"):
        match(["cat"], ["1: cat", "2: dog", "3: emu"], encoder=LetterEncoder())
    match(["cat"], ["1 euro", "2 euro", "5 euro"], encoder=LetterEncoder())
    match(["cat"], ["0", "1"], encoder=LetterEncoder())


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (["- cat", "- dog"], "a mark or quotes"),
        (['"cat"', '"dog"'], "a mark or quotes"),
        (["# animals", "cat", "dog"], "begins as a comment does"),
    ],
)
def test_what_looks_like_no_part_of_a_name_is_taken_with_a_warning(names: list[str], warning: str) -> None:
    with pytest.warns(UserWarning, match=warning):
        match(["cat"], names, encoder=LetterEncoder())


def test_aliases_that_tell_nothing_apart_are_told(classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier(lambda request: "old car")
    (tmp_path / "classes.yaml").write_text("cat: {aliases: [dog]}\ndog:\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="1 aliases tell no class apart and are left out: 'dog'"):
        Classifier("embedded", str(tmp_path / "classes.yaml"))


def test_frames_that_come_in_one_array_or_picture_are_told_apart(classifier) -> None:
    asked: list[str] = []

    def note(request: LMMRequest) -> str:
        asked.append(request.images[0].sha256)
        return "old car"

    def frames(fill: Callable[[int], None], image: object):
        for shade in (0, 100, 200):
            fill(shade)
            yield image

    pixels, picture = np.zeros((8, 8, 3), np.uint8), PIL.Image.new("L", (8, 8))
    ours = classifier(note, method="slac")
    ours.classify_many(frames(pixels.fill, pixels))
    ours.classify_many(frames(lambda shade: picture.paste(shade, (0, 0, 8, 8)), picture))
    assert len(asked) == len(set(asked)) == 6


def test_one_classifier_is_asked_from_many_event_loops(classifier) -> None:
    ours = classifier(lambda request: "old car" if request.stage == "stage2" else "a vehicle")

    async def ask(first: int) -> list[str | None]:
        found = await asyncio.gather(*(ours.aclassify(make_png(first + number)) for number in range(5)))
        return [one.label for one in found]

    ours.classify_many([make_png(number) for number in range(100, 105)])
    for first in (0, 10, 20):
        assert asyncio.run(ask(first)) == ["old car"] * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own_and_is_told_to_make_its_own_classifier(classifier) -> None:
    ours = classifier(lambda request: "old car")
    ours.classify(make_png())
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            ours.classify(make_png())
        except UsageError as error:
            os.write(writer, f"{aio.run(asyncio.sleep(0, 'ran'))}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1000).startswith(b"ran: the classifier was made before this process was forked")
    os.close(reader)
    os.waitpid(child, 0)


def test_a_name_that_stands_twice_is_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'crane' stands more than once"):
        (found,) = match(["crane"], ["crane", "stork", "crane"], encoder=LetterEncoder())
    assert found.index == 0


def test_match_maps_answers_and_choices() -> None:
    found = match(["a red car", "zzz", "..."], CLASSES, choices=[None, "red apple", None], encoder=LetterEncoder())
    assert [(one.class_name, one.decided_by) for one in found] == [
        ("red car", "exact"),
        ("red apple", "choice"),
        (None, None),
    ]
    assert found[2] == Match(None, None, None, None, None)


def test_match_needs_a_choice_for_each_answer() -> None:
    with pytest.raises(UsageError, match="1 given for 2 answers"):
        match(["a", "b"], CLASSES, choices=["c"], encoder=LetterEncoder())
