"""Plans and runs a matrix of backends x datasets x methods. A cell that fails leaves the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tlac.config.registry import open_dataset
from tlac.config.schemas import Backend, DatasetConfig, EncoderConfig, Suite, load_dataset_config
from tlac.errors import IncompleteRunError, TlacError, UnknownNameError
from tlac.evaluation.collect import INTERRUPTED, CollectProgress
from tlac.evaluation.reuse import Finished
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.interfaces import Dataset, notes_of
from tlac.results.record import Cell, Run
from tlac.results.usage import Calls, StageCalls, Tokens
from tlac.scoring.predictions import OUTCOMES
from tlac.types import Outcome


class RunsView(Protocol):
    """What the runs of a matrix report to."""

    def go_on(self, place: int) -> None:
        """The first `place` runs are done."""
        ...

    def cell(self, title: str, total: int) -> AbstractContextManager[CollectProgress]:
        """What one run of `total` samples reports to."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run: `parts` name suite, dataset, split and methods, in the order of the results.

    `without_lmm` are the methods that ask no backend, `together` those that ask all of them in one run. `root` and
    `subset` are those of all datasets.
    """

    parts: tuple[tuple[str | None, str, str, tuple[str, ...]], ...]
    backends: tuple[Backend, ...]
    stage2_backend: Backend | None
    without_lmm: frozenset[str]
    root: Path | None
    subset: str
    together: frozenset[str] = frozenset()


def plan_parts(
    datasets: Sequence[str], suites: Sequence[Suite], splits: Sequence[str], methods: Sequence[str]
) -> tuple[tuple[str | None, str, str, tuple[str, ...]], ...]:
    """The datasets by themselves, then those of each suite; `splits` and `methods` go before a suite's own."""
    alone = [(None, name, split, tuple(methods) or ("tlac",)) for split in splits or ("all",) for name in datasets]
    together = [
        (suite.name, name, split, tuple(methods) or suite.spec.methods)
        for suite in suites
        for split in splits or (suite.spec.split,)
        for name in suite.spec.datasets
    ]
    return (*alone, *together)


@dataclass(slots=True)
class Matrix:
    """Runs the cells of a plan, each once. `make_spec` knows all that the cells share.

    With `finished`, a suite's cell that is complete there under the same spec is taken as it is. `on_run` is given each
    run that was made, `on_message` what is to be said meanwhile.
    """

    runner: Runner
    plan: Plan
    make_spec: Callable[[Backend | None, Backend | None, Dataset, str], RunConfig]
    encoder: EncoderConfig
    out: Path
    finished: Finished | None = None
    retry: Sequence[Outcome] = ()
    show_runs: Callable[[int], AbstractContextManager[RunsView]] | None = None
    on_run: Callable[[Run, RunConfig], None] = lambda run, config: None
    on_message: Callable[[str], None] = lambda text: None
    _opened: dict[tuple[str, str], Dataset | TlacError] = field(default_factory=dict)
    _done: dict[tuple[str, str, str, str], Cell] = field(default_factory=dict)
    _broken: dict[str, TlacError] = field(default_factory=dict)
    _aliases: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    def check(self) -> None:
        """Know before anything is asked which backends and datasets can't be had.

        Raises the complaint where no backend is left, and UnknownNameError for a name that nothing answers to.
        """
        for backend in (*self.plan.backends, *([self.plan.stage2_backend] if self.plan.stage2_backend else [])):
            try:
                self.runner.bound_lmm(backend)
            except TlacError as error:
                self._broken[backend.name] = error
        stage2 = self.plan.stage2_backend
        is_hopeless = stage2 is not None and stage2.name in self._broken
        if is_hopeless or (self._broken and all(backend.name in self._broken for backend in self.plan.backends)):
            raise next(iter(self._broken.values()))
        for complaint in self._broken.values():
            self.on_message(f"{complaint}; going on without it")
        configs = {(name, split): self._config(name, split) for _, name, split, _ in self.plan.parts}
        for key, config in configs.items():
            self._aliases[config.name] = self._aliases[key[0]] = config.spec.aliases
            try:
                self._opened[key] = open_dataset(config)
            except UnknownNameError:
                raise
            except TlacError as error:
                self._opened[key] = error
        noted = {
            f"{dataset.name}: {note}": None
            for dataset in self._opened.values()
            if not isinstance(dataset, TlacError)
            for note in notes_of(dataset)
        }
        for note in noted:
            self.on_message(note)

    def _config(self, name: str, split: str) -> DatasetConfig:
        config = load_dataset_config(name, self.plan.root, split, self.plan.subset)
        return replace(config, is_offline=self.runner.is_offline)

    def run(self) -> list[Cell]:
        """Run cell by cell under one live view. Raises IncompleteRunError when interrupted."""
        if self.show_runs is None:
            return list(self._run_all(None))
        with self.show_runs(len(list(self._places()))) as view:
            return list(self._run_all(view))

    def _run_all(self, view: RunsView | None) -> Iterator[Cell]:
        for number, (suite, name, split, backend, method) in enumerate(self._places()):
            if view is not None:
                view.go_on(number)
            opened = self._opened[name, split]
            shown = self._shown(backend, method)
            cell = Cell(suite, name, self._label(split), shown, method)
            if isinstance(opened, TlacError):
                yield replace(cell, error=opened)
            elif broken := next((self._broken[part] for part in shown.split("+") if part in self._broken), None):
                yield replace(cell, error=broken)
            else:
                yield self._run_once(cell, backend, opened, view)

    def _places(self) -> Iterator[tuple[str | None, str, str, Backend | None, str]]:
        """Suite, dataset, split, backend and method of every cell, in the order of the results."""
        for suite, name, split, methods in self.plan.parts:
            yield from ((suite, name, split, backend, method) for backend, method in self._columns(methods))

    def _shown(self, backend: Backend | None, method: str) -> str:
        if backend is None:
            return self.encoder.name
        asked = self.plan.backends if method in self.plan.together else (backend,)
        return "+".join(one.name for one in asked)

    def _label(self, split: str) -> str:
        """The split as results name it; CoOp says "new" for "novel"."""
        name = "novel" if split == "new" else split
        return name if self.plan.subset == "test" else f"{name}/{self.plan.subset}"

    def _columns(self, methods: Sequence[str]) -> Iterator[tuple[Backend | None, str]]:
        alone = [name for name in methods if name not in self.plan.without_lmm | self.plan.together]
        for backend in self.plan.backends:
            yield from ((backend, method) for method in alone)
        yield from ((self.plan.backends[0], method) for method in methods if method in self.plan.together)
        yield from ((None, method) for method in methods if method in self.plan.without_lmm)

    def _run_once(self, cell: Cell, backend: Backend | None, dataset: Dataset, view: RunsView | None) -> Cell:
        key = (cell.dataset, cell.split, cell.backend, cell.method)
        if key not in self._done:
            stage2 = None if backend is None else self.plan.stage2_backend or backend
            try:
                spec = self.make_spec(backend, stage2, dataset, cell.method)
            except TlacError as error:
                return replace(cell, error=error)
            # what a dataset's file says of its names holds for that dataset; --aliases goes on top
            aliases = {**self._aliases.get(cell.dataset, {}), **spec.aliases}
            ensemble = self.plan.backends[1:] if cell.method in self.plan.together else ()
            self._done[key] = self._run(cell, replace(spec, aliases=aliases, ensemble=ensemble), view)
        return replace(self._done[key], suite=cell.suite)

    def _run(self, cell: Cell, spec: RunConfig, view: RunsView | None) -> Cell:
        total = min(len(spec.dataset), spec.limit or len(spec.dataset))
        try:
            spec = self.runner.resolve(spec)
            in_suite = self.finished if cell.suite is not None else None
            if in_suite is not None and (found := in_suite.find(spec, self.retry)) is not None:
                return replace(cell, run=_as_free(found), is_reused=True)
            with view.cell(cell.title, total) if view is not None else nullcontext() as progress:
                run = self.runner.run(spec, self.out, progress)
            self.on_run(run, spec)
        except KeyboardInterrupt as interrupt:
            self.runner.finish()
            raise IncompleteRunError(_stopped_in(cell)) from interrupt
        except TlacError as error:
            # calls in flight are paid for
            self.runner.finish()
            return replace(cell, error=error)
        if run.record.stopped == INTERRUPTED:
            raise IncompleteRunError(f"{_stopped_in(cell)}; {run.folder} holds what there is")
        return replace(cell, run=run)


