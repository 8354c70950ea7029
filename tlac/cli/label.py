"""`tlac label`: images without labels become a file of labels."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli import options
from tlac.cli.options import PATH, echo, load_served, open_policy, open_store, print_json, refuse_input, say
from tlac.errors import IncompleteRunError, MissingAnswersError, TlacError, UsageError
from tlac.runtime.formatting import dollars

if TYPE_CHECKING:
    from tlac.analysis.review import Merged
    from tlac.cache.store import Store
    from tlac.cli.progress import LiveView
    from tlac.evaluation.estimate import Estimate
    from tlac.evaluation.label import Labelling
    from tlac.evaluation.run_config import RunConfig
    from tlac.results.labels import Label
    from tlac.runtime.spooled_list import SpilledList

# what is spent without asking
_ASK_ABOVE_USD = 1.0
_MOST_REASONS = 5


@click.command(cls=options.SectionedCommand)
@click.argument("inputs", nargs=-1, required=True)
@options.label_options
@options.matching_options
@options.call_options
@click.option("--yes", is_flag=True, help="Spend more than a dollar without asking.")
@options.store_option
@click.option("-o", "--output", "out", type=PATH, help="File, or folder of links, to write.  [default: labels.csv]")
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    help="csv, parquet, jsonl, label-studio, fiftyone, coco, yolo-cls or folder.  [default: as the file's name ends]",
)
@click.option("--corrections", type=PATH, help="CSV file of a person's corrections to put in, from the review page.")
@click.option("--no-review", is_flag=True, help="Write no page for a person to review the labels on.")
@options.json_option
def label(  # noqa: PLR0913, PLR0917 - one parameter per option, or per section of them
    inputs: tuple[str, ...],
    what: options.LabelSelection,
    scoring: options.MatchingOptions,
    calls: options.CallOptions,
    yes: bool,
    store: Path | None,
    out: Path | None,
    kind: str | None,
    corrections: Path | None,
    no_review: bool,
    as_json: bool,
) -> None:
    """Label images that have no labels.

    INPUT is a folder (with all below it), images, a quoted pattern, a list of paths (.txt), a CSV file with a column
    `path`, a URL that fsspec reads (s3://BUCKET/FOLDER), or hf:REPO. Each image gets one row, also where it is broken
    or nobody answered. Rows are written as they are decided, into OUTPUT.part, which becomes OUTPUT at the end. Every
    answer is stored the moment it arrives: the same command goes on where it was stopped, and nothing is asked twice.

    OUTPUT.review.html is a page on which a person looks at the labels, the doubtful ones first. It gives a CSV file of
    corrections: the same command with --corrections FILE puts them in and says how many labels were right.

    What it will take is told first. Before more than a dollar is spent, or an unknown amount, it asks on a terminal;
    elsewhere --yes or a cap (--max-cost) has to say so. Exit codes: 0 complete, 2 usage error, 3 some images failed
    or it was stopped, 4 answers missing under --offline.

    \b
    Examples:
      tlac label photos/ --classes names.txt --backend gemini -o labels.csv --max-cost 5
      tlac label photos/ --classes names.txt --backend gemini -o labels.csv --corrections labels.corrected.csv
      tlac label "photos/**/*.jpg" --classes "bolt, nut" --backend claude --describe "parts on a conveyor"
      tlac label list.csv --classes classes.yaml --backend gpt-4o --format label-studio -o tasks.json
    """
    from tlac.analysis.review import merge_corrections, read_corrections
    from tlac.cli.progress import show_runs
    from tlac.evaluation.label import Labelling
    from tlac.report.review import write_review
    from tlac.results.labels import FOLDERS, FORMATS, Label, default_path, export_labels, is_linkable
    from tlac.runtime.spooled_list import SpilledList

    if kind is not None and kind not in FORMATS:
        raise UsageError(f"--format {kind}: known are {', '.join(FORMATS)}")
    out = out or default_path(kind)
    refuse_input(out)
    _refuse_corrected(out)
    with open_store(store) as opened:
        config = _make_config(inputs, what, scoring, calls.offline, store)
        config = options.fit_budget(config, calls.budget_per_image, opened, calls.batch)
        # a file that can't be used is known before anybody is asked
        images = frozenset(sample.id for sample in config.samples)
        decided = read_corrections(corrections, config.dataset.classes, images) if corrections else {}
        policy = open_policy(calls.max_cost, calls.concurrency, has_view=not as_json)
        runner = calls.open_runner(opened, policy)
        labelling, rows = Labelling(runner, config), SpilledList(Label)
        if not calls.offline and config.backend is not None:
            _agree(config, opened, calls, yes)
        with show_runs(1, calls.max_cost, policy.activity) as view:
            _write(labelling, rows, view, out, kind)
    labels: Sequence[Label] | SpilledList[Label] = rows
    merged = None
    if corrections is not None:
        merged = merge_corrections(rows, corrections, config.dataset.classes)
        labels = merged.labels
        export_labels(labels, out, kind, config.dataset.classes)
    page, complaint = None, None
    if not no_review:
        try:
            page = write_review(
                rows,
                config.dataset.classes,
                out.with_suffix(".review.html"),
                config.samples,
                corrections=decided,
                is_calibrated=config.calibration is not None,
            )
        except TlacError as error:
            # the labels are there: what came of them is told first
            complaint = error
    if kind in FOLDERS and (left := sum(row.label is not None and not is_linkable(row) for row in labels)):
        say(f"{left:,} labelled images are no files on this machine, and have no link in {out}")
    _show(labelling, labels, out, page, merged, as_json)
    _raise_incomplete(labelling)
    if complaint is not None:
        raise complaint


def _refuse_corrected(out: Path) -> None:
    """Raise UsageError for a file of labels into which a person has written corrections."""
    head = b""
    with suppress(OSError):
        if out.is_file():
            with out.open("rb") as file:
                head = file.read(4096).partition(b"\n")[0]
    # without the zeros of UTF-16, as Excel saves it
    if b"corrected_label" in head.replace(b"\0", b""):
        raise UsageError(
            f"{out}: holds a person's corrections, and would be overwritten: give it as --corrections, with another -o"
        )


def _write(labelling: Labelling, rows: SpilledList[Label], view: LiveView, out: Path, kind: str | None) -> None:
    """Label all images and write each row as it is decided; `rows` keeps it too. Raises IncompleteRunError."""
    from tlac.results.labels import export_labels
    from tlac.results.table_files import PART

    config, total = labelling.config, len(labelling.config.samples)

    def kept(labels: Iterator[Label]) -> Iterator[Label]:
        for one in labels:
            rows.put(one)
            yield one

    try:
        with view.cell(f"{config.backend_name} {config.method}", total) as progress:
            export_labels(kept(labelling.rows(progress)), out, kind, config.dataset.classes)
    except KeyboardInterrupt as interrupt:
        labelling.runner.finish()
        raise IncompleteRunError(
            f"stopped after {labelling.count:,} of {total:,} images, whose rows are in {out}{PART}; every answer is "
            "stored, and the same command goes on from there"
        ) from interrupt


def _make_config(
    inputs: tuple[str, ...],
    what: options.LabelSelection,
    scoring: options.MatchingOptions,
    is_offline: bool,
    store: Path | None,
) -> RunConfig:
    """What is asked about which images. Raises TlacError for what can't be used."""
    from tlac.api import check_classes
    from tlac.config.registry import open_method
    from tlac.datasets.text_files import read_classes
    from tlac.datasets.unlabelled import open_images
    from tlac.evaluation.run_config import ClassList
    from tlac.interfaces import ImageMethod, combination_of

    method = open_method(what.method)
    asks_nobody = isinstance(method, ImageMethod)
    if not (what.backends or asks_nobody):
        raise UsageError(f"the method {what.method} asks an LMM: name one, such as --backend embedded")
    if len(what.backends) > 1 and combination_of(method) != "vote":
        raise UsageError(f"the method {what.method} asks one backend: give one, or --method vote")
    given = read_classes(what.classes)
    classes = check_classes(given.names, given.source)
    samples, notes = open_images(inputs, is_offline, what.anywhere)
    for note in notes:
        say(note)

    backends = [load_served(name, store, is_offline) for name in what.backends if not asks_nobody]
    first = backends[0] if backends else None
    second = load_served(what.stage2_backend, store, is_offline) if what.stage2_backend and first else first
    dataset = ClassList(classes, name=" ".join(inputs), images=samples)
    config = scoring.config_maker(what.limit, what.seed)(first, second, dataset, what.method)
    prompts = replace(config.prompts, descriptions=given.descriptions)
    return replace(
        config,
        prompts=prompts if what.describe is None else prompts.about(what.describe),
        aliases={**given.aliases, **config.aliases},
        ensemble=tuple(backends[1:]),
    )


def _agree(config: RunConfig, store: Store, calls: options.CallOptions, is_agreed: bool) -> None:
    """Tell what it will take, and ask before more than a dollar is spent. Raises UsageError without consent."""
    from tlac.cli.estimate import print_estimate
    from tlac.config.registry import base_name
    from tlac.evaluation.estimate import ESTIMATED, PART, estimate_by_part
    from tlac.lmms.prices import is_free

    concurrency, found = calls.concurrency or config.asked[0].spec.limits.concurrency, None
    if base_name(config.method) in ESTIMATED:
        found = estimate_by_part(config, store, concurrency, calls.batch)
        of = f", reckoned from {PART} of them" if len(config.samples) > PART else ""
        say(f"{len(config.samples):,} images{of}")
        print_estimate(found, f"with {concurrency} calls in flight", calls.batch, err=True)
    elif all(is_free(backend.spec) for backend in (*config.asked, *config.ensemble)):
        say(f"{len(config.samples):,} images; cost: $0")
        return
    else:
        say(f"{len(config.samples):,} images; cost: unknown: it can be estimated of {', '.join(ESTIMATED)}")
    amount = _amount_to_ask_about(found)
    if amount is None or is_agreed or calls.max_cost is not None:
        return
    if not _is_on_terminal():
        raise UsageError(f"{amount}: nobody is there to be asked: add --yes, or a cap such as --max-cost 5")
    click.confirm(f"{amount}. Go on?", abort=True, err=True)


def _is_on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _amount_to_ask_about(found: Estimate | None) -> str | None:
    if found is not None and not found.stage1.calls + found.stage2.calls:
        return None
    if found is None or found.cost_usd is None:
        return "this costs an unknown amount"
    return None if found.cost_usd <= _ASK_ABOVE_USD else f"this costs about {dollars(found.cost_usd)}"


def _show(
    labelling: Labelling, rows: Iterable[Label], out: Path, page: Path | None, merged: Merged | None, as_json: bool
) -> None:
    """What came of it, and what is left for a person to do."""

    from tlac.analysis.review import plan_review

    usage = labelling.usage
    plan = plan_review(rows)
    if as_json:
        found: dict[str, Any] = {"output": str(out), "images": labelling.count, "labelled": labelling.labelled}
        found |= {"unlabelled": dict(labelling.reasons.most_common()), "cost_usd": usage.cost_usd}
        found |= {"answers_cost_usd": usage.answers_cost_usd, "doubtful": plan.doubtful, "to_review": plan.sample}
        found |= {"review": None if page is None else str(page)}
        if merged is not None:
            found["corrections"] = {name: value for name, value in asdict(merged).items() if name != "labels"}
        print_json(found)
        return
    echo(f"{out}: {labelling.labelled:,} of {labelling.count:,} images labelled")
    for reason, count in labelling.reasons.most_common(_MOST_REASONS):
        echo(f"  without a label: {count:,}: {reason}")
    if (more := len(labelling.reasons) - _MOST_REASONS) > 0:
        echo(f"  and {more:,} more reasons: see the column reason")
    unknown = "unknown (no price, or no count of tokens)"
    echo(f"cost: {dollars(usage.cost_usd, unknown)} now, {dollars(usage.answers_cost_usd, unknown)} for all answers")
    echo(plan if merged is None else merged)
    if page is not None:
        echo(f"review: {page}")


def _raise_incomplete(labelling: Labelling) -> None:
    """Raise what the exit code is, where a sample failed."""
    failures: Counter[str] = labelling.failures
    failed = sum(failures.values())
    if failures["missing"]:
        raise MissingAnswersError(f"answers for {failures['missing']:,} of {labelling.count:,} images are missing")
    if failed:
        again = "" if failed == failures["sample"] else "; the same command asks for what is missing"
        raise IncompleteRunError(f"{failed:,} of {labelling.count:,} images failed{again}")
