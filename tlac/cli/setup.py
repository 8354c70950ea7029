"""`tlac init`, `trust`, `doctor`, `completion`, `aliases`: what is ready on this machine, and how to make more so."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tlac.cli import options
from tlac.cli.options import PATH, load_served, open_policy, open_store, print_json, print_rows, refuse_input
from tlac.errors import ConfigError, EncoderUnavailableError, MissingAnswersError, TlacError

# extra -> a package that it brings
_EXTRAS = {
    "batch": "anthropic",
    "embedded": "foolbox",
    "figures": "matplotlib",
    "hf": "datasets",
    "mlflow": "mlflow",
    "ray": "ray",
    "trackio": "trackio",
    "wandb": "wandb",
}


@click.command()
@click.option("--check", is_flag=True, help="Also make one cheap call per stage to every backend that has its key.")
@options.root_option
@options.store_option
@options.json_option
def doctor(check: bool, root: Path | None, store: Path | None, as_json: bool) -> None:
    """Say what is ready: backends and their keys, encoders' weights, datasets, the store, versions, extras, GPU.

    Keys are named and never shown. Without --check nobody is asked. Good to have in a bug report.

    \b
    Examples:
      tlac doctor --data ~/data
      tlac doctor --check --json
    """
    found = {
        "versions": _versions(),
        "backends": _backends(check),
        "encoders": _encoders(),
        "datasets": _datasets(root),
        "store": _store(store),
    }
    if as_json:
        print_json(found)
        return
    for heading, rows in found.items():
        click.secho(heading, bold=True)
        print_rows([(f"  {name}", state) for name, state in rows.items()])


def _versions() -> dict[str, str]:
    import importlib.util

    import torch

    from tlac.config.files import PROJECT_FILE, user_config_folder
    from tlac.runtime.libraries import installed_versions

    missing = [extra for extra, package in _EXTRAS.items() if importlib.util.find_spec(package) is None]
    files = [str(place) for place in (Path(PROJECT_FILE), user_config_folder()) if place.exists()]
    return {
        **installed_versions(),
        "GPU": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use",
        "extras missing": ", ".join(f"tlac[{extra}]" for extra in missing) or "none",
        "configuration": ", ".join(files) or "none of your own",
    }


def _backends(is_checked: bool) -> dict[str, str]:
    from tlac.cli.listings import backend_state, check_calls
    from tlac.config.files import list_names
    from tlac.config.schemas import load_backend

    states = {}
    for name in list_names("backend"):
        try:
            states[name] = backend_state(load_backend(name))
            if is_checked and not states[name].startswith("needs"):
                states[name] += f"; {'; '.join(check_calls(name))}"
        except TlacError as error:
            states[name] = f"not usable: {error}"
    return states


def _encoders() -> dict[str, str]:
    """Every encoder that is no hosted one is loaded as a run would load it, without network: that tells the truth."""
    from tlac.config.files import list_names
    from tlac.config.registry import open_encoder
    from tlac.config.schemas import load_encoder_config

    states = {}
    for name in list_names("encoder"):
        try:
            config = load_encoder_config(name)
            if config.spec.api_key_env:
                has_key = bool(os.environ.get(config.spec.api_key_env))
                states[name] = "hosted, key set" if has_key else f"needs {config.spec.api_key_env}"
                continue
            open_encoder(replace(config, is_offline=True)).encode(["a cat"])
            states[name] = "weights are here"
        except MissingAnswersError:
            states[name] = "hosted, no key needed"
        except EncoderUnavailableError as error:
            states[name] = f"not here: {error.message}"
        except TlacError as error:
            states[name] = f"not usable: {error}"
    return states


def _datasets(root: Path | None) -> dict[str, str]:
    from tlac.cli.datasets import dataset_state
    from tlac.config.files import list_names
    from tlac.config.schemas import load_dataset_config

    return {name: dataset_state(load_dataset_config(name, root)) for name in list_names("dataset")}


def _store(path: Path | None) -> dict[str, str]:
    from tlac.cache.store import store_folder

    folder = path or store_folder()
    if not folder.is_dir():
        return {str(folder): "not there yet: the first run makes it"}
    with open_store(path) as opened:
        stats = opened.stats()
    size = f"{stats.answers:,} answers, {stats.embeddings:,} text embeddings, {stats.size_bytes / 1e6:.1f} MB"
    return {str(folder): size}


_PROJECT = """\
# Names of your own for tlac's command line, for whoever runs it in this folder.
# `tlac backends show NAME` prints a whole file to start from.

