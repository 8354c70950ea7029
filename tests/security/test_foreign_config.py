"""A folder that one has cloned is a stranger: its files send no key and no image where the user did not want them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fakes import Shown, make_png
from tlac.config.destinations import is_this_machine
from tlac.config.files import UntrustedFileError, find, trust
from tlac.config.registry import open_batch_interface, open_encoder, open_lmm
from tlac.config.schemas import load_backend, load_dataset_config, load_encoder_config
from tlac.errors import ConfigError, TlacError

ELSEWHERE = "http://elsewhere.example/v1"
THEFT = {
    "backends": {
        "gemini": {
            "adapter": "litellm",
            "model": "openai/x",
            "api_key_env": "GEMINI_API_KEY",
            "api_base": ELSEWHERE,
        },
        "embedded": {"adapter": "litellm", "model": "openai/x", "api_key_env": "OTHER_SECRET", "api_base": ELSEWHERE},
    },
    "encoders": {
        "minilm": {"adapter": "litellm", "model": "openai/x", "api_key_env": "OTHER_SECRET", "api_base": ELSEWHERE}
    },
    "datasets": {"cifar10-samples": {"loader": "folder", "protocol": "x", "options": {"path": "/home"}}},
    "prompts": {"default": {"description": "x", "stage1": {"default": "x"}, "stage2": {}}},
    "suites": {"samples": {"datasets": ["cifar10"]}},
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY", "OTHER_SECRET"):
        monkeypatch.setenv(name, "sk-secret")


def write(path: str | Path, document: dict[str, Any]) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(document))
    return Path(path)


SHADOWED = [
    ("backend", "gemini"),
    ("backend", "embedded"),
    ("encoder", "minilm"),
    ("dataset", "cifar10-samples"),
    ("prompts", "default"),
    ("suite", "samples"),
]


@pytest.mark.parametrize(("kind", "name"), SHADOWED)
def test_a_project_file_takes_the_place_of_no_shipped_name_until_it_is_trusted(kind: Any, name: str) -> None:
    write("tlac.yaml", THEFT)
    with pytest.raises(UntrustedFileError, match=rf"{name} would take the place of .* run `tlac trust tlac\.yaml`"):
        find(kind, name)
    trust(Path("tlac.yaml"))
    assert find(kind, name).source.startswith("tlac.yaml:")
    write("tlac.yaml", {**THEFT, "encoders": {}})
    if kind != "encoder":
        with pytest.raises(UntrustedFileError):
            find(kind, name)


def test_a_project_file_takes_the_place_of_no_name_of_the_users_own(tmp_path: Path) -> None:
    own = write(tmp_path / "config" / "backends" / "mine.yaml", {"adapter": "litellm", "model": "openai/mine"})
    write("tlac.yaml", {"backends": {"mine": {"adapter": "litellm", "model": "openai/theirs"}}})
    with pytest.raises(UntrustedFileError, match=str(own)):
        load_backend("mine")


def test_trust_is_for_a_place_and_not_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("tlac.yaml", THEFT)
    trust(Path("tlac.yaml"))
    write("other/tlac.yaml", THEFT)
    monkeypatch.chdir("other")
    with pytest.raises(UntrustedFileError):
        load_backend("gemini")


STRANGE = {
    "a key to a strange address": {"model": "openai/x", "api_key_env": "GEMINI_API_KEY", "api_base": ELSEWHERE},
    "its own provider's key too": {"model": "openai/x", "api_key_env": "OPENAI_API_KEY", "api_base": ELSEWHERE},
    "a key to another provider": {"model": "openrouter/x", "api_key_env": "GEMINI_API_KEY"},
    "another secret": {"model": "openai/x", "api_key_env": "OTHER_SECRET"},
    "an address that is not set": {"model": "openai/x", "api_key_env": "OTHER_SECRET", "api_base_env": "NOT_SET"},
    "credentials of the environment": {"model": "bedrock/x", "api_base": ELSEWHERE},
    "a parameter that names an address": {"model": "bedrock/x", "params": {"aws_bedrock_runtime_endpoint": ELSEWHERE}},
    "an address that looks like this machine": {
        "model": "openai/x",
        "api_key_env": "OTHER_SECRET",
        "api_base": "http://localhost@elsewhere.example/v1",
    },
}


@pytest.mark.parametrize("spec", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("is_path", [True, False], ids=["by its path", "in tlac.yaml"])
def test_a_strangers_backend_sends_no_key_to_a_strange_place(spec: dict[str, Any], is_path: bool) -> None:
    described = {"adapter": "litellm", **spec}
    file = write("theirs.yaml", described) if is_path else write("tlac.yaml", {"backends": {"theirs": described}})
    backend = load_backend("theirs.yaml" if is_path else "theirs")
    for opened in (open_lmm, open_batch_interface):
        with pytest.raises(TlacError, match=rf"tlac trust {file}|has no batch interface"):
            opened(backend)
    with pytest.raises(UntrustedFileError):
        open_lmm(backend)
    trust(file)
    trusted = load_backend("theirs.yaml" if is_path else "theirs")
    if "@" in spec.get("api_base", ""):
        with pytest.raises(ConfigError, match="the address holds a user and a password"):
            open_lmm(trusted)
    else:
        open_lmm(trusted)


FINE = {
    "this machine": {"model": "openai/x", "api_key_env": "OTHER_SECRET", "api_base": "http://127.0.0.1:9/v1"},
    "the provider's own": {"model": "gemini/x", "api_key_env": "GEMINI_API_KEY", "params": {"temperature": 0}},
    "no key at all": {"model": "openai/x", "api_base": ELSEWHERE},
    "an address of the environment": {
        "model": "openai/x",
        "api_key_env": "OTHER_SECRET",
        "api_base": ELSEWHERE,
        "api_base_env": "MY_SERVER",
    },
}


@pytest.mark.parametrize("spec", FINE.values(), ids=FINE)
def test_a_strangers_backend_may_send_a_key_where_it_belongs(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVER", "https://mine.example/v1")
    write("tlac.yaml", {"backends": {"theirs": {"adapter": "litellm", **spec}}})
    open_lmm(load_backend("theirs"))


def test_the_users_own_backend_may_send_a_key_anywhere(tmp_path: Path) -> None:
    described = {"adapter": "litellm", **STRANGE["a key to a strange address"]}
    write(tmp_path / "config" / "backends" / "mine.yaml", described)
    open_lmm(load_backend("mine"))


def test_a_strangers_encoder_sends_no_key_to_a_strange_place() -> None:
    write("tlac.yaml", {"encoders": {"theirs": THEFT["encoders"]["minilm"]}})
    with pytest.raises(UntrustedFileError, match=r"would send the key in OTHER_SECRET to http://elsewhere"):
        open_encoder("theirs")
    with pytest.raises(UntrustedFileError):
        open_encoder(load_encoder_config("theirs"))


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:1/v1", True),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost@example.org", False),
        ("http://example.org/#@localhost", False),
        ("http://example.org\\@localhost", False),
        ("http://[", False),
        ("localhost", False),
    ],
)
def test_an_address_is_of_this_machine_by_its_host_alone(address: str, is_here: bool) -> None:
    assert is_this_machine(address) is is_here


def test_commands_refuse_and_name_the_remedy_and_trust_is_a_command(tlac_command: Callable[..., Shown]) -> None:
    Path("photo.png").write_bytes(make_png())
    project = {"prompts": {}, "suites": {}, "encoders": {"minilm": {"adapter": "litellm", "model": "openai/x"}}}
    write("tlac.yaml", project)
    ask = ("classify", "photo.png", "--classes", "cat, dog", "--backend", "embedded", "--encoder", "minilm")
    refused = tlac_command(*ask, "--offline")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "run `tlac trust tlac.yaml` if it is yours" in refused.err
    trusted = tlac_command("trust")
    assert (trusted.code, trusted.out) == (0, f"trusted: {Path('tlac.yaml').resolve()}\n")
    assert tlac_command(*ask, "--offline").code == 3
    assert tlac_command("trust", "none.yaml").code == 2


def test_on_a_terminal_the_command_asks_and_goes_on(
    tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("tlac.yaml", {"datasets": {"cifar10-samples": {"loader": "samples", "protocol": "p", "description": "ours"}}})
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("tlac.cli.sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda text, **_: bool(asked.append(text)) or len(asked) > 1)
    show = ("datasets", "list")
    assert tlac_command(*show).code == 2
    shown = tlac_command(*show)
    assert (shown.code, len(asked)) == (0, 2)
    assert "ours" in shown.out
    assert tlac_command(*show).code == 0
    assert len(asked) == 2


def test_debug_and_the_run_say_where_each_name_is_described(tlac_command: Callable[..., Shown]) -> None:
    write("tlac.yaml", {"datasets": {"few": {"loader": "csv", "protocol": "p", "options": {"path": "few.csv"}}}})
    for number in range(4):
        Path(f"{number}.png").write_bytes(make_png(number))
    Path("few.csv").write_text("path,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4)))
    shown = tlac_command(
        *("bench", "--debug", "--backend", "embedded", "--encoder", "minilm", "--dataset", "few", "--method", "slac")
    )
    assert shown.code == 0, shown.err
    assert "dataset 'few' is described in tlac.yaml:datasets.few" in shown.err
    (run,) = Path("runs").iterdir()
    sources = json.loads((run / "run.json").read_text())["sources"]
    assert sources["dataset"] == "tlac.yaml:datasets.few"
    assert sources["backend"].endswith("backends/embedded.yaml")
    assert set(sources) == {"dataset", "backend", "stage2_backend", "encoder", "prompts"}
    assert not logging.getLogger("tlac.config").handlers


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged aliases": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "recursion": "adapter: &a [*a]\nmodel: m\n",
    "recursion of keys": "params: &a {x: *a}\nadapter: litellm\nmodel: m\n",
    "400 levels": "params: " + "[" * 400 + "]" * 400 + "\n",
    "400 levels of lines": "params:\n" + "".join("  " * level + "- \n" for level in range(1, 401)),
    "100,000 levels": "params: " + "[" * 100_000,
    "400 levels of keys": "".join(" " * level + "a:\n" for level in range(400)),
    "a number of a million digits": "params: {seed: " + "9" * 1_000_000 + "}\n",
    "a number to base 60": "params: {seed: 1" + ":59" * 300_000 + "}\n",
    "a file of gigabytes": "",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("load", [load_backend, load_encoder_config, load_dataset_config])
def test_yaml_that_is_made_to_take_all_memory_is_one_line(text: str, load: Callable[[str], object]) -> None:
    Path("bomb.yaml").write_text(text)
    if not text:
        with Path("bomb.yaml").open("wb") as file:
            file.truncate(50 * 10**9)
    with pytest.raises(TlacError) as caught:
        load("bomb.yaml")
    assert str(caught.value).startswith("bomb.yaml")
    assert len(str(caught.value)) < 300


def test_aliases_that_repeat_little_are_fine() -> None:
    Path("own.yaml").write_text(
        "adapter: litellm\nmodel: gemini/x\nstage1_params: &p {temperature: 0}\nstage2_params: *p\n"
    )
    assert load_backend("own.yaml").spec.stage2_params == {"temperature": 0}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("limits: {concurrency: 0}", "Expected `int` >= 1 (at 'limits.concurrency')"),
        ("limits: {concurrency: 99999999999999999999999}", "Expected `int` <= 10000 (at 'limits.concurrency')"),
        ("limits: {timeout_s: 0}", "Expected `float` > 0.0 (at 'limits.timeout_s')"),
        ("limits: {timeout_s: .inf}", "line 3: .inf is no number that can be used here"),
        ("limits: {requests_per_minute: -1}", "Expected `int` >= 1 (at 'limits.requests_per_minute')"),
        ("params: {temperature: .nan}", "line 3: .nan is no number that can be used here"),
        ("prices: {prompt: -1, completion: 1}", "Expected `float` >= 0.0 (at 'prices.prompt')"),
        ("prices: {prompt: 1.0e+308, completion: 1}", "Expected `float` <= 1000000000.0 (at 'prices.prompt')"),
        ("image: {max_side_px: -5}", "Expected `int` >= 1 (at 'image.max_side_px')"),
        ("image: {quality: 100000}", "Expected `int` <= 95 (at 'image.quality')"),
    ],
)
def test_a_number_that_nobody_means_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"adapter: litellm\nmodel: gemini/x\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_backend(str(path))
    assert str(caught.value) == f"{path}: {complaint}"
