"""`tlac cache`: look at, check, prune and exchange the stored answers."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from tlac.cli import options
from tlac.cli.options import PATH, echo, open_store, print_json, refuse_input
from tlac.errors import InputError, StoreError, UnknownNameError, UsageError
from tlac.runtime.formatting import dollars

if TYPE_CHECKING:
    from tlac.cache.pack import PromptsRecord
    from tlac.cache.select import Selection
    from tlac.cache.store import Store
    from tlac.interfaces import Dataset
    from tlac.types import Sample


_SHOWN_CONFLICTS = 10


@click.group()
def cache() -> None:
    """Look at, check, prune and exchange the stored answers."""


@cache.command("export", cls=options.SectionedCommand)
@click.argument("run", required=False, type=PATH)
@options.question_options
@options.matching_options
@click.option("--all", "everything", is_flag=True, help="Every stored answer.")
@click.option(
    "-o",
    "--output",
    required=True,
    help="FILE.jsonl or FILE.jsonl.zst, or an address of one: hf://datasets/ORG/REPO/FILE.",
)
@click.option("--provenance", help="Where the answers come from, in words that a stranger understands.")
@click.option("--with-embeddings", is_flag=True, help="Add the stored text embeddings.")
@options.store_option
def export_answers(
    run: Path | None,
    question: options.StoredQuestion,
    scoring: options.MatchingOptions,
    output: str,
    provenance: str | None,
    store: Path | None,
    **flags: bool,
) -> None:
    """Write stored answers to a response pack: those of a RUN, of a --backend, of a backend on a --dataset, or --all.

    A pack is text. It holds requests without images, responses, usage and model versions, and never a key.
    --backend pack:FILE replays it; where it holds answers that were asked in several ways, pack:FILE#NAME one of them.
    An address is whatever fsspec writes to; for hf:// the repository is there, and HF_TOKEN may write to it.

    \b
    Examples:
      tlac cache export runs/20300101-120000-caltech101-gemini-tlac -o caltech101.jsonl.zst
      tlac cache export --backend gemini --dataset cifar10-samples -o cifar10.jsonl.zst --with-embeddings
      tlac cache export --all -o everything.jsonl.zst
      tlac cache export runs/20300101-120000-dtd-gemini-tlac -o hf://datasets/ours/tables/dtd.jsonl.zst
    """
    from tlac.cache.pack import export_pack
    from tlac.cache.remote_pack import push_pack
    from tlac.runtime.safe_files import is_url

    if [run is not None, question.backend is not None, flags["everything"]].count(True) != 1:
        raise UsageError("name a run folder, a --backend, or --all: one of the three")
    is_remote = is_url(output)
    if not is_remote:
        refuse_input(Path(output))
    with open_store(store, makes_one=False) as opened, TemporaryDirectory() as folder:
        selection, prompts, origin = _selection(opened, run, question, scoring)
        embeddings = None if flags["with_embeddings"] else ()
        path = Path(folder, Path(output).name) if is_remote else Path(output)
        manifest = export_pack(opened, path, selection, provenance or origin, prompts, embeddings)
        place = push_pack(path, output) if is_remote else output
    of = ", ".join(manifest.ways)
    echo(f"{manifest.answers:,} answers and {manifest.embeddings:,} text embeddings of {of}: {place}")
    if is_remote:
        echo(f"--backend 'pack:{place}' replays just these")


def _selection(
    store: Store, run: Path | None, question: options.StoredQuestion, scoring: options.MatchingOptions
) -> tuple[Selection, PromptsRecord | None, str]:
    """Which answers, asked with which prompts, and where they come from in words."""
    from tlac.cache.pack import PromptsRecord
    from tlac.cache.select import Selection
    from tlac.evaluation.dry_run import dry_run
    from tlac.results.folder import read_record
    from tlac.results.predictions import PREDICTIONS, read_asked

    if run is not None:
        record = read_record(run)
        found = [key for asked in read_asked(run / PREDICTIONS) for key in asked.keys]
        prompts = PromptsRecord(record.prompts, record.digests["prompts"])
        return Selection(keys=frozenset(found)), prompts, f"run {record.run}"
    if question.backend is None:
        return Selection(), None, "all stored answers"
    if question.dataset is None:
        return Selection(backend=question.backend), None, f"all stored answers of {question.backend}"
    asked = question.open(scoring, store.path)
    dataset = asked.dataset
    transcripts, _ = dry_run(asked, dataset, store)
    keys = frozenset(turn.key for transcript in transcripts for turn in transcript.turns)
    if not keys:
        raise InputError(f"the store has no answer of {question.backend} on {dataset.name} with these prompts")
    prompts = PromptsRecord(asked.prompts.name, asked.prompts.digest)
    return Selection(keys=keys), prompts, f"{question.backend} on {dataset.name}, {asked.method}"


@cache.command("import")
@click.argument("file")
@options.store_option
def import_answers(file: str, store: Path | None) -> None:
    """Add the answers of a response pack to the store, once every line of it has been checked.

    FILE is a file, or an address as in --backend pack:ADDRESS. What the store has stays as it is. A pack that answers
    a stored request otherwise is refused as a whole, and the first such requests are listed.

    \b
    Example:
      tlac cache import caltech101.jsonl.zst
    """
    from tlac.cache.pack import import_pack
    from tlac.cache.remote_pack import fetch_pack
    from tlac.runtime.safe_files import is_url

    with open_store(store) as opened:
        found = import_pack(opened, fetch_pack(file)[0] if is_url(file) else Path(file))
        path = opened.path
    for theirs, ours in found.conflicts[:_SHOWN_CONFLICTS]:
        said = [f"{one.outcome}: {' '.join((one.text or one.reason).split())}"[:60] for one in (ours, theirs.response)]
        where = f"{theirs.request['stage']} {theirs.key[:12]}"
        echo(f"{where}: the store says {said[0]!r}, the pack {said[1]!r}", err=True)
    if found.conflicts:
        raise InputError(
            f"{file}: contradicts {len(found.conflicts)} stored answers; nothing was imported: replay it with "
            f"--backend pack:{file}, or import it into another --store"
        )
    echo(
        f"{found.added:,} answers and {found.embeddings_added:,} text embeddings added to {path}; "
        f"{found.present:,} answers were there"
    )


@cache.command("explain", cls=options.SectionedCommand)
@click.argument("sample")
@options.question_options
@options.matching_options
@options.store_option
def explain_sample(
    sample: str, question: options.StoredQuestion, scoring: options.MatchingOptions, store: Path | None
) -> None:
    """Say whether a SAMPLE's answers are stored, and if not, how the nearest stored request differs.

    SAMPLE is an id as in predictions.jsonl.

    \b
    Example:
      tlac cache explain imagenet_00_243.jpg --backend gemini --dataset imagenet-samples
    """
    from tlac.cache.select import explain
    from tlac.evaluation.dry_run import dry_run
    from tlac.hashing import request_document, response_key

    asked = question.open(scoring, store)
    with open_store(store, makes_one=False) as opened:
        (transcript,), missing = dry_run(asked, [_find(sample, asked.dataset)], opened)
        if transcript.failure == "sample":
            raise InputError(transcript.reason)
        for turn in transcript.turns:
            words = " ".join(turn.response.text.split())[:60]
            echo(f"{turn.stage}: stored as {turn.key[:12]}: {turn.response.outcome} {words!r}")
        for request in missing:
            nearest, differences = explain(opened, request_document(request))
            echo(f"{request.stage}: not stored; its key is {response_key(request)[:12]}")
            if nearest is None:
                echo("  the store holds no answer at all")
                continue
            echo(f"  nearest stored request: {nearest[:12]}; it differs in")
            for field, (wanted, stored) in differences.items():
                echo(f"    {field}: asked {wanted}, stored {stored}")


@cache.command("missing", cls=options.SectionedCommand)
@options.question_options
@options.matching_options
@options.limit_option
@options.seed_option
@click.option("-o", "--output", required=True, type=PATH, help="FILE.jsonl of questions to write.")
@options.store_option
def write_missing(
    question: options.StoredQuestion,
    scoring: options.MatchingOptions,
    limit: int | None,
    seed: int,
    output: Path,
    store: Path | None,
) -> None:
    """Write the questions that a run would ask and the store has no answer to, for somebody else to answer.

    For a model that no API serves, or a person. Each line holds a key, the text, and the path of the image; answers
    are lines of {"key": ..., "answer": ...}, which `tlac cache answer` takes in. Stage 2 asks by what stage 1 said:
    once its answers are in, this command writes the questions of stage 2.

    \b
    Examples:
      tlac cache missing --backend gemini --dataset cifar10-samples -o questions.jsonl
      tlac cache answer questions.jsonl answers.jsonl --by "my model"
    """
    from tlac.cache.questions import write_questions
    from tlac.evaluation.dry_run import dry_run
    from tlac.runtime.safe_files import naming_failure

    refuse_input(output)
    asked = replace(question.open(scoring, store), limit=limit, seed=seed)
    with open_store(store) as opened:
        transcripts, missing = dry_run(asked, asked.samples, opened)
    with naming_failure(output, kind=InputError):
        count = write_questions(output, missing, asked.asked[0].name)
    failed = sum(one.failure == "sample" for one in transcripts)
    echo(f"{count:,} questions: {output}" + (f"; {failed:,} images can't be read" if failed else ""))


@cache.command("answer")
@click.argument("questions", type=PATH)
@click.argument("answers", type=PATH)
@click.option("--by", required=True, help="Who answered, in words that a stranger understands.")
@options.store_option
def take_answers(questions: Path, answers: Path, by: str, store: Path | None) -> None:
    """Keep ANSWERS, lines of {"key": ..., "answer": ...}, to QUESTIONS that `tlac cache missing` wrote.

    What the store has stays as it is. The answers stand under the backend that was named for the questions, with
    who gave them in place of a model's version.

    \b
    Example:
      tlac cache answer questions.jsonl answers.jsonl --by "two annotators"
    """
    from tlac.cache.questions import read_answers

    found = read_answers(questions, answers, by)
    with open_store(store) as opened:
        fresh = [one for one in found if opened.get_entry(one.key) is None]
        opened.put_entries(fresh)
        path = opened.path
    echo(f"{len(fresh):,} answers added to {path}; {len(found) - len(fresh):,} were there")


def _find(name: str, dataset: Dataset) -> Sample:
    ids = []
    for sample in dataset:
        if sample.id == name:
            return sample
        ids.append(sample.id)
    raise UnknownNameError("sample", name, ids)


@cache.command("path")
@options.store_option
def show_path(store: Path | None) -> None:
    """Print the folder of stored answers."""
    from tlac.cache.store import store_folder

    echo(store or store_folder())


@cache.command("stats")
@click.option("--dataset", help="Count only answers about this dataset's images and classes; reads every image.")
@options.root_option
@options.store_option
@options.json_option
def show_stats(dataset: str | None, root: Path | None, store: Path | None, as_json: bool) -> None:
    """Count the stored answers by backend, stage and outcome, and what they cost.

    \b
    Examples:
      tlac cache stats --json
      tlac cache stats --dataset cifar10-samples
    """

    from tlac.cli.tables import print_table
    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_dataset_config
    from tlac.evaluation.dry_run import concerns

    about = concerns(open_dataset(load_dataset_config(dataset, root))) if dataset else None
    with open_store(store, makes_one=False) as opened:
        stats = opened.stats(about)
        path = opened.path
    if as_json:
        print_json({"path": str(path), **asdict(stats)})
        return
    rows = [(one.backend, one.stage, one.outcome, f"{one.answers:,}", dollars(one.cost_usd)) for one in stats.counts]
    print_table(("backend", "stage", "outcome"), ("answers", "USD"), rows)
    size_mb = stats.size_bytes / 1e6
    packs = f" ({stats.attached_packs:,} attached packs)" if stats.attached_packs else ""
    echo(f"{stats.answers:,} answers, {stats.embeddings:,} text embeddings, {size_mb:.1f} MB in {path}{packs}")


@cache.command("verify")
@options.store_option
@options.json_option
def verify(store: Path | None, as_json: bool) -> None:
    """Check every row of the store: it parses, its key is the digest of its request, the database is sound.

    Attached packs are checked line by line. Nothing in the store is executed or changed. Exits with 1 when there is a
    problem; `tlac cache prune --damaged` removes the rows that are named.

    \b
    Example:
      tlac cache verify --store /data/answers
    """

    from tlac.cache.store import store_folder
    from tlac.cache.verify import verify_store

    folder = store or store_folder()
    found = verify_store(folder)
    if as_json:
        print_json({"path": str(folder), **asdict(found)})
    else:
        for problem in found.problems:
            row = f", row {problem.row}" if problem.row is not None else ""
            echo(f"{problem.database or folder}{row}: {problem.problem}")
        echo(f"{found.answers:,} answers and {found.embeddings:,} text embeddings are sound")
    if found.problems:
        raise StoreError(f"{folder}: {len(found.problems)} problems; `tlac cache prune --damaged` removes named rows")


@cache.command("prune")
@click.option("--backend", help="Forget this backend's answers.")
@click.option("--outcome", type=click.Choice(["answered", "refused", "empty", "truncated"]), help="Of this outcome.")
@click.option("--older-than", type=click.IntRange(min=0), metavar="DAYS", help="Given more than so many days ago.")
@click.option("--damaged", is_flag=True, help="Remove the rows that `tlac cache verify` names, and nothing else.")
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten; forget nothing.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@options.store_option
def prune_answers(  # noqa: PLR0913, PLR0917 - one parameter per option
    backend: str | None,
    outcome: str | None,
    older_than: int | None,
    damaged: bool,
    dry_run: bool,
    yes: bool,
    store: Path | None,
) -> None:
    """Forget stored answers. They are paid for: asks first.

    Attached packs are only read: `tlac cache merge` first, to forget an answer of theirs.

    \b
    Examples:
      tlac cache prune --outcome refused --dry-run
      tlac cache prune --backend gpt-4o --older-than 365
    """
    from tlac.cache.select import Selection, prune
    from tlac.cache.store import total_cost
    from tlac.cache.verify import prune_damaged
    from tlac.types import Outcome

    if damaged and (backend or outcome or older_than is not None):
        raise click.UsageError("--damaged goes alone: it removes what can't be read, whoever gave it")
    limit = None if older_than is None else datetime.now(timezone.utc) - timedelta(days=older_than)
    selection = Selection(backend, Outcome(outcome) if outcome else None, limit)
    with open_store(store, makes_one=False) as opened:
        if damaged:
            count = prune_damaged(opened, is_dry_run=True)
            what = f"{count:,} damaged rows"
        else:
            found = prune(opened, selection, is_dry_run=True)
            count = sum(one.answers for one in found)
            what = f"{count:,} answers, cost {dollars(total_cost(one.cost_usd for one in found))}"
        if count == 0:
            echo("nothing to forget")
        elif dry_run:
            echo(f"would forget {what}")
        else:
            if not yes:
                click.confirm(f"forget {what}?", abort=True)
            echo(f"forgetting {what}")
            prune_damaged(opened) if damaged else prune(opened, selection)


@cache.command("merge")
@options.store_option
def merge_packs(store: Path | None) -> None:
    """Copy the answers of attached packs into the store's database, and remove the packs.

    A large run on a Ray cluster leaves its answers as an attached pack: files that the store reads where they lie. All
    commands see them; only `tlac cache prune` needs them in the database.

    \b
    Example:
      tlac cache merge
    """
    with open_store(store, makes_one=False) as opened:
        count, path = opened.merge_attached(), opened.path
    echo(f"{count:,} answers of attached packs copied into the database of {path}" if count else "nothing is attached")
