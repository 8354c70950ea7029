"""Joins a Ray cluster, or starts one on this machine, keeps it quiet, and watches over a run on it."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tlac.engines.ray.job import MOST_DEATHS, SHARD, serialize_error
from tlac.engines.ray.limiter import Progress
from tlac.errors import ConfigError, PermanentError, TlacError
from tlac.evaluation.collect import INTERRUPTED
from tlac.lmms.middleware.policy import OnMessage

ResultT = TypeVar("ResultT")
_OBJECT_STORE_BYTES = 512 * 2**20
_CONNECT_TIMEOUT_S = 5.0
_POOLS_ACTORS = "MapWorker"
# what a worker has met comes as the text of its traceback
_MET_A_DEATH = re.compile(r"^ray\.exceptions\.Actor(?:Died|Unavailable)Error", re.MULTILINE)
_KEPT = "answers so far are kept, and the same command goes on from there"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a worker that asked for no GPU sees none
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


def connect(address: str | None, workers: int | None) -> Any:
    """The modules ray and ray.data, connected; `address` None starts a Ray with one CPU for each worker here.

    A Ray that this process has started before is used again. It is quiet in a block under `quiet` alone. Raises
    ConfigError without the package, TlacError where the cluster can't be reached.
    """
    # these Ray reads as it is imported, and is at odds with itself where they come later
    settings = _SETTINGS if address or "ray" in sys.modules else _SETTINGS | _private_settings()
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})
    try:
        ray = _import_ray()
    except ImportError as error:
        raise ConfigError("--engine ray needs the package ray: pip install 'tlac[ray]'") from error
    if not ray.is_initialized():
        _check_listener(address)
        given: dict[str, Any] = {"address": address}
        if address is None:
            given = {
                # whatever RAY_ADDRESS says: a cluster is joined by --ray-address alone
                "address": "local",
                "num_cpus": max(2, workers or os.cpu_count() or 1),
                "object_store_memory": _OBJECT_STORE_BYTES,
                "include_dashboard": False,
            }
        try:
            with quiet(ray), _without_stderr(), _keeping_signals():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {address}" if address else "on this machine"
            raise TlacError(f"no Ray {where}: {_reason(error)}") from error
    return ray


@contextmanager
def translated(ray: Any) -> Iterator[None]:
    """Turn what Ray raises into one line. Answers are in the logs by then, and the next start finds them."""
    try:
        yield
    except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as error:
        causes = (error, getattr(error, "cause", None), error.__cause__)
        # one that could not begin says why
        has_died = _MET_A_DEATH.search(str(error)) or any(
            isinstance(cause, ray.exceptions.RayActorError) and not cause.actor_init_failed for cause in causes
        )
        reason = "a process of the cluster has died; is its memory too small?" if has_died else _first_line(error)
        raise TlacError(f"Ray gave up: {reason}; {_KEPT}") from error


@contextmanager
def last_words() -> Iterator[None]:
    """Say one line where the process ends without one: Ray's own code ends it when the cluster's head is gone."""
    script = f"import sys; sys.stdin.read() or sys.stderr.write({f'tlac: the cluster is gone; {_KEPT}'!r} + chr(10))"
    command = [sys.executable, "-S", "-c", script]
    # in a session of its own, where no Ctrl-C ends it
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as speaker:  # noqa: S603
        try:
            yield
        finally:
            with suppress(OSError):
                speaker.communicate("the block has ended, and says itself how")


def interruptible(
    work: Callable[[], ResultT], on_interrupt: Callable[[], None], give_up: Callable[[], None]
) -> ResultT:
    """Do some work of Ray's, which would die of a Ctrl-C, on a thread of its own, and give what comes of it.

    A first interrupt calls `on_interrupt`, which has the work come to an end; a second one calls `give_up`, and is
    raised.
    """
    done: Future[ResultT] = Future()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            done.set_exception(error)

    # a daemon: work that hangs keeps no process alive
    threading.Thread(target=do, name="tlac-ray", daemon=True).start()
    try:
        return done.result()
    except KeyboardInterrupt:
        on_interrupt()
        try:
            return done.result()
        except KeyboardInterrupt:
            give_up()
            raise


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Give signals back to those who had them: Ray would end the process with a trace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def count_restarts(ray: Any) -> dict[str, int]:
    """How often each worker that there is now has been started again, by its id.

    Empty for a Ray that does not tell: its public list of actors wants a dashboard.
    """
    with suppress(ImportError, AttributeError, KeyError, TypeError):
        from ray._private.state import actors

        job = ray.get_runtime_context().get_job_id()
        return {
            name: int(actor["NumRestarts"])
            for name, actor in actors().items()
            if actor["JobID"] == job and actor["State"] != "DEAD" and actor["ActorClassName"].startswith(_POOLS_ACTORS)
        }
    return {}


def end_workers(ray: Any) -> None:
    """End all workers for good, and with them the work that Ray Data has for them, which raises RayActorError."""
    with suppress(AttributeError, TypeError):
        core = ray._private.worker.global_worker.core_worker
        for name in count_restarts(ray):
            core.kill_actor(ray.ActorID(bytes.fromhex(name)), True)


def count_workers(ray: Any, parallelism: int | None) -> int:
    """How many workers: as many as were asked for, else one for each CPU of the cluster."""
    return parallelism or max(1, int(ray.cluster_resources().get("CPU", 1)))


def map_files(
    ray: Any, kind: type, arguments: tuple[object, ...], workers: int, files: Sequence[Path], gpus: float = 0.0
) -> Any:
    """The Ray data set of what so many workers of a kind, made with these arguments, make of files, one at a time.

    Each has that share of a GPU. Ray Data spreads them out.
    """
    # a block for each file: Ray's own reader would put small files into one block, and all work on one worker
    listed = ray.data.from_items([{SHARD: str(path)} for path in files], override_num_blocks=len(files))
    return listed.map_batches(
        kind,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        batch_size=None,
        # few wait at a busy worker while others have nothing to do
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=WORKER_CPUS,
        **({"num_gpus": gpus} if gpus else {}),
    )


def gpu_share(ray: Any, workers: int) -> float:
    """The GPUs that each worker can have: one, or a part of one that lets all workers in; none where there are none."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    # a part never lies on two, so three workers on two have a half each; Ray reckons in ten thousandths
    return (10_000 // -(-workers // gpus)) / 10_000 if gpus else 0.0


def _private_settings() -> dict[str, str]:
    """What a Ray that starts here is to be: one that nobody else reaches, as who does may run any code in it."""
    return {
        # a minute, unless told: the head of a cluster may come back, that of one machine does not
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        # Ray would have workers give way to all else on the machine, unlike any command that runs here
        "RAY_worker_niceness": "0",
        # on other systems Ray does so by itself: it listens on the loopback address alone
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # other users of this machine reach that too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what is written past Python: Ray tells of its own log level, in a line that no setting turns off."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _import_ray() -> Any:
    with warnings.catch_warnings():
        # Ray Data warns of its own settings' old names
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        import ray
        import ray.data
        import ray.exceptions

        ray.data.DataContext.get_current()
    return ray


@contextmanager
def quiet(ray: Any) -> Iterator[None]:
    """Have Ray print nothing of its own while the block lasts: what there is to say, the command says."""
    context = ray.data.DataContext.get_current()
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    with ExitStack() as put_back, warnings.catch_warnings():
        for holder, name, value in (
            (context, "enable_progress_bars", False),
            (context, "print_on_execution_start", False),
            # it writes each death of a worker to standard output, where the command's own figures go
            (ray._private.worker, "print_to_stdstream", lambda *_, **__: None),
        ):
            if hasattr(holder, name):
                put_back.callback(setattr, holder, name, getattr(holder, name))
                setattr(holder, name, value)
        for logger in loggers:
            put_back.callback(logger.setLevel, logger.level)
            # of an error it prints three tracebacks, before it raises it
            logger.setLevel(logging.CRITICAL)
        # it remarks on pools that are larger than their input
        warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.")
        yield


def _check_listener(address: str | None) -> None:
    """Raise where nobody listens: Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise TlacError(f"no Ray at {address}: {error.strerror or error}; start one with `ray start --head`") from error


def _reason(error: BaseException) -> str:
    """Why there is no connection, and what to do."""
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    if "InvalidAuthToken" in f"{error} {deepest}":
        return "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's own"
    if "AF_UNIX path length" in f"{error} {deepest}":
        return "the path of its temporary folder is too long: set RAY_TMPDIR to a short one, such as /tmp"
    return f"{_first_line(error)}; start one with `ray start --head`"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# workers wait for answers, and one processor bears several
WORKER_CPUS = 0.25
_LOOK_EVERY_S = 1.0
_GET_TIMEOUT_S = 10.0
# workers that have to import litellm begin after some ten seconds
_START_TIMEOUT_S, _SAY_AGAIN_S = 20.0, 60.0
TELL_EVERY_S = 10.0
# a worker that is started in vain is started again within a second or two
_GIVE_UP_AFTER_S = 20.0


class Watch:
    """Looks at a run's limiter, and tells what is new. `progress` is the last look; `total` samples are asked about.

    Where workers die before they take up any work, Ray starts them again without end, and no worker of ours can count
    that: the run is stopped here.
    """

    def __init__(self, ray: Any, limiter: Any, on_message: OnMessage) -> None:
        self._ray, self._limiter = ray, limiter
        self._on_message = on_message
        self._moved_at = time.monotonic()
        # by worker, when something was last gained
        self._restarts: dict[str, int] = {}
        self.progress = Progress()
        self.is_given_up = False

    def _look(self) -> Progress:
        before, self.progress = self.progress, self._ray.get(self._limiter.progress.remote(), timeout=_GET_TIMEOUT_S)
        for message in self.progress.messages:
            self._on_message(message)
        if self.progress.gains != before.gains:
            self._moved_at, self._restarts = time.monotonic(), {}
        return self.progress

    @contextmanager
    def telling(self, total: int, workers: int) -> Iterator[None]:
        """Look again and again while the block lasts, and once more at its end."""
        is_over = threading.Event()

        def watch() -> None:
            told, told_at = Progress(), time.monotonic()
            started_at, say_at_s = time.monotonic(), _START_TIMEOUT_S
            while not is_over.wait(_LOOK_EVERY_S):
                try:
                    found = self._look()
                except self._ray.exceptions.GetTimeoutError:
                    continue
                except self._ray.exceptions.RayError:
                    return
                now = time.monotonic()
                if now - self._moved_at >= _GIVE_UP_AFTER_S:
                    self._give_up_if_workers_die()
                if not found.workers and now - started_at >= say_at_s:
                    free = self._ray.available_resources().get("CPU", 0.0)
                    asked = workers * WORKER_CPUS
                    self._on_message(f"Ray: no worker has started: {asked:g} CPUs asked, {free:g} free")
                    say_at_s += _SAY_AGAIN_S
                if now - told_at >= TELL_EVERY_S and found.gains != told.gains:
                    # a worker that was killed has told of some samples that it asks about again
                    done = min(found.samples, total)
                    self._on_message(f"Ray: {done:,} of {total:,} samples, {found.calls:,} calls")
                    told, told_at = found, now

        watcher = threading.Thread(target=watch, name="tlac-ray-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
            # where the limiter has died, the look before counts
            with suppress(self._ray.exceptions.RayError):
                self._look()

    def interrupt(self) -> None:
        """Have no further call made, and those in flight come to their end."""
        self._on_message("stopping; waiting for the calls in flight (Ctrl-C again gives them up)")
        self._stop(PermanentError(INTERRUPTED))

    def _stop(self, error: PermanentError) -> None:
        self._ray.get(self._limiter.stop.remote(serialize_error(error)), timeout=_GET_TIMEOUT_S)

    def _give_up_if_workers_die(self) -> None:
        restarts = count_restarts(self._ray)
        self._restarts = {worker: self._restarts.get(worker, count) for worker, count in restarts.items()}
        if self.is_given_up or all(count - self._restarts[worker] < MOST_DEATHS for worker, count in restarts.items()):
            return
        self.is_given_up = True
        reason = (
            f"a worker died {MOST_DEATHS} times before it took up any work; is the memory of its machine too small?"
        )
        self._stop(PermanentError(reason))
        end_workers(self._ray)
