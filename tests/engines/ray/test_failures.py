"""A cluster as it fails in the world: deaths are counted, nothing is silent, and no logged answer is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.ray.test_engine import say_by_digest
from tests.engines.ray.test_limiter import answer, are_keys, write_log
from tests.support.cluster_fixtures import (
    ImageFolder,
    emulated_backend,
    spec_of,
    workers_below,
)
from tests.support.emulated import plant_keys
from tests.support.emulator import Asked, Reply, running_emulator
from tests.support.scripted_lmm import question
from tlac.cache.store import Store
from tlac.config.schemas import load_backend
from tlac.engines.ray import session
from tlac.engines.ray.engine import RayEngine
from tlac.engines.ray.job import SerializedError, address_of, at_address
from tlac.engines.ray.limiter import Progress
from tlac.engines.ray.logs import AnswerLog, merge_logs, new_run_folder
from tlac.engines.ray.session import _keeping_signals, connect, quiet, translated
from tlac.engines.ray.workers import Attempt
from tlac.errors import ConfigError, SampleError, TlacError
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.types import Outcome

pytestmark = pytest.mark.xdist_group("ray")


# --- deaths --------------------------------------------------------------------------------------------------


def die(folder: Path, batch: str, *numbers: int) -> None:
    """An attempt at a batch that has logged these answers when it is killed."""
    path = folder / f"{batch}-{len(list(folder.iterdir())):04d}-x.jsonl"
    path.touch()
    if numbers:
        path.unlink()
        asyncio.run(_log(path, numbers))


async def _log(path: Path, numbers: tuple[int, ...]) -> None:
    log = AnswerLog(path)
    for number in numbers:
        await log.keep(answer(number))
    await log.close()


def test_three_deaths_without_a_new_answer_end_the_attempts_at_a_batch(tmp_path: Path) -> None:
    attempts = [Attempt(tmp_path, "a", 16)]
    for numbers in ((1, 2), (), (3,), (), (), ()):
        die(tmp_path, "a", *numbers)
        attempts.append(Attempt(tmp_path, "a", 16))
    assert [bool(attempt.refusal) for attempt in attempts] == [False] * 6 + [True]
    assert "the worker died 3 times here" in attempts[-1].refusal
    assert attempts[-1].known.keys() == {answer(number).key for number in (1, 2, 3)}
    # what kills the worker costs fewer and fewer calls
    assert [attempt.concurrency for attempt in attempts] == [16, 8, 4, 2, 1, 1, 1]
    assert not Attempt(tmp_path, "b", 16).refusal


def test_attempts_come_from_both_ends_so_that_one_image_stops_no_other(tmp_path: Path) -> None:
    samples = "abcPdef"
    answered: set[str] = set()
    for _ in range(20):
        attempt = Attempt(tmp_path, "a", 1)
        if attempt.refusal:
            break
        had = []
        for sample in attempt.ordered(samples):
            if sample == "P":
                break
            had += [] if sample in answered else [ord(sample)]
            answered.add(sample)
        die(tmp_path, "a", *had)
    assert answered == set("abcdef")
    assert len(list(tmp_path.iterdir())) == 5


def test_a_shard_whose_images_kill_the_worker_as_they_are_read_is_touched_no_more(tmp_path: Path) -> None:
    for deaths, is_lost in ((3, False), (4, True)):
        while len(list(tmp_path.iterdir())) < deaths:
            die(tmp_path, "a")
        attempt = Attempt(tmp_path, "a", 16)
        assert (bool(attempt.refusal), attempt.is_lost) == (True, is_lost)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (None, "not asked by the cluster: run the same command with --engine local"),
        ("the worker died 3 times here", "the worker died 3 times here: run the same command with --engine local"),
    ],
)
def test_a_sample_that_no_worker_looked_at_says_why(store: Store, lost: str | None, words: str) -> None:
    engine = RayEngine(store, CallPolicy())
    engine._lost = lost
    with pytest.raises(SampleError, match=f"^{words}$"):
        engine._recall(question())


class DiesAtOnce:
    """A worker whose process ends before it takes up anything."""

    def __init__(self, *_: object) -> None:
        os._exit(1)


@pytest.mark.slow
def test_workers_that_die_before_they_take_up_work_end_the_run_and_its_samples_fail_by_name(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    monkeypatch.setattr(session, "_GIVE_UP_AFTER_S", 1.0)
    monkeypatch.setattr("tlac.engines.ray.engine.Stage1Worker", DiesAtOnce)
    pictures = ImageFolder(tmp_path / "pictures", 3)
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "store") as store:
        runner = Runner(store, engine=RayEngine(store, CallPolicy(), None, 1))
        run = runner.run(spec_of(emulated_backend(emulator), pictures, "slac"), tmp_path / "runs")
    reason = "a worker died 3 times before it took up any work; is the memory of its machine too small?"
    assert (run.record.is_complete, run.record.stopped) == (False, reason)
    assert [prediction.reason for prediction in run.predictions] == [f"not asked: {reason}"] * 3


@pytest.mark.slow
def test_an_image_that_kills_its_worker_fails_by_name_and_costs_few_calls(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    pictures = ImageFolder(tmp_path / "pictures", 11)
    poison = (tmp_path / "pictures" / "00005.png").read_bytes()
    said: list[str] = []

    def deadly(asked: Asked) -> Reply:
        if asked.images[0] == poison:
            for worker in workers_below(os.getpid()):
                os.kill(worker, signal.SIGKILL)
        return say_by_digest(asked)

    with running_emulator(deadly) as emulator, Store(tmp_path / "store") as store:
        policy = CallPolicy(on_message=said.append)
        spec = spec_of(emulated_backend(emulator, concurrency=4), pictures, "slac")
        run = Runner(store, policy=policy, engine=RayEngine(store, policy, None, 1)).run(spec, tmp_path / "runs")
        calls = len(emulator.asked)
    failed = [prediction for prediction in run.predictions if prediction.outcome is Outcome.FAILED]
    assert "the worker died 3 times here; is its memory too small?" in failed[0].reason
    assert [prediction.sample for prediction in failed] == ["00005.png"]
    assert sum("a worker died" in line for line in said) >= 3
    # at each death no more than the calls in flight, which are halved each time: 4, 2, 1, 1, ...
    assert calls <= 11 + 4 + 2 + 6


# --- addresses -----------------------------------------------------------------------------------------------


def test_a_backend_is_asked_where_the_command_would_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_backend("gpt-4o")
    variable = backend.spec.api_base_env
    assert variable is not None
    monkeypatch.delenv(variable, raising=False)
    assert address_of(backend) is None
    monkeypatch.setenv(variable, "http://127.0.0.1:1/v1")
    address = address_of(backend)
    monkeypatch.delenv(variable)
    asked = at_address(backend, address)
    assert (asked.spec.api_base, asked.spec.api_base_env) == ("http://127.0.0.1:1/v1", None)


@pytest.mark.parametrize("sent", [None, "http://127.0.0.1:1/v1"])
def test_a_worker_with_another_address_is_refused(monkeypatch: pytest.MonkeyPatch, sent: str | None) -> None:
    backend = load_backend("gpt-4o")
    monkeypatch.setenv(backend.spec.api_base_env or "", "http://127.0.0.1:2/v1")
    with pytest.raises(ConfigError, match=r"OPENAI_API_BASE is http://127.0.0.1:2/v1 there"):
        at_address(backend, sent)


def test_an_address_with_a_password_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_backend("gpt-4o")
    monkeypatch.setenv(backend.spec.api_base_env or "", "http://me:secret-word@127.0.0.1:2/v1")
    with pytest.raises(ConfigError, match="holds a user name or password") as told:
        address_of(backend)
    assert "secret-word" not in str(told.value)


class LateImages(RayEngine):
    """An engine whose workers see no images while they ask: another machine's folder is mounted later."""

    images: Path

    def score(self, config: Any) -> Any:
        self.images.with_suffix(".later").rename(self.images)
        return super().score(config)


