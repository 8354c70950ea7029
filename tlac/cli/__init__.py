"""The command line: `tlac`.

Turns errors into one line and an exit code. Each command lives in a module of its own, imported when it is
called; `tlac --help` imports none of what they need.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import click

from tlac.errors import ConfigError, TlacError, UnknownNameError, UsageError

# heading of --help -> commands of one entry -> what it says
_SECTIONS = {
    "Label images": {
        "label": "Label images that have no labels, thousands at once.",
        "classify, match": "Say what a few images show; map answers that you have onto classes.",
    },
    "Measure backends": {
        "bench": "Run backends on datasets and measure them.",
        "estimate": "Tell what a run would take, or what runs would cost today.",
        "ablate": "Run every combination of settings and say what matters.",
    },
    "Use results": {
        "leaderboard": "Rank runs, show what they cost, recommend one for a budget.",
        "compare": "Compare runs on the samples that they share.",
        "report, export": "Write the page of runs, or what they found as CSV, Parquet or JSON Lines.",
        "score": "Score runs again from their stored answers.",
        "calibrate": "Learn from labelled runs how sure predictions are.",
    },
    "Set up": {
        "init, trust, doctor": "Write a tlac.yaml; trust one; say what is ready on this machine.",
        "backends": "List, show and check LMM backends.",
        "datasets": "List, show, prepare, verify and export datasets.",
        "encoders, methods, prompts, suites": "List and show what else can be named.",
        "aliases": "Have an LMM name classes in other words.",
        "batch, cache": "Look after submitted batches, and after stored answers.",
    },
}
_COMMANDS = [name for listed in _SECTIONS.values() for names in listed for name in names.split(", ")] + ["completion"]
# command -> module below tlac.cli, where that is not its own name
_MODULES = {"match": "classify", "leaderboard": "compare", "calibrate": "score", "init": "setup", "doctor": "setup"}
_MODULES |= {"completion": "setup", "trust": "setup", "aliases": "setup", "export": "report"}
_MODULES |= dict.fromkeys(("backends", "encoders", "methods", "prompts", "suites"), "listings")
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

        module = import_module(f"tlac.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if new := _RENAMED.get(args[0]):
            click.echo(f"tlac: `tlac {args[0]}` is now `tlac {' '.join(new)}`; the old name is about to go", err=True)
            args = [*new, *args[1:]]
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise UnknownNameError("command", args[0], _COMMANDS, remedy="tlac --help lists all")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, listed in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(list(listed.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tlac")
def cli() -> None:
    """Classify images with large multimodal models, without training.

    An LMM says in words what an image shows; a text encoder finds the class nearest to those words. Every
    answer is kept on disk and never paid for twice.

    \b
    Examples:
      tlac bench --backend embedded --encoder minilm --dataset imagenet-samples
      tlac label photos/ --classes names.txt --backend gemini -o labels.csv --max-cost 5
      tlac classify car.jpg --classes "red car, old car, red apple" --backend claude

    `tlac help COMMAND` shows a command's options; every command takes --debug, which shows the traceback of an
    error. `tlac completion bash` (zsh, fish) has the shell complete commands and names.
    """


@contextmanager
def _settings_of_a_program(is_debug: bool) -> Iterator[None]:
    """What holds while the program runs, and is as it was afterwards: signals, debug log, warnings, garbage collection.

    SIGTERM and SIGHUP interrupt as Ctrl-C does, so that calls in flight are kept; the second one ends the process at
    once, with 128 and its number.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)
        raise KeyboardInterrupt

    numbers = {getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
    # whoever ignores a signal (nohup) goes on ignoring it; only the main thread may set handlers
    heeded = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, interrupt) for number in heeded}
    thresholds = gc.get_threshold()
    # a run's records are many, live to its end and form no cycles: looking for garbage among them took a seventh of
    # a re-scoring's time
    gc.set_threshold(100_000, 50, 100)
    try:
        with warnings.catch_warnings(), _debug_log() if is_debug else nullcontext():
            # remarks on metadata of images, from any thread: filters can only be set for all of them at once
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # of models' libraries, which load on another thread than this one
            warnings.filterwarnings("ignore", module=r"(torch|transformers|sentence_transformers|open_clip)\b")
            # of litellm's, on what a provider's answer holds
            warnings.filterwarnings("ignore", "Pydantic serializer warnings")
            warnings.filterwarnings("default", category=UserWarning, module=r"tlac\.")
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            yield
    finally:
        gc.set_threshold(*thresholds)
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_warning(others: Callable[..., None], message: Warning, category: type, filename: str, *more: object) -> None:
    """Our own warnings as one line, as all that we have to say; those of libraries as they come."""
    if category is UserWarning and f"{os.sep}tlac{os.sep}" in filename:
        click.echo(f"tlac: {message}", err=True)
    else:
        others(message, category, filename, *more)