backends:
  # used as: --backend {name}
  {name}:
    description: a backend of my own
    adapter: litellm
    # provider/model, as https://docs.litellm.ai/docs/providers writes it
    model: {model}
    # the key is read from this environment variable; it never stands in a file
    api_key_env: {key}
    params:
      temperature: 0
      # thoughts count too: a model that thinks may need more, or a lower reasoning_effort
      max_tokens: 2048
    # without prices, the table inside litellm is used; USD per million tokens
    # prices: {{prompt: 0.30, completion: 2.50}}
    limits:
      concurrency: 8

datasets:
  # used as: --dataset {dataset}; one folder of images for each class
  {dataset}:
    description: images of my own
    loader: folder
    protocol: ours
    options:
      path: {folder}
"""


@click.command()
@click.option("--name", prompt="name for your backend", default="mine", show_default=True, help="Name of the backend.")
@click.option(
    "--model",
    prompt="model, as litellm names it",
    default="gemini/gemini-2.5-flash",
    show_default=True,
    help="Model, as litellm names it.",
)
@click.option(
    "--images",
    prompt="folder of labelled images, one sub-folder a class",
    default="photos",
    show_default=True,
    help="Folder of images.",
)
def init(name: str, model: str, images: str) -> None:
    """Write a commented tlac.yaml into this folder: a backend and a dataset of your own, from three answers.

    \b
    Example:
      tlac init --name flash --model gemini/gemini-2.5-flash --images photos
    """
    import json

    from tlac.config.files import PROJECT_FILE, trust

    path = Path(PROJECT_FILE)
    provider = model.partition("/")[0]
    key = f"{provider.upper().replace('-', '_')}_API_KEY"
    answers = {"name": name, "model": model, "key": key, "dataset": "my-images", "folder": images}
    # JSON's strings are YAML's, whatever stands in them
    text = _PROJECT.format(**{field: json.dumps(value) for field, value in answers.items()})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: edit it, or move it away first") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {error.strerror}") from error
    trust(path)
    click.echo(f"{path} is written. Then, with {key} set:")
    click.echo(f"  tlac backends check {name}")
    click.echo(f"  tlac bench --backend {name} --dataset my-images --limit 20")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what has a shell complete commands, options and the names of backends, datasets and the like.

    \b
    Examples:
      eval "$(tlac completion bash)"          (in ~/.bashrc; zsh in ~/.zshrc)
      tlac completion fish > ~/.config/fish/completions/tlac.fish
    """
    from click.shell_completion import get_completion_class

    from tlac.cli import cli

    made: Any = get_completion_class(shell)
    click.echo(made(cli, {}, "tlac", "_TLAC_COMPLETE").source())


@click.command()
@click.argument("file", default="tlac.yaml", type=PATH)
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
    from tlac.config.files import trust as remember

    remember(file)
    click.echo(f"trusted: {file.resolve()}")


@click.command()
@click.option("--backend", required=True, help="LMM to ask, without an image.")
@click.option("--dataset", required=True, help="Dataset whose classes are named.")
@options.root_option
@options.max_cost_option
@options.offline_option
@click.option("-o", "--output", required=True, type=PATH, help="YAML file for --aliases.")
@options.store_option
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
    import yaml

    from tlac.config.registry import open_dataset
    from tlac.config.schemas import load_dataset_config
    from tlac.evaluation.aliases import ask_aliases
    from tlac.evaluation.runner import Runner
    from tlac.runtime import aio
    from tlac.runtime.safe_files import naming_failure, replacing

    refuse_input(output)
    config = replace(load_dataset_config(dataset, root), is_offline=offline)
    # a file that lists its classes needs no images to be there
    classes = config.spec.classes or open_dataset(config).classes
    with open_store(store) as opened:
        asked = load_served(backend, store, offline)
        runner = Runner(opened, offline, open_policy(max_cost))
        found = aio.run(ask_aliases(classes, runner.bound_lmm(asked), asked.spec.limits.concurrency))
    content = yaml.safe_dump({name: list(names) for name, names in found.items()}, allow_unicode=True, sort_keys=False)
    with naming_failure(output), replacing(output) as file:
        file.write(content.encode())
    names = sum(map(len, found.values()))
    click.echo(f"{names:,} further names of {len(found):,} of {len(set(classes)):,} classes: {output}")