@pytest.mark.slow
def test_an_address_that_the_driver_alone_knows_is_used_and_an_image_that_no_worker_saw_is_named(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    seen, unseen = ImageFolder(tmp_path / "seen", 3), ImageFolder(tmp_path / "unseen", 2)
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "store") as store:
        monkeypatch.setenv("OPENAI_API_BASE", emulator.base("openai"))
        policy = CallPolicy()
        runner = Runner(store, policy=policy, engine=RayEngine(store, policy, None, 1))
        assert runner.run(spec_of(load_backend("gpt-4o"), seen, "slac"), tmp_path / "runs").record.is_complete
        assert len(emulator.asked) == 3
        for path in (tmp_path / "unseen").iterdir():
            path.write_bytes(path.read_bytes() + b"unlike those of another folder")
        engine = LateImages(store, policy, None, 1)
        engine.images = tmp_path / "unseen"
        engine.images.rename(engine.images.with_suffix(".later"))
        run = Runner(store, policy=policy, engine=engine).run(
            spec_of(load_backend("gpt-4o"), unseen, "slac"), tmp_path / "runs"
        )
    reasons = {prediction.reason for prediction in run.predictions}
    assert len(reasons) == 2
    assert all("No such file" in reason and "on a worker of the cluster" in reason for reason in reasons), reasons


