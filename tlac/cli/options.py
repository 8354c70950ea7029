"""Options that several commands share: declared once, handed to the command as typed records, listed in sections."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import click

from tlac.errors import StoreError, UsageError
from tlac.runtime.formatting import printable

if TYPE_CHECKING:
    from tlac.cache.store import Store
    from tlac.config.files import Kind
    from tlac.config.schemas import Backend
    from tlac.evaluation.run_config import RunConfig, RunEngine
    from tlac.evaluation.runner import Runner
    from tlac.interfaces import Dataset
    from tlac.lmms.middleware.policy import CallPolicy
    from tlac.types import Outcome

PATH = click.Path(path_type=Path)


class Number(click.FloatRange):
    """A number in a range, which NaN is not: click takes it for one, as it is neither above nor below."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Raises click.BadParameter."""
        if math.isnan(number := super().convert(value, param, ctx)):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


_RUN_FILES = ("run.json", "predictions.jsonl", "predictions", "metrics.json", "calls.jsonl")
_OUTPUTS = ("out", "output")
SHARE = Number(0, 1)


def complete(kind: Kind | Literal["method"]) -> Callable[..., list[str]]:
    """What the shell offers for an option that takes a name of that kind."""

    def names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        if kind == "method":
            from tlac.config.registry import list_plugins

            known = list_plugins("tlac.methods")
        else:
            from tlac.config.files import list_names

            known = list_names(kind)
        return [name for name in known if name.startswith(incomplete)]

    return names


