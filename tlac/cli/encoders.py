"""`tlac encoders`: the text encoders that can be named."""

from __future__ import annotations

import click

from tlac.cli.options import print_rows


@click.group()
def encoders() -> None:
    """List text encoders."""


@encoders.command("list")
def list_encoders() -> None:
    """List the text encoders that can be named after --encoder."""
    from tlac.config import load_encoder_config
    from tlac.resources import list_names

    print_rows([(name, load_encoder_config(name).spec.description) for name in list_names("encoder")])