# --- silence -------------------------------------------------------------------------------------------------


def test_workers_that_do_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(session, "_START_TIMEOUT_S", 0.0)
    said: list[str] = []
    has_said = threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        has_said.set()

    class Timeout(Exception):  # noqa: N818 - as Ray names it
        pass

    fake = SimpleNamespace(
        get=lambda *_, **__: Progress(),
        available_resources=lambda: {"CPU": 0.0},
        exceptions=SimpleNamespace(GetTimeoutError=Timeout, RayError=Timeout),
    )
    limiter = SimpleNamespace(progress=SimpleNamespace(remote=lambda: None))
    with session.Watch(fake, limiter, hear).telling(10, 16):
        assert has_said.wait(60)
    assert said == ["Ray: no worker has started: 4 CPUs asked, 0 free"]


class Actors:
    """A Ray whose limiter and actors are at what stage a test says. Each look is one step on."""

    def __init__(self, steps: list[tuple[Progress, dict[str, int]]]) -> None:
        self.steps, self.step = steps, 0
        self.stopped: list[SerializedError] = []
        self.exceptions = SimpleNamespace(GetTimeoutError=TimeoutError, RayError=OSError)
        self.limiter = SimpleNamespace(
            progress=SimpleNamespace(remote=self.look), stop=SimpleNamespace(remote=self.stopped.append)
        )

    def look(self) -> Progress:
        self.step = min(self.step + 1, len(self.steps))
        return self.steps[self.step - 1][0]

    def get(self, answer: object, timeout: float) -> object:
        return answer


