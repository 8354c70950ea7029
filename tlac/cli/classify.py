"""`tlac classify`: images of one's own, class names on the command line."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli import options
from tlac.cli.options import PATH, check_template, complete, echo, print_json, refuse_input, say
from tlac.datasets.text_files import parse_csv
from tlac.errors import IncompleteRunError, InputError
from tlac.types import Outcome

if TYPE_CHECKING:
    from tlac.api import Classification, Match


@click.command()
@click.argument("images", nargs=-1, required=True)
@options.classes_option
@click.option("--backend", required=True, shell_complete=complete("backend"), help="LMM to ask.")
@options.stage2_backend_option
@click.option(
    "--method",
    default="tlac",
    show_default=True,
    help="slac, tlac, tlac-shortlist, tlac-relook, tlac-cascade, slac-fused or wdys.",
)
@options.encoder_option
@options.prompts_option
@options.matching_option
@options.template_option
@options.offline_option
@options.max_cost_option
@options.store_option
@click.option("-o", "--output", type=PATH, help="Write labels to this .csv, .parquet or .jsonl file too.")
@options.json_option
def classify(
    images: tuple[str, ...],
    classes: str,
    max_cost: float | None,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Say what images show, one line each as they are decided; for many images see `tlac label`.

    IMAGES are files, folders, quoted patterns, lists of paths (.txt) or URLs. An image that fails is a line, too: exit
    code 3.

    \b
    Examples:
      tlac classify car.jpg --classes "red car, old car, red apple" --backend claude
      tlac classify photos/ --classes names.txt --backend embedded --encoder minilm -o labels.csv
    """

    from tlac.api import Classifier
    from tlac.datasets.unlabelled import open_images
    from tlac.results.labels import write_labels

    check_template(given["template"])
    if output is not None:
        refuse_input(output)
    samples, notes = open_images(images, given["offline"])
    for note in notes:
        say(note)
    results: list[Classification] = []

    def told() -> Iterator[Classification]:
        for result in stream:
            results.append(result)
            if not as_json:
                echo(_line(result))
            yield result

    with Classifier(given.pop("backend"), classes, **given) as classifier:
        is_bar_shown = sys.stderr.isatty() and (as_json or not sys.stdout.isatty())
        with closing(classifier.stream(samples, max_cost=max_cost, progress=is_bar_shown)) as stream:
            try:
                if output is not None:
                    write_labels(told(), output)
                else:
                    deque(told(), maxlen=0)
            except KeyboardInterrupt as interrupt:
                raise IncompleteRunError(
                    f"stopped after {len(results):,} of {len(samples):,} images; every answer is stored, and the same "
                    "command goes on from there"
                ) from interrupt
    if as_json:
        print_json({"images": [{"image": result.path, **result.to_dict()} for result in results]})
    if failed := sum(result.outcome is Outcome.FAILED for result in results):
        raise IncompleteRunError(f"{failed:,} of {len(results):,} images failed")


def _line(result: Classification) -> str:
    if result.label is None:
        return f"{result.path}  no answer ({result.outcome})  {result.reason}".rstrip()
    score = f"{result.score:.3f} by {result.decided_by}"
    return f"{result.path}  {result.label}  {score}  {' '.join((result.answer or '').split())!r}"


@click.command()
@click.argument("file", type=PATH)
@options.classes_option
@options.encoder_option
@options.matching_option
@options.template_option
@click.option("-o", "--output", type=PATH, default=Path("-"), help="File to write.  [default: standard output]")
def match(file: Path, classes: str, encoder: str, matching: str, template: str, output: Path) -> None:
    """Map answers that you already have onto classes.

    FILE is text (one answer a line), CSV or JSON Lines with a column `answer` and perhaps `choice`; - reads
    text from standard input. Writes JSON Lines with predicted, class_name, score, margin and rung (the step that
    decided) added to what each row held.

    \b
    Examples:
      tlac match answers.txt --classes "red car, old car" --encoder minilm
      tlac match answers.csv --classes names.txt --matching paper -o matched.jsonl
    """
    from tlac.api import match as match_answers
    from tlac.runtime.safe_files import naming_failure, replacing

    if str(output) != "-":
        refuse_input(output)
    rows = read_answers(file)
    matches = match_answers(
        [row["answer"] for row in rows],
        classes,
        choices=[row.get("choice") or None for row in rows],
        encoder=encoder,
        matching=matching,
        template=check_template(template),
    )
    lines = [
        json.dumps({**row, **_verdict(found)}, ensure_ascii=False) for row, found in zip(rows, matches, strict=True)
    ]
    if str(output) == "-":
        for line in lines:
            click.echo(line)
        return
    with naming_failure(output, "; choose another -o"), replacing(output) as opened:
        opened.writelines(f"{line}\n".encode() for line in lines)


def _verdict(found: Match) -> dict[str, Any]:
    return {
        "predicted": found.index,
        "class_name": found.class_name,
        "score": found.score,
        "margin": found.margin,
        "rung": found.decided_by,
    }


def read_answers(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of answers, each with a text `answer`. Raises InputError naming file and line."""
    try:
        with click.open_file(str(file), encoding="utf-8-sig") as opened:  # opens - as standard input
            text: str = opened.read()
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; give a .txt, .csv or .jsonl of answers, or - for stdin") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as UTF-8 text: {error}") from error
    if file.suffix.lower() == ".json":
        raise InputError(f"{file}: give .jsonl, with an object a line, or text with an answer a line")
    if file.suffix.lower() in (".csv", ".tsv"):
        rows: list[dict[str, Any]] = [
            dict(row) for _, row in parse_csv(text, file, ("answer",), ("choice",), is_free_text=True)
        ]
    elif file.suffix.lower() in (".jsonl", ".ndjson"):
        rows = _read_json_lines(text, file)
    else:
        # a blank line is an empty answer: dropping it would shift every later one against the user's images
        rows = [{"answer": line} for line in text.removesuffix("\n").split("\n")] if text.strip() else []
    if not rows:
        raise InputError(f"{file}: holds no answers")
    return rows


def _read_json_lines(text: str, file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("answer"), str):
            raise InputError(f"{file}: line {number}: needs a key 'answer' with text")
        if not isinstance(row.get("choice"), (str, type(None))):
            raise InputError(f"{file}: line {number}: 'choice' must be text or null")
        rows.append(row)
    return rows
