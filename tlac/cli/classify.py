"""`tlac classify`: images of one's own, class names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlac.cli.options import (
    check_template,
    encoder_option,
    json_option,
    matching_option,
    print_json,
    prompts_option,
    split_classes,
    store_option,
    template_option,
)


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--classes", required=True, help='Class names, "red car, old car", or a text file with one a line.')
@click.option("--backend", required=True, help="LMM to ask.")
@click.option("--stage2-backend", help="LMM of the second stage.  [default: that of the first]")
@click.option(
    "--method", default="tlac", show_default=True, help="slac, tlac, tlac-shortlist, tlac-relook or slac-fused."
)
@encoder_option
@prompts_option
@matching_option
@template_option
@click.option("--offline", is_flag=True, help="Ask nobody: use stored answers alone.")
@store_option
@json_option
def classify(images: tuple[str, ...], classes: str, as_json: bool, **given: Any) -> None:
    """Classify images of your own.

    \b
    Examples:
      tlac classify car.jpg --classes "red car, old car, red apple" --backend claude
      tlac classify photos/*.jpg --classes names.txt --backend embedded --encoder minilm --json
    """
    from dataclasses import asdict

    from tlac.classifier import Classifier

    check_template(given["template"])
    classifier = Classifier(given.pop("backend"), split_classes(classes), **given)
    results = classifier.classify_many([Path(image) for image in images])
    if as_json:
        print_json(
            {"images": [{"image": image, **asdict(result)} for image, result in zip(images, results, strict=True)]}
        )
        return
    for image, result in zip(images, results, strict=True):
        verdict = result.class_name or f"no answer ({result.outcome})"
        score = f"  {result.score:.3f} by {result.rung}" if result.score is not None else ""
        click.echo(f"{image}  {verdict}{score}  {' '.join((result.answer or '').split())!r}")