@pytest.mark.parametrize(
    ("restarts", "shards", "is_given_up"),
    [
        # one worker dies again and again, the other waits for something to do
        ([{"a": 7, "b": 0}, {"a": 8, "b": 0}, {"a": 9, "b": 0}, {"a": 10, "b": 0}], [1, 1, 1, 1], True),
        # two deaths are an accident, and so are those between which work was taken up
        ([{"a": 7, "b": 0}, {"a": 8, "b": 0}, {"a": 9, "b": 0}, {"a": 9, "b": 0}], [1, 1, 1, 1], False),
        ([{"a": 7, "b": 0}, {"a": 8, "b": 0}, {"a": 9, "b": 0}, {"a": 10, "b": 0}], [1, 1, 2, 2], False),
        # a worker that is new has died before it was seen
        ([{"a": 0}, {"b": 5}, {"c": 9}, {"d": 9}], [1, 1, 1, 1], False),
    ],
)
def test_a_run_is_given_up_when_a_worker_dies_three_times_and_nothing_is_gained(
    monkeypatch: pytest.MonkeyPatch, restarts: list[dict[str, int]], shards: list[int], is_given_up: bool
) -> None:
    fake = Actors([(Progress(1, taken), counts) for taken, counts in zip(shards, restarts, strict=True)])
    ended: list[object] = []
    is_over = threading.Event()

    def count(_ray: object) -> dict[str, int]:
        if fake.step == len(restarts):
            is_over.set()
        return restarts[fake.step - 1]

    monkeypatch.setattr(session, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(session, "_GIVE_UP_AFTER_S", 0.0)
    monkeypatch.setattr(session, "count_restarts", count)
    monkeypatch.setattr(session, "end_workers", ended.append)
    seen = session.Watch(fake, fake.limiter, print)
    with seen.telling(10, 2):
        assert is_over.wait(60)
    assert seen.is_given_up == is_given_up
    assert ended == [fake] * is_given_up
    assert len(fake.stopped) == is_given_up


def test_ray_is_quiet_for_a_while_and_then_as_it_was() -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    ray = session._import_ray()

    def state() -> tuple[object, ...]:
        context = ray.data.DataContext.get_current()
        levels = [logging.getLogger(name).level for name in ("ray", "ray.data")]
        return *levels, context.enable_progress_bars, ray._private.worker.print_to_stdstream, list(warnings.filters)

    before = state()
    with quiet(ray):
        assert not logging.getLogger("ray.data").isEnabledFor(logging.ERROR)
        assert not ray.data.DataContext.get_current().enable_progress_bars
        assert state() != before
    assert state() == before


def impatient(interrupts: int) -> type[Future[Any]]:
    """A future whose first waits end by Ctrl-C."""

    class Interrupted(Future[Any]):
        waits = 0

        def result(self, timeout: float | None = None) -> Any:
            self.waits += 1
            if self.waits <= interrupts:
                raise KeyboardInterrupt
            return super().result(timeout)

    return Interrupted


def test_a_first_interrupt_lets_work_come_to_its_end_and_a_second_one_gives_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    can_end = threading.Event()
    heard: list[str] = []

    def let_end() -> None:
        heard.append("stop")
        can_end.set()

    def wait() -> str:
        assert can_end.wait(60)
        return "ended"

    monkeypatch.setattr(session, "Future", impatient(1))
    assert session.interruptible(wait, let_end, lambda: heard.append("give up")) == "ended"
    assert heard == ["stop"]
    heard.clear()
    monkeypatch.setattr(session, "Future", impatient(2))
    with pytest.raises(KeyboardInterrupt):
        session.interruptible(lambda: None, lambda: heard.append("stop"), lambda: heard.append("give up"))
    assert heard == ["stop", "give up"]


def test_what_work_on_a_thread_raises_is_raised() -> None:
    def fail() -> None:
        raise TlacError("no room")

    with pytest.raises(TlacError, match="no room"):
        session.interruptible(fail, lambda: None, lambda: None)


def test_the_death_of_an_actor_is_one_line() -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    with pytest.raises(TlacError, match="a process of the cluster has died") as told, translated(ray):
        raise ray.exceptions.ActorDiedError
    assert "the same command goes on" in str(told.value)
    assert "actor" not in str(told.value)


def test_a_death_that_a_worker_has_met_is_one_line_too() -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    trace = (
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
        "\tclass_name: Limiter\n\nThe above exception was the direct cause of the following exception:\n\n"
        "ray.exceptions.UserCodeException: UDF failed to process a data block.\nTo change retry attempts, configure it."
    )
    with pytest.raises(TlacError, match="a process of the cluster has died; is its memory too small"), translated(ray):
        raise ray.exceptions.RayTaskError("submit", trace, RuntimeError("UDF failed"))
    with pytest.raises(TlacError, match="Ray gave up: ValueError: no room") as told, translated(ray):
        raise ray.exceptions.RayTaskError("submit", "ValueError: no room", ValueError("no room"))
    assert "died" not in str(told.value)


def test_signals_go_where_they_went_before_ray_started() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _keeping_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_temporary_folder_with_a_long_path_gets_advice_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")

    def refuse(**_given: object) -> None:
        # as Ray tells it
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /a/very/long")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(TlacError, match="set RAY_TMPDIR to a short one") as told:
        connect(None, 1)
    assert "ray start" not in str(told.value)


# --- logs ----------------------------------------------------------------------------------------------------


def test_a_log_that_vanishes_while_logs_are_merged_is_left_to_who_took_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "store") as store, new_run_folder(store.path) as folder:
        write_log(folder.logs / "a.jsonl", answer(1))
        gone = folder.logs / "b.jsonl"
        monkeypatch.setattr("tlac.engines.ray.logs.logs_in", lambda *_: [gone, folder.logs / "a.jsonl"])
        assert are_keys(merge_logs(store, folder)[0], answer(1).key)