_METHODS = (
    "slac, tlac, tlac-shortlist, tlac-relook, tlac-cascade, slac-fused, wdys, vote or clip, with options as in "
    "tlac-shortlist:k=40"
)
store_option = click.option(
    "--store",
    type=PATH,
    help="Folder of stored answers.  [default: TLAC_CACHE_DIR, else the platform's cache folder]",
)
encoder_option = click.option(
    "--encoder",
    default="clip-vit-b-16",
    show_default=True,
    shell_complete=complete("encoder"),
    help="Text encoder: a name, a YAML file, open_clip:MODEL/WEIGHTS or sentence_transformers:NAME.",
)
matching_option = click.option(
    "--matching", default="ladder", show_default=True, help="How an answer becomes a class: ladder or paper."
)
template_option = click.option(
    "--template", default="a photo of a {}", show_default=True, help="Prompt template of the text encoder."
)
prompts_option = click.option(
    "--prompts",
    default="default",
    show_default=True,
    shell_complete=complete("prompts"),
    help="Prompt set: a name or a YAML file.",
)
hints_option = click.option(
    "--hints",
    default="0",
    metavar="N[:spread]",
    help="Show N of the class names in stage 1, drawn at random or spread over the list, so that it answers in their "
    "words.",
)
classes_option = click.option(
    "--classes",
    required=True,
    help='Class names, "red car, old car"; a text file with one a line; CSV with a column `name`; JSON or YAML, also '
    "with descriptions and aliases.",
)
backends_option = click.option(
    "--backend",
    "backends",
    multiple=True,
    shell_complete=complete("backend"),
    help="LMM to ask; may be repeated.",
)
stage2_backend_option = click.option(
    "--stage2-backend",
    shell_complete=complete("backend"),
    help="LMM of the second stage.  [default: that of the first]",
)
root_option = click.option("--data", "root", type=PATH, help="Folder that holds the datasets' folders.")
split_option = click.option("--split", default="all", show_default=True, help="Classes: all, base or novel.")
subset_option = click.option(
    "--subset", type=click.Choice(["test", "val", "train"]), default="test", show_default=True, help="Images."
)
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Take this many samples, drawn at random.")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of that draw.")
concurrency_option = click.option(
    "--concurrency", type=click.IntRange(min=1), help="Calls in flight.  [default: the backend's own]"
)
max_cost_option = click.option("--max-cost", type=Number(min=0), help="Hard cap in USD on what this command spends.")
budget_option = click.option(
    "--budget-per-image",
    type=Number(min=0),
    metavar="USD",
    help="The most that an image may cost, as far as can be reckoned: chooses k and relook of tlac-cascade.",
)
batch_option = click.option(
    "--batch", is_flag=True, help="Ask through the provider's batch interface: half the price, answers within a day."
)
offline_option = click.option("--offline", is_flag=True, help="Ask nobody: use stored answers alone.")
out_option = click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Folder of run folders.")
abstain_option = click.option("--abstain-below", type=SHARE, help="Give no class where confidence is lower.")
calibration_option = click.option("--calibration", type=PATH, help="Confidence as `tlac calibrate` learnt it.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


class SectionedCommand(click.Command):
    """A command whose --help lists options under the headings that `section` gave them, the rest last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Command."""
        headings: dict[str, str] = getattr(self.callback, "headings", {})
        listed: dict[str, list[tuple[str, str]]] = {heading: [] for heading in [*headings.values(), "Other options"]}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (row := param.get_help_record(ctx)):
                listed[headings.get(param.name or "", "Other options")].append(row)
        for heading, rows in listed.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def section(heading: str, record: type, parameter: str) -> Callable[..., Any]:
    """Add the options in the annotations of a dataclass to a command, under a heading of --help.

    The command gets their values as one `record` for `parameter`.
    """
    declared = {name: one.__metadata__[0] for name, one in get_type_hints(record, include_extras=True).items()}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(**given: Any) -> Any:
            return command(**{parameter: record(**{name: given.pop(name) for name in declared})}, **given)

        vars(call)["headings"] = dict.fromkeys(declared, heading) | getattr(command, "headings", {})
        for option in reversed(declared.values()):
            option(call)
        return call

    return decorate


@dataclass(frozen=True, slots=True)
class LabelSelection:
    """Which images are labelled with which classes by whom. Names as they were typed."""

    classes: Annotated[str, classes_option]
    describe: Annotated[
        str | None,
        click.option("--describe", metavar="TEXT", help='What the images are, "industrial parts on a conveyor".'),
    ]
    backends: Annotated[tuple[str, ...], backends_option]
    stage2_backend: Annotated[str | None, stage2_backend_option]
    method: Annotated[
        str,
        click.option(
            "--method",
            default="tlac",
            show_default=True,
            shell_complete=complete("method"),
            help=f"{_METHODS}.",
        ),
    ]
    anywhere: Annotated[
        bool, click.option("--anywhere", is_flag=True, help="Take images that a list names outside of its folder.")
    ]
    limit: Annotated[int | None, limit_option]
    seed: Annotated[int, seed_option]


@dataclass(frozen=True, slots=True)
class RunSelection:
    """What to run: who is asked how about which images. Names as they were typed."""

    backends: Annotated[tuple[str, ...], backends_option]
    stage2_backend: Annotated[str | None, stage2_backend_option]
    datasets: Annotated[
        tuple[str, ...],
        click.option(
            "--dataset",
            "datasets",
            multiple=True,
            shell_complete=complete("dataset"),
            help="Dataset, or folder:PATH, csv:FILE, hf:REPO; may be repeated.",
        ),
    ]
    suites: Annotated[
        tuple[str, ...],
        click.option(
            "--suite",
            "suites",
            multiple=True,
            shell_complete=complete("suite"),
            help="Suite of datasets; gives split and methods too.",
        ),
    ]
    methods: Annotated[
        tuple[str, ...],
        click.option(
            "--method",
            "methods",
            multiple=True,
            shell_complete=complete("method"),
            help=f"{_METHODS}; may be repeated.  [default: tlac, or the suite's]",
        ),
    ]
    root: Annotated[Path | None, root_option]
    splits: Annotated[
        tuple[str, ...],
        click.option(
            "--split",
            "splits",
            multiple=True,
            help="Classes: all, base or novel; base and novel together give H.  [default: all, or the suite's]",
        ),
    ]
    subset: Annotated[str, subset_option]
    limit: Annotated[int | None, limit_option]
    seed: Annotated[int, seed_option]


@dataclass(frozen=True, slots=True)
class MatchingOptions:
    """The words of prompts and classes, and how an answer becomes a class."""

    prompts: Annotated[str, prompts_option]
    hints: Annotated[str, hints_option]
    shuffle_classes: Annotated[
        int | None,
        click.option("--shuffle-classes", type=int, metavar="SEED", help="Class names in stage 2 in a shuffled order."),
    ]
    encoder: Annotated[str, encoder_option]
    template: Annotated[str, template_option]
    matching: Annotated[str, matching_option]
    aliases: Annotated[
        Path | None, click.option("--aliases", type=PATH, help="YAML file of further names: class: [name, ...].")
    ]
    calibration: Annotated[Path | None, calibration_option]
    abstain_below: Annotated[float | None, abstain_option]

    def config_maker(
        self, limit: int | None = None, seed: int = 0
    ) -> Callable[[Backend | None, Backend | None, Dataset, str], RunConfig]:
        """Read all that several runs share, once; what it gives makes the config of one run."""
        from tlac.config.files import read_aliases
        from tlac.config.prompts import load_prompts, with_hints
        from tlac.config.schemas import load_encoder_config
        from tlac.evaluation.run_config import RunConfig
        from tlac.results.calibration import read_calibration
        from tlac.scoring.matching import find_rule

        return functools.partial(
            RunConfig,
            encoder=load_encoder_config(self.encoder),
            prompts=load_prompts(with_hints(self.prompts, self.hints)),
            # refused before a dataset is opened, which may take long
            matching=find_rule(self.matching).name,
            template=check_template(self.template),
            limit=limit,
            seed=seed,
            shuffle_classes=self.shuffle_classes,
            aliases=read_aliases(self.aliases) if self.aliases else {},
            abstain_below=self.abstain_below,
            calibration=read_calibration(self.calibration) if self.calibration else None,
        )


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How LMMs are asked, and at most for how much."""

    concurrency: Annotated[int | None, concurrency_option]
    max_cost: Annotated[float | None, max_cost_option]
    budget_per_image: Annotated[float | None, budget_option]
    retry: Annotated[
        tuple[str, ...],
        click.option(
            "--retry", type=click.Choice(["refused", "empty", "truncated"]), multiple=True, help="Ask these again."
        ),
    ]
    offline: Annotated[bool, offline_option]
    batch: Annotated[bool, batch_option]
    engine: Annotated[
        str,
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Ask from this process, or from the workers of a Ray cluster (extra: tlac[ray]).",
        ),
    ]
    ray_address: Annotated[
        str | None,
        click.option(
            "--ray-address", metavar="ADDRESS", help="Ray cluster to join, such as auto.  [default: start one here]"
        ),
    ]
    parallelism: Annotated[
        int | None,
        click.option("--parallelism", type=click.IntRange(min=1), help="Ray workers.  [default: one for each CPU]"),
    ]

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes that are asked again."""
        from tlac.types import Outcome

        return [Outcome(name) for name in self.retry]

    def open_runner(self, store: Store, policy: CallPolicy, is_order_tried: bool = False) -> Runner:
        """The runner that asks as these options say. Raises UsageError for options that don't go together."""
        from tlac.evaluation.runner import Runner

        if self.batch and self.offline:
            raise UsageError("--batch asks the provider, and --offline asks nobody: leave one out")
        is_ray = self.engine == "ray"
        if not is_ray and (self.ray_address or self.parallelism):
            raise UsageError("--ray-address and --parallelism belong to --engine ray: add it, or leave them out")
        if is_ray and self.batch:
            raise UsageError("--engine ray and --batch are two ways to ask: choose one")
        if (is_ray or self.batch) and is_order_tried:
            raise UsageError("--order-trials asks from this process: run it by itself, after --engine ray or --batch")
        engine: RunEngine | None = None
        if is_ray:
            from tlac.engines.ray.engine import RayEngine

            engine = RayEngine(store, policy, self.ray_address, self.parallelism, self.outcomes)
        elif self.batch:
            from tlac.engines.batch.engine import BatchEngine

            engine = BatchEngine(store, policy, self.outcomes)
        return Runner(store, self.offline, policy, self.outcomes, engine)


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """One backend, dataset and method, of which the store is asked what it holds."""

    backend: Annotated[
        str | None, click.option("--backend", shell_complete=complete("backend"), help="LMM that is asked.")
    ]
    dataset: Annotated[
        str | None,
        click.option("--dataset", shell_complete=complete("dataset"), help="Dataset that it is asked about."),
    ]
    method: Annotated[
        str,
        click.option(
            "--method", default="tlac", show_default=True, shell_complete=complete("method"), help="A method that asks."
        ),
    ]
    root: Annotated[Path | None, root_option]

    def open(self, scoring: MatchingOptions, store: Path | None) -> RunConfig:
        """The run that would ask. Raises UnknownNameError, ConfigError, InputError; UsageError for lack of a name."""
        from tlac.config.registry import open_dataset
        from tlac.config.schemas import load_dataset_config

        if self.backend is None or self.dataset is None:
            raise UsageError("name a --backend and a --dataset")
        backend = load_served(self.backend, store, is_offline=True)
        dataset = open_dataset(load_dataset_config(self.dataset, self.root))
        return scoring.config_maker()(backend, backend, dataset, self.method)


selection_options = section("What to run", RunSelection, "what")
label_options = section("What to label", LabelSelection, "what")
matching_options = section("Prompts and scoring", MatchingOptions, "scoring")
call_options = section("Calls and cost", CallOptions, "calls")
question_options = section("What is asked", StoredQuestion, "question")


def fit_budget(config: RunConfig, budget_usd: float | None, store: Store, is_batch: bool) -> RunConfig:
    """As `tlac.evaluation.estimate.fit_budget`, and say on stderr what was chosen; the same config without a budget."""
    if budget_usd is None:
        return config
    from tlac.evaluation.estimate import describe_steps, fit_budget

    fitted = fit_budget(config, budget_usd, store, is_batch)
    steps = {step: usd for step, usd in fitted.budget_per_image.items() if step != "budget"}
    say(
        f"{fitted.backend_name} on {fitted.dataset.name}: {fitted.method}; an image costs up to {describe_steps(steps)}"
    )
    return fitted


def check_template(template: str) -> str:
    """The template, if it has a place for the text. Raises click.BadParameter."""
    if any("{}" not in part for part in template.split("|")):
        raise click.BadParameter(f"{template!r} must hold {{}} where the text goes", param_hint="--template")
    return template


def refuse_input(out: Path) -> None:
    """Raise UsageError where the running command would write over a file that it was given to read, by whatever name,
    or where `out` is called an image or like a run's own files beside these."""
    from tlac.images import IMAGE_SUFFIXES

    if out.name in {"", ".."}:
        raise UsageError(f"-o {out}: is a folder of yours: name a file, or a new folder, in it")
    if os.path.realpath(out) in {os.path.realpath(name) for name in _given_names()}:
        raise UsageError(f"{out}: is an input, and would be overwritten: choose another -o")
    is_shard = out.parent.name == "predictions" and (out.parents[1] / "run.json").is_file()
    if is_shard or (out.name in _RUN_FILES and (out.parent / "run.json").is_file()):
        raise UsageError(f"{out}: belongs to the run in that folder: choose another -o")
    if out.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"{out}: is the name of an image: choose another -o")


