"""The engine behind `tlac bench --engine ray`: has a run's answers asked for by the workers of a Ray cluster.

First every sample's stage 1, with stage 2 put off; then each distinct stage 2 once. The answers are put into the store,
where the run finds them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tlac.cache.store import Store
from tlac.config.registry import open_lmm
from tlac.config.schemas import Backend
from tlac.engines.ray.job import (
    RayJob,
    SerializedError,
    address_of,
    backends_of,
    is_in_process,
    scale_limits,
    without_samples,
)
from tlac.engines.ray.limiter import LimiterActor
from tlac.engines.ray.logs import KeySet, RunFolder, merge_left_behind, merge_logs, new_run_folder
from tlac.engines.ray.scoring import EncoderActor, ScoreWorker, StoreReader, explain_missing, score_shards, why_not
from tlac.engines.ray.session import (
    TELL_EVERY_S,
    Watch,
    connect,
    count_workers,
    end_workers,
    gpu_share,
    interruptible,
    last_words,
    map_files,
    quiet,
    translated,
)
from tlac.engines.ray.tables import write_choices, write_samples
from tlac.engines.ray.workers import Stage1Worker, Stage2Worker
from tlac.errors import PermanentError, TlacError, UsageError
from tlac.evaluation.collect import INTERRUPTED
from tlac.evaluation.run_config import RunConfig, RunResult
from tlac.hashing import response_key
from tlac.interfaces import LMM, ClassFinder, looks_again
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.cache import FetchedLMM
from tlac.lmms.middleware.policy import CallPolicy, Clock, say_nothing
from tlac.lmms.middleware.stack import build_shared_stack
from tlac.types import LMMRequest, LMMResponse, Outcome


class RayEngine:
    """Has answers asked for by the workers of a Ray cluster; see `Engine`.

    `address` names a cluster to join, None starts one here; `parallelism` is the number of workers, None one for
    each CPU; `retry` are outcomes of stored answers that are asked again.
    """

    def __init__(
        self,
        store: Store,
        policy: CallPolicy,
        address: str | None = None,
        parallelism: int | None = None,
        retry: Collection[Outcome] = (),
    ) -> None:
        self._store = store
        self._policy = policy
        self._address = address
        self._parallelism = parallelism
        self._retry = tuple(retry)
        self._failures: dict[str, SerializedError] = {}
        self._stopped: SerializedError | None = None
        self._fetched = KeySet()
        # why samples of a shard that no worker bears were not even looked at
        self._lost: str | None = None
        self._folder: RunFolder | None = None
        self.paid = KeySet()

    @contextmanager
    def fetch(self, config: RunConfig, finder: ClassFinder) -> Iterator[str | None]:
        """See `Engine`. Raises ConfigError without Ray, TlacError where the cluster can't be had or fails.

        A first interrupt lets the calls in flight come to their end, a second one gives them up. What `score` needs and
        makes is there until the block ends.
        """
        if looks_again(config.opened_method):
            raise UsageError(
                f"--engine ray puts stage 2 off, and {config.method} goes by what it says: leave relook=true out, or "
                "ask from this process"
            )
        found = merge_left_behind(self._store, self._retry)
        if found:
            self._policy.on_message(f"Ray: {found:,} answers of a run that was cut short are stored now")
        ray = connect(self._address, self._parallelism)
        self._stopped, self._failures = None, {}
        self.paid.clear()
        with new_run_folder(self._store.path) as folder:
            try:
                with quiet(ray):
                    self._run(ray, config, folder)
            finally:
                keys, self._failures = merge_logs(self._store, folder, self._retry)
                self.paid.update(keys)
                self._fetched.update(keys)
                lost = (error.text for path, error in self._failures.items() if path.startswith(str(folder.samples)))
                self._lost = next(lost, None)
            # after a permanent error the run is written all the same, incomplete, as a local run is
            if self._stopped is not None and not isinstance(self._stopped.to_error(), PermanentError):
                text = f"in a worker of the cluster: {self._stopped.text}"
                raise msgspec.structs.replace(self._stopped, text=text).to_error()
            if folder.results.exists():
                self._policy.on_message(f"Ray: the responses are in {folder.results} as parquet too")
            self._folder = folder
            try:
                yield self._stopped.text if self._stopped else None
            finally:
                self._folder = None

    def score(self, config: RunConfig) -> RunResult | None:
        """See `ScoringEngine`. A first interrupt lets it come to its end, a second one gives it up."""
        folder, reason = self._folder, why_not(config)
        if folder is None or reason is not None:
            self._policy.on_message(f"Ray: scored by this process: {reason or 'nothing was fetched'}")
            return None
        ray = connect(self._address, self._parallelism)
        files = sorted(folder.samples.glob("*.parquet"))
        workers = count_workers(ray, self._parallelism)
        is_interrupted, told_at = False, time.monotonic()

        def on_scored(done: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= TELL_EVERY_S:
                told_at = time.monotonic()
                self._policy.on_message(f"Ray: {done:,} of {len(config.samples):,} samples scored")

        def on_interrupt() -> None:
            nonlocal is_interrupted
            is_interrupted = True
            self._policy.on_message("stopping when all is scored (Ctrl-C again gives it up; answers are kept)")

        def score(reader: Any, *encoders: Any) -> RunResult:
            arguments = (without_samples(config), folder.scored, reader, encoders)
            have_scored = partial(map_files, ray, ScoreWorker, arguments, workers)
            return score_shards(have_scored, files, folder.scored, on_scored)

        try:
            with quiet(ray), last_words(), translated(ray), _alive(ray, *self._scorers(ray, config, workers)) as actors:
                result = interruptible(partial(score, *actors), on_interrupt, partial(end_workers, ray))
        except TlacError as error:
            # which goes over all samples once more, and tells which of them is at fault
            self._policy.on_message(f"Ray: scored by this process, since the cluster could not: {error}")
            return None
        return replace(result, stopped=INTERRUPTED if is_interrupted else None)

    def rest(self, backend: Backend) -> LMM:
        """See `Engine`. A pack's answers are read from the pack. Raises ConfigError, also for a key that is
        missing here: it has to be in the environment of driver and workers."""
        lmm = open_lmm(backend)
        if backend.spec.adapter == "pack":
            return lmm
        build_shared_stack(lmm, backend, self._policy)
        return FetchedLMM(self._recall)

    def _recall(self, request: LMMRequest) -> LMMResponse:
        # an answer that an earlier run of this command had is not asked for again, whatever its outcome
        key = response_key(request)
        paths = [os.path.abspath(image.source) for image in request.images if isinstance(image.source, Path)]  # noqa: PTH100
        response = self._store.get_response(key) if key in self._fetched else None
        if response is not None:
            return response
        raise self._explain(key, paths)

    @property
    def _explain(self) -> Callable[[str, Iterable[str]], TlacError]:
        return partial(explain_missing, self._failures, self._stopped, self._lost)

    def _run(self, ray: Any, config: RunConfig, folder: RunFolder) -> None:
        workers = count_workers(ray, self._parallelism)
        backends = {digest: scale_limits(backend, workers) for digest, backend in backends_of(config).items()}
        concurrency = self._policy.concurrency or max(backend.spec.limits.concurrency for backend in backends.values())
        addresses = {digest: address_of(backend) for digest, backend in backends_of(config).items()}
        job = RayJob(without_samples(config), folder.logs, concurrency, self._portable_policy(None), addresses)
        samples = config.samples

        # a model that runs in the workers takes a share of a GPU
        gpus = gpu_share(ray, workers) if any(map(is_in_process, backends.values())) else 0.0

        def ask(*actors: Any) -> None:
            def work(kind: type, files: list[Path], results: Path) -> None:
                map_files(ray, kind, (job, *actors), workers, files, gpus).write_parquet(str(results))

            work(Stage1Worker, write_samples(samples, folder.samples, len(samples), workers), folder.turns)
            if put_off := write_choices(folder.turns, folder.put_off, workers):
                work(Stage2Worker, put_off, folder.choices)
            # where nobody could be asked, nothing is written
            if folder.turns.exists():
                folder.turns.replace(folder.results)

        with last_words(), translated(ray), _alive(ray, *self._askers(ray, backends)) as actors:
            watch = Watch(ray, actors[0], self._policy.on_message)
            try:
                with watch.telling(len(samples), workers):
                    interruptible(partial(ask, *actors), watch.interrupt, partial(end_workers, ray))
            except ray.exceptions.RayActorError:
                # that is how the work ends where it is given up
                if not watch.is_given_up:
                    raise
            finally:
                self._stopped = watch.progress.stopped
                if self._policy.budget is not None:
                    spent_usd = watch.progress.spent_usd - self._policy.budget.spent_usd
                    self._policy.budget.settle(0.0, max(0.0, spent_usd))

    def _askers(self, ray: Any, backends: dict[str, Backend]) -> tuple[Any, Any]:
        """The limiter and the store's reader, on the driver's machine."""
        budget = None
        if self._policy.budget is not None:
            # a copy without those who wait for ours, who can't travel
            budget = Budget(self._policy.budget.cap_usd)
            budget.spent_usd = self._policy.budget.spent_usd
        limiter = ray.remote(LimiterActor).options(max_concurrency=100_000, **_beside_driver(ray))
        return limiter.remote(backends, self._portable_policy(budget)), self._start_reader(ray)

    def _portable_policy(self, budget: Budget | None) -> CallPolicy:
        return replace(self._policy, budget=budget, on_message=say_nothing, clock=Clock())

    def _scorers(self, ray: Any, config: RunConfig, workers: int) -> tuple[Any, ...]:
        """The store's reader, on the driver's machine, and text encoders, one for each GPU or worker."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        # an encoder behind an endpoint is asked by one process, as it is by the local engine
        count = 1 if config.encoder.spec.adapter == "litellm" else min(gpus, workers) or workers
        reader = self._start_reader(ray)
        spread = {"num_cpus": 0, "num_gpus": min(gpus, 1), "scheduling_strategy": "SPREAD", "max_restarts": 3}
        encoder = ray.remote(EncoderActor).options(**spread, max_task_retries=3)
        return reader, *(encoder.remote(config.encoder, config.fingerprint, reader) for _ in range(count))

    def _start_reader(self, ray: Any) -> Any:
        fetched = self._fetched if self._retry else ()
        reader = ray.remote(StoreReader).options(**_beside_driver(ray))
        return reader.remote(self._store.path, self._retry, fetched, self.paid, self._explain)


def _beside_driver(ray: Any) -> dict[str, Any]:
    """How an actor is started on the driver's machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


@contextmanager
def _alive(ray: Any, *actors: Any) -> Iterator[tuple[Any, ...]]:
    """Actors that are killed when the block ends."""
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)
