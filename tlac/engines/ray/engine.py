"""The engine behind `tlac bench --engine ray`: has a run's answers asked for by the workers of a Ray cluster.

First every sample's stage 1, with stage 2 put off; then, grouped by their keys, each distinct stage 2 once. Does not
know how answers are scored: they are put into the store, where the run finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlac.cache.store import Store
from tlac.config.registry import open_lmm
from tlac.config.schemas import Backend
from tlac.engines.ray.errors import Fault
from tlac.engines.ray.job import GROUP, SHARD, RayJob, backends_of, is_in_process, shared_by, without_samples
from tlac.engines.ray.limiter import Limiter, Progress, Terms
from tlac.engines.ray.logs import RunFolder, merge_left_behind, merge_logs, new_run_folder
from tlac.engines.ray.session import connect, count_workers, gpu_share, translated
from tlac.engines.ray.tables import write_samples
from tlac.engines.ray.workers import Stage1Worker, Stage2Worker
from tlac.errors import PermanentError, SampleError
from tlac.evaluation.run_config import RunConfig, choose_samples
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.middleware.stack import CallPolicy, restrain
from tlac.methods.base import NearestClassFinder
from tlac.types import LMMRequest, LMMResponse, Outcome


class StoreReader:
    """Finds stored answers. Those with an outcome in `retry` are to be asked again, but for those under keys in
    `paid`."""

    def __init__(self, store: Path, retry: Collection[Outcome], paid: Collection[str]) -> None:
        self._store = Store(store)
        self._retry = frozenset(retry)
        self._paid = frozenset(paid)

    def find(self, keys: list[str]) -> dict[str, LMMResponse]:
        """The responses under these keys that need not be asked for. Raises StoreError."""
        found = ((key, self._store.get_response(key)) for key in keys)
        return {
            key: response
            for key, response in found
            if response is not None and (response.outcome not in self._retry or key in self._paid)
        }


_ROWS_A_GROUP = 2000
_LOOK_EVERY_S = 1.0
_TELL_EVERY_S = 10.0
# workers wait for answers: one processor bears several
_WORKER_CPUS = 0.25


class RayEngine:
    """Has answers asked for by the workers of a Ray cluster; see tlac.evaluation.engine.

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
        self._failures: dict[str, Fault] = {}
        self._stopped: Fault | None = None
        self._had: set[str] = set()
        self.paid: set[str] = set()

    def fetch(self, spec: RunConfig, shown: Sequence[int], finder: NearestClassFinder) -> None:
        """See `Engine`. Raises ConfigError without Ray, TlacError where the cluster can't be had or fails."""
        found = merge_left_behind(self._store, self._retry)
        if found:
            self._policy.on_message(f"Ray: {found:,} answers of a run that was cut short are stored now")
        ray = connect(self._address, self._parallelism)
        self._stopped = None
        self.paid.clear()
        with new_run_folder(self._store.path) as folder:
            try:
                self._run(ray, _Job(spec, tuple(shown), folder, count_workers(ray, self._parallelism)))
            finally:
                merged = merge_logs(self._store, folder, self._retry)
                self.paid |= merged.keys
                self._had |= merged.keys
                self._failures = merged.failures
        if self._stopped is not None and not _ends_asking(self._stopped):
            raise replace(self._stopped, text=f"in a worker of the cluster: {self._stopped.text}").to_error()
        if folder.results.exists():
            self._policy.on_message(f"Ray: what was said is in {folder.results} as parquet too")

    def rest(self, backend: Backend) -> LMM:
        """See `Engine`. A pack's answers are read from the pack. Raises ConfigError, also for a key that is
        missing here: it has to be in the environment of driver and workers."""
        lmm = open_lmm(backend)
        if backend.spec.adapter == "pack":
            return lmm
        restrain(lmm, backend, self._policy)
        return _Asked(self._recall)

    def _recall(self, key: str) -> LMMResponse:
        """What the cluster was answered by an earlier run of this command, which is not asked again; else why not."""
        response = self._store.get_response(key) if key in self._had else None
        if response is not None:
            return response
        if key in self._failures:
            raise self._failures[key].to_error()
        if self._stopped is not None:
            raise PermanentError(self._stopped.text)
        raise SampleError("not asked by the cluster: run the same command with --engine local")

    def _run(self, ray: Any, job: _Job) -> None:
        asked = {digest: shared_by(backend, job.workers) for digest, backend in backends_of(job.spec).items()}
        order = RayJob(
            without_samples(job.spec),
            job.shown,
            job.folder.logs,
            self._policy.concurrency or max(backend.spec.limits.concurrency for backend in asked.values()),
            self._policy.retry,
        )
        samples = choose_samples(job.spec.dataset, job.spec.limit, job.spec.seed)
        with translated(ray), self._actors(ray, asked) as actors, self._watched(ray, actors[0], len(samples)):
            pool = _pool(ray, job.workers, any(is_in_process(backend) for backend in asked.values()))
            arguments = {"fn_constructor_args": (order, *actors), "batch_format": "pyarrow", "batch_size": None, **pool}
            shards = write_samples(samples, job.folder.samples, len(samples), job.workers)
            # a block for each: Ray's own reader would put small files into one block, and all work on one worker
            listed = ray.data.from_items([{SHARD: str(path)} for path in shards], override_num_blocks=len(shards))
            listed.map_batches(Stage1Worker, **arguments).write_parquet(str(job.folder.turns))
            put_off = _count_put_off(job.folder)
            if not put_off:
                # where nobody could be asked, nothing is written
                if job.folder.turns.exists():
                    job.folder.turns.replace(job.folder.results)
                return
            parts = max(2 * job.workers, -(-put_off // _ROWS_A_GROUP))
            turns = ray.data.read_parquet(str(job.folder.turns)).repartition(parts, keys=[GROUP])
            turns.map_batches(Stage2Worker, **arguments).write_parquet(str(job.folder.results))

    @contextmanager
    def _actors(self, ray: Any, asked: dict[str, Backend]) -> Iterator[tuple[Any, Any]]:
        """The limiter and the store's reader, on the driver's machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        budget = self._policy.budget
        terms = Terms(
            budget.cap_usd if budget else None,
            budget.spent_usd if budget else 0.0,
            self._policy.concurrency,
            self._policy.breaker,
        )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        settings = {"num_cpus": 0, "scheduling_strategy": here}
        limiter = ray.remote(Limiter).options(max_concurrency=100_000, **settings).remote(asked, terms)
        paid = self._had if self._retry else ()
        reader = ray.remote(StoreReader).options(**settings).remote(self._store.path, self._retry, paid)
        try:
            yield limiter, reader
        finally:
            self._note(ray.get(limiter.progress.remote()))
            ray.kill(limiter)
            ray.kill(reader)

    def _note(self, progress: Progress) -> None:
        self._stopped = progress.stopped
        if self._policy.budget is not None:
            self._policy.budget.settle(0.0, progress.spent_usd - self._policy.budget.spent_usd)

    @contextmanager
    def _watched(self, ray: Any, limiter: Any, total: int) -> Iterator[None]:
        """Tell how far the run is while the block lasts."""
        is_over = threading.Event()

        def watch() -> None:
            told, waited_s = Progress(), 0.0
            while not is_over.wait(_LOOK_EVERY_S):
                try:
                    found: Progress = ray.get(limiter.progress.remote())
                except ray.exceptions.RayError:
                    return
                for line in found.lines:
                    self._policy.on_message(line)
                waited_s += _LOOK_EVERY_S
                if waited_s >= _TELL_EVERY_S and (found.samples, found.calls) != (told.samples, told.calls):
                    # a worker that was killed has told of some samples that it asks about again
                    done = min(found.samples, total)
                    self._policy.on_message(f"Ray: {done:,} of {total:,} samples, {found.calls:,} calls")
                    told, waited_s = found, 0.0

        watcher = threading.Thread(target=watch, name="tlac-ray-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()


@dataclass(frozen=True, slots=True)
class _Job:
    """One run's work: its spec, the classes as they are shown, its folder, the number of workers."""

    spec: RunConfig
    shown: tuple[int, ...]
    folder: RunFolder
    workers: int


class _Asked:
    """In the place of a backend that the cluster has asked already: what it could not have, nobody asks again."""

    def __init__(self, recall: Callable[[str], LMMResponse]) -> None:
        self._recall = recall

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """What the cluster had, or the error that it met."""
        return self._recall(response_key(request))


def _pool(ray: Any, workers: int, is_local_model: bool) -> dict[str, Any]:
    """How the workers are started: with a share of a GPU where a model runs in them. Ray Data spreads them out."""
    gpus = gpu_share(ray, workers) if is_local_model else 0.0
    return {
        # few wait at a busy worker while others have nothing to do
        "compute": ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        "num_cpus": _WORKER_CPUS,
        **({"num_gpus": gpus} if gpus else {}),
    }


def _count_put_off(folder: RunFolder) -> int:
    import pyarrow.dataset

    if not any(folder.turns.glob("*.parquet")):
        return 0
    turns = pyarrow.dataset.dataset(folder.turns, format="parquet")
    return int(turns.count_rows(filter=pyarrow.dataset.field("chooser").is_valid()))


def _ends_asking(fault: Fault) -> bool:
    """Whether the run is written all the same, incomplete, as a local run is."""
    return isinstance(fault.to_error(), PermanentError)
