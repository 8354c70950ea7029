"""`tlac backends`, `encoders`, `methods`, `prompts` and `suites`: what can be named on the command line."""

from __future__ import annotations

import inspect
import io
from abc import ABC
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import complete, json_option, print_json, print_rows
from tlac.errors import TlacError
from tlac.runtime.formatting import dollars, printable

if TYPE_CHECKING:
    from tlac.config.files import Kind
    from tlac.types import Turn


def _listing(kind: Kind, title: str, loader: str, describe: Callable[[Any], str] | None = None) -> click.Group:
    """A group with `list` and `show` for the YAML files of a kind. `loader` is MODULE:FUNCTION, imported when needed;
    `describe` says of a loaded file, in a word or two, whether it can be used."""

    def load(name: str) -> Any:
        module, _, function = loader.partition(":")
        return getattr(import_module(module), function)(name)

    @click.group(help=title)
    def group() -> None: ...

    @group.command("list")
    @json_option
    def list_names(as_json: bool) -> None:
        """List what can be named, and what it is."""
        from tlac.config.files import list_names

        loaded = [load(name) for name in list_names(kind)]
        rows = [
            {"name": one.name, "description": one.spec.description, "source": one.source}
            | ({"ready": describe(one)} if describe else {})
            for one in loaded
        ]
        if as_json:
            print_json(rows)
        else:
            print_rows([tuple(row[key] for key in ("name", "ready", "description") if key in row) for row in rows])

    @group.command("show")
    @click.argument("name", shell_complete=complete(kind))
    @json_option
    def show(name: str, as_json: bool) -> None:
        """Show the file behind a NAME, and every setting, defaults included."""
        import msgspec
        import yaml

        found = load(name)
        content = msgspec.to_builtins(found.spec)
        if as_json:
            print_json({"name": found.name, "source": found.source, **content})
            return
        click.echo(f"# {found.source}")
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False)

    return group


def backend_state(backend: Any) -> str:
    """Whether a backend can be asked, as far as this machine knows: its key, its server's address."""
    from tlac.config.registry import open_lmm

    spec = backend.spec
    try:
        open_lmm(backend)
    except TlacError:
        return f"needs {spec.api_key_env}" if spec.api_key_env else "not usable"
    # only asking tells whether a server is up
    return "own server" if spec.api_base else "ready"


backends = _listing("backend", "List, show and check LMM backends.", "tlac.config.schemas:load_backend", backend_state)
encoders = _listing("encoder", "List and show text encoders.", "tlac.config.schemas:load_encoder_config")
prompts = _listing("prompts", "List and show prompt sets.", "tlac.config.prompts:load_prompts")
suites = _listing("suite", "List and show suites of datasets.", "tlac.config.schemas:load_suite")


@backends.command("check")
@click.argument("name", shell_complete=complete("backend"))
def check_backend(name: str) -> None:
    """Make one cheap call per stage and say what works. Nothing is stored.

    \b
    Example:
      tlac backends check gemini
    """
    for line in check_calls(name):
        click.echo(line)


def check_calls(name: str) -> list[str]:
    """What each stage of a backend answers to one cheap call. Raises TlacError naming backend and stage."""
    from tlac.config.prompts import load_prompts
    from tlac.config.registry import open_lmm
    from tlac.config.schemas import load_backend
    from tlac.evaluation.collect import describe_cut
    from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
    from tlac.runtime import aio

    backend = load_backend(name)
    bound_lmm = BoundLMM(backend, open_lmm(backend))
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), ("red square", "green circle"))

    async def ask_stage1() -> Turn:
        from tlac.images import identify

        return await prompter.ask_stage1(identify(_red_square(), "red square"))

    async def ask_stage2() -> Turn:
        return await prompter.ask_stage2("a red square")

    lines = []
    # one after the other: a key that is refused shows at the first stage
    for stage, ask in (("stage 1", ask_stage1), ("stage 2", ask_stage2)):
        try:
            response = aio.run(ask()).response
        except TlacError as error:
            raise type(error)(f"{backend.name}: {stage}: {error}") from error
        if response.outcome == "truncated":
            raise TlacError(f"{backend.name}: {stage}: {describe_cut(1, 1, [response])}")
        words = " ".join(printable(response.text).split())[:60]
        cost = dollars(response.cost_usd, "price unknown")
        lines.append(f"{backend.name}: {stage}: {response.outcome} {words!r} in {response.latency_s:.2f} s, {cost}")
    return lines


def _red_square() -> bytes:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture, "PNG")
    return picture.getvalue()


@click.group()
def methods() -> None:
    """List and show methods and their options."""


@methods.command("list")
@json_option
def list_methods(as_json: bool) -> None:
    """List the methods that can be named after --method."""
    from tlac.config.registry import list_plugins

    rows = [_describe_method(name) for name in list_plugins("tlac.methods")]
    if as_json:
        print_json(rows)
    else:
        print_rows([(row["name"], row["description"].partition(". ")[0].rstrip(".")) for row in rows])


@methods.command("show")
@click.argument("name")
@json_option
def show_method(name: str, as_json: bool) -> None:
    """Show what a method does, and its options with their defaults.

    \b
    Example:
      tlac methods show tlac-shortlist
    """
    found = _describe_method(name)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['name']}: {found['description']}")
    for key, default in found["options"].items():
        click.echo(f"  --method {name}:{key}={str(default).lower() if isinstance(default, bool) else default}")


def _describe_method(name: str) -> dict[str, Any]:
    from tlac.config.registry import load_plugin, method_options

    made = load_plugin("tlac.methods", name)
    # what methods have in common is said by the class that they share
    text = " ".join(
        word for owner in inspect.getmro(made) if owner not in (ABC, object) for word in (owner.__doc__ or "").split()
    )
    return {"name": name, "description": text, "options": method_options(made)}
