"""`tlac backends`: list, show and check LMM backends."""

from __future__ import annotations

import io
from typing import Any

import click

from tlac.cli.options import print_rows
from tlac.errors import TlacError


@click.group()
def backends() -> None:
    """List, show and check LMM backends."""


@backends.command("list")
def list_backends() -> None:
    """List the backends that can be named after --backend."""
    from tlac.config.files import list_names
    from tlac.config.schemas import load_backend

    print_rows([(name, load_backend(name).spec.description) for name in list_names("backend")])


@backends.command("show")
@click.argument("name")
def show_backend(name: str) -> None:
    """Show a backend: the file it comes from and every setting, defaults included."""
    import msgspec
    import yaml

    from tlac.config.schemas import load_backend

    backend = load_backend(name)
    click.echo(f"# {backend.source}")
    click.echo(yaml.safe_dump(msgspec.to_builtins(backend.spec), sort_keys=False, allow_unicode=True), nl=False)


@backends.command("check")
@click.argument("name")
def check_backend(name: str) -> None:
    """Make one cheap call per stage and say what works. Nothing is stored.

    \b
    Example:
      tlac backends check gemini
    """
    from tlac.config.prompts import load_prompts
    from tlac.config.registry import open_lmm
    from tlac.config.schemas import load_backend
    from tlac.methods.base import BoundLMM, TwoStagePrompter
    from tlac.runtime import aio

    backend = load_backend(name)
    bound_lmm = BoundLMM(backend, open_lmm(backend))
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), ("red square", "green circle"))
    # one after the other: a key that is refused shows at the first stage
    for stage, call in (("stage 1", _describe_a_square(prompter)), ("stage 2", prompter.ask_stage2("a red square"))):
        try:
            response = aio.run(call).response
        except TlacError as error:
            raise type(error)(f"{backend.name}: {stage}: {error}") from error
        cost = f"${response.cost_usd:.6f}" if response.cost_usd is not None else "price unknown"
        words = " ".join(response.text.split())[:60]
        click.echo(f"{backend.name}: {stage}: {response.outcome} {words!r} in {response.latency_s:.2f} s, {cost}")


async def _describe_a_square(prompter: Any) -> Any:
    from tlac.images import identify

    return await prompter.ask_stage1(identify(_red_square(), "red square"))


def _red_square() -> bytes:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture, "PNG")
    return picture.getvalue()


@click.group()
def encoders() -> None:
    """List text encoders."""


@encoders.command("list")
def list_encoders() -> None:
    """List the text encoders that can be named after --encoder."""
    from tlac.config.files import list_names
    from tlac.config.schemas import load_encoder_config

    print_rows([(name, load_encoder_config(name).spec.description) for name in list_names("encoder")])
