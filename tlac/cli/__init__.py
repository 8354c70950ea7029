"""The command line: `tlac`.

Turns errors into one line and an exit code. Each command lives in a module of its own, imported when it is
called; `tlac --help` imports none of what they need.
"""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any

import click

from tlac.errors import TlacError

# heading of --help -> command -> (module that defines it, what --help says)
_SECTIONS = {
    "Classify images": {
        "classify": ("tlac.cli.classify", "Classify images of your own."),
        "match": ("tlac.cli.classify", "Map answers that you already have onto classes."),
    },
    "Measure backends": {
        "bench": ("tlac.cli.bench", "Run backends on datasets and measure them."),
        "estimate": ("tlac.cli.estimate", "Tell what a run would take, or what runs would cost today."),
        "batch": ("tlac.cli.batch", "Look after batches that were submitted."),
        "ablate": ("tlac.cli.ablate", "Run every combination of settings and say what matters."),
    },
    "Use results": {
        "leaderboard": ("tlac.cli.compare", "Rank runs, show what they cost, recommend one for a budget."),
        "compare": ("tlac.cli.compare", "Compare runs on the samples that they share."),
        "report": ("tlac.cli.report", "Write the page of a run, or of several beside each other."),
        "score": ("tlac.cli.score", "Score runs again from their stored answers."),
        "calibrate": ("tlac.cli.score", "Learn from labelled runs how sure predictions are."),
    },
    "Set up": {
        "backends": ("tlac.cli.backends", "List, show and check LMM backends."),
        "datasets": ("tlac.cli.datasets", "List, show, prepare and verify datasets."),
        "encoders": ("tlac.cli.backends", "List text encoders."),
        "aliases": ("tlac.cli.aliases", "Have an LMM name classes in other words."),
        "cache": ("tlac.cli.cache", "Look at the stored answers."),
    },
}
_COMMANDS = {name: found for listed in _SECTIONS.values() for name, found in listed.items()}
# what was a command of its own before -> the command and option that it is now; to go with the next version
_RENAMED = {
    "frontier": ["leaderboard", "--frontier"],
    "recommend": ["leaderboard", "--recommend"],
    "reprice": ["estimate"],
}


class _LazyGroup(click.Group):
    """Knows its commands by name; a command's module is imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if new := _RENAMED.get(args[0]):
            click.echo(f"tlac: `tlac {args[0]}` is now `tlac {' '.join(new)}`; the old name is about to go", err=True)
            args = [*new, *args[1:]]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for heading, listed in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", text) for name, (_, text) in listed.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tlac")
def cli() -> None:
    """Classify images with large multimodal models, without training.

    An LMM says in words what an image shows; a text encoder finds the class nearest to those words. Every
    answer is kept on disk and never paid for twice.

    \b
    Examples:
      tlac bench --backend embedded --encoder minilm --dataset imagenet-samples
      tlac bench --backend gemini --dataset folder:my-photos --limit 50
      tlac classify car.jpg --classes "red car, old car, red apple" --backend claude

    Every command takes --debug, which shows the traceback of an error.
    """


def _show(error: Exception, text: str, is_debug: bool) -> None:
    # here, not above: the traceback holds what providers sent, which may repeat a key
    from tlac.runtime.redaction import redact, redacted_traceback

    if is_debug:
        click.echo(redacted_traceback(error), err=True)
    click.echo(f"tlac: {redact(text)}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 complete, 2 usage error, 3 incomplete, 4 missing, 1 else."""
    given = sys.argv[1:] if arguments is None else arguments
    collection = gc.get_threshold()
    # a run's records are many, live to its end and form no cycles: looking for garbage among them took a seventh of
    # a re-scoring's time
    gc.set_threshold(100_000, 50, 100)
    try:
        with warnings.catch_warnings():
            # remarks on metadata of images, from any thread: filters can only be set for all of them at once
            warnings.filterwarnings("ignore", module=r"PIL\.")
            code = _run(given)
    finally:
        gc.set_threshold(*collection)
    sys.exit(code)


def _run(given: list[str]) -> int:
    """Run the command line; its exit code."""
    is_debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        code: Any = cli.main(given, prog_name="tlac", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("tlac: stopped", err=True)
        code = 1
    except BrokenPipeError:
        # the reader of our output went away, as `| head` does
        sys.stderr.close()
        code = 1
    except TlacError as error:
        _show(error, str(error), is_debug)
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        _show(error, f"unexpected {type(error).__name__}: {error} (--debug shows where)", is_debug)
        code = 1
    return code if isinstance(code, int) else 0