def _stopped_in(cell: Cell) -> str:
    return f"stopped in {cell.title}; every answer so far is stored, and the same command goes on from there"


def _as_free(run: Run) -> Run:
    """A run that was there before, with what it took this time: no call."""
    calls = run.record.calls
    record = replace(
        run.record,
        calls=Calls(
            StageCalls(0, calls.stage1.asked + calls.stage1.from_store),
            StageCalls(0, calls.stage2.asked + calls.stage2.from_store),
        ),
        tokens=Tokens(),
        cost_usd=0.0,
        wall_s=0.0,
    )
    return replace(run, record=record)


def raise_worst(cells: Sequence[Cell], on_message: Callable[[str], None]) -> None:
    """Say what went wrong in which cells; the last, with the highest exit code, is raised."""
    groups: dict[str, tuple[TlacError, list[str]]] = {}
    for cell in cells:
        error = _complaint(cell)
        if error is not None:
            groups.setdefault(str(error), (error, []))[1].append(cell.title)
    found = sorted(groups.values(), key=lambda group: group[0].exit_code)
    for error, titles in found[:-1]:
        on_message(_describe(error, titles))
    if found:
        error, titles = found[-1]
        if len(cells) == 1:
            raise error
        worst = TlacError(_describe(error, titles))
        worst.exit_code = error.exit_code
        raise worst from error


def _describe(error: TlacError, titles: Sequence[str]) -> str:
    # which names its cell
    if isinstance(error, IncompleteRunError):
        return str(error)
    distinct = list(dict.fromkeys(titles))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return f"no result for {', '.join(distinct[:3])}{more}: {error}"


def _complaint(cell: Cell) -> TlacError | None:
    if cell.error is not None or cell.run is None:
        return cell.error
    record = cell.run.record
    if record.is_complete:
        return None
    again = "the same command asks for what is missing"
    if not cell.run.metrics.failed:
        trials = record.order_trials.failed if record.order_trials else 0
        return IncompleteRunError(
            f"{cell.title} is incomplete: {trials} samples lack a choice in another order; {again}"
        )
    return IncompleteRunError(f"{cell.title} is incomplete: {describe_failures(cell.run)}; {again}")


def describe_failures(run: Run) -> str:
    """How many samples of an incomplete run failed, and why asking ended or the first of them did."""
    first = run.predictions[int(np.argmax(run.predictions.outcome == OUTCOMES.index(Outcome.FAILED)))]
    reason = run.record.stopped or f"{first.sample}: {first.reason}"
    return f"{run.metrics.failed} of {run.metrics.n} samples failed ({reason})"


def failures_document(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells without a complete result as `--json` prints them."""
    return [
        {
            "suite": cell.suite,
            "dataset": cell.dataset,
            "split": cell.split,
            "backend": cell.backend,
            "method": cell.method,
            "error": str(error),
        }
        for cell in cells
        if (error := _complaint(cell)) is not None
    ]
