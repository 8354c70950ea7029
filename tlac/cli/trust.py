"""The command `tlac trust`."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.config.files import PROJECT_FILE, fingerprint_file
from tlac.config.trust import trust as remember


@click.command()
@click.argument("file", default=PROJECT_FILE, type=click.Path(path_type=Path))
def trust(file: Path) -> None:
    """Trust a YAML file that lies outside your config folder, as it is now.

    A tlac.yaml in the working directory, or a file given by its path, may have come with a folder that you copied.
    Until it is trusted it takes the place of no name that you or tlac have given, and sends no key to a strange
    address. A file that changes has to be trusted again.

    \b
    Examples:
      tlac trust
      tlac trust my-server.yaml
    """
    remember(file, fingerprint_file(file))
    click.echo(f"trusted: {file.resolve()}")