def _given_names() -> Iterator[str]:
    """What may be the name of a file in all that the running command was given, but for its own output.

    Backends, datasets and prompts stand as KIND:FILE, FILE#NAME or FILE:OPTIONS too.
    """
    for name, value in click.get_current_context().params.items():
        for text in value if isinstance(value, tuple) else (value,):
            if name not in _OUTPUTS and isinstance(text, (str, Path)):
                whole = str(text).partition("#")[0]
                yield from filter(None, (whole, whole.partition(":")[2], whole.rpartition(":")[0]))


def open_store(path: Path | None, makes_one: bool = True) -> Store:
    """The store in that folder or the default one; what it had to repair is said on stderr.

    Raises StoreError where there is none and it `makes_one` only where answers are about to come.
    """
    from tlac.cache.store import Store, store_folder

    if not makes_one and path is not None and not os.path.isdir(path):  # noqa: PTH112 - is_dir raises for a long name
        raise StoreError(f"{path}: no store there; `tlac cache path` prints the default one")
    store = Store(path or store_folder(), on_warning=say)
    for warning in store.warnings:
        say(warning)
    return store


def load_served(name: str, store: Path | None, is_offline: bool, *, asks_server: bool = True) -> Backend:
    """The backend of that name with what its server serves, where that is one of your own; as the last run found it
    where nobody `asks_server`. `store` as in `open_store`."""
    from tlac.cache.store import store_folder
    from tlac.config.schemas import load_backend
    from tlac.lmms.served import with_served_revision

    backend = load_backend(name, is_offline)
    return with_served_revision(backend, store or store_folder(), is_offline or not asks_server)


def open_policy(max_cost: float | None, concurrency: int | None = None, has_view: bool = False) -> CallPolicy:
    """How calls are looked after; what it has to say goes to stderr, but for waits where a live view shows them."""
    from tlac.lmms.middleware.budget import Budget
    from tlac.lmms.middleware.policy import CallPolicy, say_nothing

    policy = CallPolicy(Budget(max_cost) if max_cost is not None else None, concurrency, on_message=say)
    if has_view:
        policy.activity.on_message = say_nothing
    return policy


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print text in which names from files and servers may stand: no control code or direction mark of theirs."""
    click.echo("\n".join(map(printable, str(text).split("\n"))), err=err, nl=nl)


def say(text: str) -> None:
    """A message on stderr."""
    echo(f"tlac: {text}", err=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout. What is not printable is escaped in it, so that nothing is lost."""
    lines = json.dumps(document, ensure_ascii=False, indent=2).split("\n")
    click.echo("\n".join("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line) for line in lines))


def print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns, the last of which is as long as it likes: a name and what it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
