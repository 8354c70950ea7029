"""`tlac aliases`: a file of further class names, from an LMM."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import PATH, max_cost_option, offline_option, open_policy, open_store, root_option, store_option
from tlac.errors import TlacError


@click.command()
@click.option("--backend", required=True, help="LMM to ask, without an image.")
@click.option("--dataset", required=True, help="Dataset whose classes are named.")
@root_option
@max_cost_option
@offline_option
@click.option("-o", "--output", required=True, type=PATH, help="YAML file for --aliases.")
@store_option
def aliases(  # noqa: PLR0913, PLR0917 - one parameter per option
    backend: str,
    dataset: str,
    root: Path | None,
    max_cost: float | None,
    offline: bool,
    output: Path,
    store: Path | None,
) -> None:
    """Have an LMM name each class of a dataset in other words, once; the answers are stored.

    The file is for `tlac bench --aliases`. Look through it: a wrong name takes answers away from its neighbours.

    \b
    Example:
      tlac aliases --backend gemini --dataset imagenet -o imagenet-names.yaml
    """
    from dataclasses import replace

    import yaml

    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_backend, load_dataset_config
    from tlac.evaluation.aliases import ask_aliases
    from tlac.evaluation.runner import Runner
    from tlac.lmms.served import with_served_revision
    from tlac.runtime import aio

    config = replace(load_dataset_config(dataset, root), is_offline=offline)
    # a file that lists its classes needs no images to be there
    classes = config.spec.classes or open_dataset(config).classes
    with open_store(store) as opened:
        asked = with_served_revision(load_backend(backend, offline), opened.path, offline)
        runner = Runner(opened, offline, open_policy(max_cost))
        found = aio.run(ask_aliases(classes, runner.bound_lmm(asked), asked.spec.limits.concurrency))
    content = yaml.safe_dump({name: list(names) for name, names in found.items()}, allow_unicode=True, sort_keys=False)
    try:
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise TlacError(f"{output}: can't be written: {error.strerror}") from error
    names = sum(map(len, found.values()))
    click.echo(f"{names:,} further names of {len(found):,} of {len(set(classes)):,} classes: {output}")