@contextmanager
def _debug_log() -> Iterator[None]:
    """Our own log on stderr, without secrets, and what litellm and its HTTP clients say of our calls."""
    import logging

    from tlac.runtime.litellm_setup import LITELLM_LOGGERS
    from tlac.runtime.redaction import RedactingFilter

    log, handler = logging.getLogger("tlac"), logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("tlac: %(name)s: %(message)s"))
    # not litellm at DEBUG: it would write each image
    levels = {log: logging.DEBUG} | {logging.getLogger(name): logging.INFO for name in LITELLM_LOGGERS}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        for logger, level in before.items():
            logger.setLevel(level)


def _is_trusted_now(error: Exception) -> bool:
    """Ask on a terminal whether a file that was refused is the user's own, and remember that it is."""
    if not isinstance(error, ConfigError):
        return False
    from tlac.config.files import UntrustedFileError, trust

    if not isinstance(error, UntrustedFileError) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    is_own = click.confirm(f"Do you know what {error.path} holds, and trust it?", err=True)
    if is_own:
        trust(error.path, error.sha256)
    return is_own


def _show(error: BaseException, text: str, is_debug: bool) -> None:
    # here, not above: the traceback holds what providers sent, which may repeat a key
    from tlac.runtime.redaction import redact, redacted_traceback

    if is_debug:
        click.echo(redacted_traceback(error), err=True)
    click.echo(f"tlac: {redact(text)}", err=True)


def _explain(error: Exception) -> tuple[str, int]:
    """One line for a person, "" where nobody is left to be told, and the exit code."""
    if isinstance(error, TlacError):
        return str(error), error.exit_code
    if not _has_working_directory():
        return _NO_DIRECTORY, UsageError.exit_code
    # files that can't be written are named where they are written: what has no name is standard output
    if isinstance(error, OSError) and error.filename is None and error.errno in _WRITE_ERRORS and sys.stdout:
        # else the interpreter tries once more when it exits, and complains on its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # a reader that goes away, as `| head` does, has seen what it wanted
        is_pipe = isinstance(error, BrokenPipeError)
        return "" if is_pipe else f"standard output can't be written: {error.strerror}", 1
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}...: is longer than a file's name may be: check what was given", 2
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1


_NO_DIRECTORY = "the working directory does not exist any more: change to another, and run the command again"
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def _has_working_directory() -> bool:
    try:
        return bool(os.getcwd())  # noqa: PTH109 - Path.cwd() is the same with a path around it
    except OSError:
        return False


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 complete, 2 usage error, 3 incomplete, 4 missing, 1 else."""
    given = sys.argv[1:] if arguments is None else arguments
    # what is left at the end is the system's to take back: to look for garbage in it takes 30 ms
    atexit.register(gc.freeze)
    is_debug = "--debug" in given
    with _settings_of_a_program(is_debug):
        code = _run([argument for argument in given if argument != "--debug"], is_debug)
    if arguments is None and not is_debug:
        # the process ends here; a library that another thread still imports would warn by the page below our last line
        warnings.simplefilter("ignore")
    sys.exit(code)


def _run(arguments: list[str], is_debug: bool) -> int:
    """The command's exit code, once all that there is to say has been said."""
    try:
        if arguments[:1] == ["help"]:
            arguments = [*arguments[1:], "--help"]
        if not _has_working_directory():
            raise UsageError(_NO_DIRECTORY)
        code: object = cli.main(arguments, prog_name="tlac", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("tlac: stopped", err=True)
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        text, exit_code = _explain(error)
        if text:
            _show(error, text, is_debug)
        return _run(arguments, is_debug) if _is_trusted_now(error) else exit_code
    return code if isinstance(code, int) else 0
