"""What the file of a backend, encoder, dataset or suite may say, parsed strictly; and what others published."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from tlac.cache.pack import read_manifest
from tlac.cache.remote_pack import fetch_pack
from tlac.config.files import Config, Kind, find, read_yaml, shipped_root
from tlac.errors import ConfigError, InputError, UnknownNameError, nearest_of
from tlac.runtime.safe_files import is_url
from tlac.types import Preparation

PUBLISHED = "benchmarks/published.yaml"

MAX_ENUM_VALUES = 1000
"""OpenAI refuses a schema with more enum values (https://developers.openai.com/api/docs/guides/structured-outputs);
above it an index is checked when it is read."""
# there: of an enum with more than so many values it refuses more characters in all
_MAX_ENUM_CHARS = 15_000
_MAX_LONG_ENUM_VALUES = 250
# Google names no number, but "enums with many values" among what is refused as too complex
# (https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/control-generated-output). Reported refused are
# some 100 class names (https://github.com/googleapis/python-genai/issues/950), and in function calls 240 values of two
# words, though not of one (https://github.com/googleapis/python-genai/issues/2133): half of that, or less, is taken
_MAX_GEMINI_NAMES = 50
_MAX_GEMINI_CHARS = 1_500
# a choice of ours: the pages of Anthropic (https://platform.claude.com/docs/en/build-with-claude/structured-outputs),
# vLLM (https://docs.vllm.ai/en/latest/features/structured_outputs/) and Ollama
# (https://docs.ollama.com/capabilities/structured-outputs) were not found to name one. Anthropic refuses a grammar that
# is too large when compiled (https://github.com/anthropics/anthropic-sdk-python/issues/1185)
_MAX_NAMES = 100


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the file schemas: immutable, and no key that is not listed."""


# a larger one would add up to what no number holds
_Price: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Limits(Schema, frozen=True):
    """How hard a backend may be asked: calls in flight, seconds per call, calls and tokens a minute."""

    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Prices(Schema, frozen=True):
    """USD per million tokens, for models that litellm's own table does not know.

    `cached` is the price of prompt tokens read from a cache, `cache_write` of those written to one.
    """

    prompt: _Price
    completion: _Price
    cached: _Price | None = None
    cache_write: _Price | None = None


class BackendSpec(Schema, frozen=True):
    """A backend file. `adapter` is an entry point of the group tlac.lmms; `options` are that adapter's own.

    `params` go to the provider for both stages, `stage1_params` and `stage2_params` on top of them.
    `choice_by_index` asks stage 2 for JSON with a class index, constrained by a schema; with `names_in_schema` as well,
    with the class name, where the schema can hold all names that are listed.
    """

    adapter: str
    model: str
    description: str = ""
    revision: str | None = None
    api_key_env: str | None = None
    api_base: str | None = None
    api_base_env: str | None = None
    params: dict[str, Any] = {}
    stage1_params: dict[str, Any] = {}
    stage2_params: dict[str, Any] = {}
    choice_by_index: bool = False
    # left out of the digest where it is not given, as it was of runs before it
    names_in_schema: bool | msgspec.UnsetType = msgspec.UNSET
    image: Preparation = Preparation()
    limits: Limits = Limits()
    prices: Prices | None = None
    options: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """Where it is asked: what its variable says, else its file; empty for its provider's own address."""
        return (os.environ.get(self.api_base_env or "") or self.api_base or "").rstrip("/")

    @property
    def api_key(self) -> str:
        """The key that its variable holds; empty where there is none."""
        return os.environ.get(self.api_key_env or "", "").strip()

    @property
    def asks_by_number(self) -> bool:
        """Whether a bare number that stage 2 answers is one of the list, even where a class has it as its name."""
        return self.choice_by_index and self.names_in_schema is not True

    def schema_holds(self, names: Sequence[str]) -> bool:
        """Whether the schema of the model's provider can hold all these names, each of which means one class.

        A name with quotes, backslashes or control characters is left out of schemas: not every provider takes it.
        """
        if len(set(names)) < len(names) or any('"' in name or "\\" in name or not name.isprintable() for name in names):
            return False
        characters = sum(map(len, names))
        if "gemini" in self.model:
            return len(names) <= _MAX_GEMINI_NAMES and characters <= _MAX_GEMINI_CHARS
        if not self.model.startswith("openai/"):
            return len(names) <= _MAX_NAMES
        is_short = len(names) <= _MAX_LONG_ENUM_VALUES or characters <= _MAX_ENUM_CHARS
        return len(names) <= MAX_ENUM_VALUES and is_short


class EncoderSpec(Schema, frozen=True):
    """A text encoder file. `adapter` is an entry point of the group tlac.encoders.

    `weights` is a pretrained tag, a local file or a folder, as the adapter understands it;
    `weights_sha256`, where given, is checked when the weights are loaded.
    """

    adapter: str
    model: str
    description: str = ""
    weights: str | None = None
    weights_sha256: str | None = None
    api_key_env: str | None = None
    api_base: str | None = None
    options: dict[str, Any] = {}


class Expected(Schema, frozen=True):
    """What a dataset is counted against: its classes, and the images of each subset when all classes are used.

    `per_class` are the test images of every class, or of each in label order. `split_file_sha256` is the
    digest of the published split file. `surplus` are folders that the archive holds beside the classes;
    `has_unlisted_images` says that it holds images that no subset uses.
    """

    classes: int
    test: int
    val: int | None = None
    train: int | None = None
    per_class: int | tuple[int, ...] | None = None
    split_file_sha256: str | None = None
    surplus: tuple[str, ...] = ()
    has_unlisted_images: bool = False

    @property
    def counts(self) -> dict[str, int | None]:
        """The images of each subset, None where they are not counted."""
        return {"test": self.test, "val": self.val, "train": self.train}


class Archive(Schema, frozen=True):
    """A file to download: its address, where torchvision looks for it below its root, and its md5 (hex)."""

    url: str
    path: str
    md5: str = ""


class Mirror(Schema, frozen=True):
    """A copy of a dataset on the Hugging Face hub: webdataset shards test/*.tar and a classnames.txt.

    `revision` is the commit to fetch, None for the newest. `expected` is what it holds, where that is known.
    """

    repo: str
    revision: str | None = None
    expected: Expected | None = None


class Download(Schema, frozen=True):
    """How a dataset is fetched: by torchvision's class of that name, which makes the folder `makes`.

    `archives` are what that class would download, fetched before it looks. `mirror` is another way to it, with
    other splits and sizes. `steps` are what a person does by hand, in order; {folder} in them stands for the
    dataset's folder.
    """

    torchvision: str | None = None
    archives: tuple[Archive, ...] = ()
    makes: str = "."
    mirror: Mirror | None = None
    steps: tuple[str, ...] = ()


class DatasetSpec(Schema, frozen=True):
    """A dataset file. `loader` is an entry point of the group tlac.datasets; `options` are that loader's own.

    `aliases` are further names of classes, by class name. `prompt` names the stage-1 prompt of a prompt set.
    `classes` lists the class names in label order, or `classes_from` names another dataset whose list it is.
    `protocol` says where split and names come from. `expected` is what verifying counts against, `download` how
    preparing fetches the files.
    """

    loader: str
    protocol: str
    description: str = ""
    prompt: str = "default"
    classes: tuple[str, ...] = ()
    classes_from: str | None = None
    aliases: dict[str, tuple[str, ...]] = {}
    expected: Expected | None = None
    download: Download = Download()
    options: dict[str, Any] = {}


class SuiteSpec(Schema, frozen=True):
    """A suite file: its datasets in order, and what is run on them unless the command says otherwise."""

    datasets: tuple[str, ...]
    description: str = ""
    split: str = "all"
    methods: tuple[str, ...] = ("tlac",)


class Published(Schema, frozen=True, rename={"is_digitised": "digitised"}):
    """What a publication says of one method on a suite and split: accuracies, in percent in the file and as shares once
    they are loaded.

    `mean` is the published average over `mean_over` datasets. `is_digitised` figures were read off a chart, with an
    error of about `error`, or of `error_by_dataset`. With `over` they are differences: what it gains over others.
    """

    method: str
    suite: str
    split: str
    source: str
    over: str | None = None
    mean: float | None = None
    mean_over: int | None = None
    by_dataset: dict[str, float] = {}
    is_digitised: bool = False
    error: float | None = None
    error_by_dataset: dict[str, float] = {}


Backend: TypeAlias = Config[BackendSpec]
EncoderConfig: TypeAlias = Config[EncoderSpec]
Suite: TypeAlias = Config[SuiteSpec]


@dataclass(frozen=True)
class DatasetConfig(Config[DatasetSpec]):
    """A dataset as asked for: what its file says, and which part of it.

    `root` is the folder that holds the datasets' folders; `split` is "all", "base" or "novel"; `subset` is "test",
    "val" or "train".
    """

    root: Path | None = None
    split: str = "all"
    subset: str = "test"


SchemaT = TypeVar("SchemaT", bound=msgspec.Struct)


def parse(schema: type[SchemaT], content: dict[str, Any], source: str) -> SchemaT:
    """What stands in `source`, as its schema. Raises ConfigError naming file and key, with the nearest known key."""
    try:
        return msgspec.convert(content, schema, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_complaint(schema, str(error))}") from error


def check_options(config: Backend | EncoderConfig, known: Mapping[str, type]) -> None:
    """Raise ConfigError naming file and key for an adapter's own option that is unknown or of another type."""
    for key, value in config.spec.options.items():
        if key not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{config.source}: unknown key {key!r} in 'options': known: {names}")
        if type(value) is not known[key]:
            raise ConfigError(f"{config.source}: option {key!r} must be of type {known[key].__name__}, not {value!r}")


def _load(kind: Kind, schema: type[SchemaT], name: str) -> Config[SchemaT]:
    found = find(kind, name)
    return Config(found.name, found.source, parse(schema, found.spec, found.source), stranger=found.stranger)


def _complaint(schema: type[msgspec.Struct], message: str) -> str:
    match = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*?)`)?", message)
    if not match:
        return re.sub(r" - at `\$\.?(.*?)`", lambda place: f" (at {place[1]!r})" if place[1] else "", message)
    key, place = match[1], match[2] or ""
    nested: type[msgspec.Struct] | None = schema
    for part in place.split(".") if place else ():
        nested = _struct_of(nested, part.partition("[")[0]) if nested else None
    known = nested.__struct_fields__ if nested else ()
    return f"unknown key {key!r}{f' in {place!r}' if place else ''}: {nearest_of(key, known)}"


def _struct_of(schema: type[msgspec.Struct], field: str) -> type[msgspec.Struct] | None:
    """The schema of a field: its own, or that of what it lists or may be."""
    hint = get_type_hints(schema).get(field)
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return kind
    return None


def load_backend(name: str, is_offline: bool = False) -> Backend:
    """A backend by name, or by the path of its YAML file. `pack:FILE` or `pack:URL` replays a response pack.

    A pack's backend asks just what the backend asked that gave its answers: the manifest says how. Of a pack that holds
    answers of several, `pack:FILE#NAME` replays one. One at a URL is fetched (see `tlac.cache.remote_pack`).
    """
    if name.startswith("pack:"):
        return _pack_backend(name.removeprefix("pack:"), is_offline)
    return _load("backend", BackendSpec, name)


def _pack_backend(name: str, is_offline: bool) -> Backend:
    place, way = _split_way(name)
    path, source = fetch_pack(place, is_offline) if is_url(place) else (Path(place), place)
    try:
        manifest = read_manifest(path)
    except InputError as error:
        # what was fetched is known to the user by its address
        raise InputError(str(error).replace(str(path), source)) from error
    ways = manifest.ways
    if way and way not in ways:
        raise UnknownNameError("backend of the pack", way, ways)
    if not way and len(ways) > 1:
        listed = ", ".join(f"pack:{source}#{label}" for label in ways)
        raise ConfigError(f"{source}: holds answers that were asked in {len(ways)} ways; choose one of: {listed}")
    chosen = way or next(iter(ways))
    content = {
        "adapter": "pack",
        "description": f"answers of {chosen}, replayed: {manifest.provenance}",
        "options": {"path": str(path)},
        **msgspec.to_builtins(ways[chosen]),
    }
    stem = re.split(r"\.|#sha256=", Path(source).name)[0]
    label = f"pack:{stem}#{way}" if way else f"pack:{stem}"
    return Backend(label, source, parse(BackendSpec, content, source))


def _split_way(name: str) -> tuple[str, str]:
    """The file or URL of a pack, and what is named behind it, as in FILE#NAME."""
    before, _, way = name.rpartition("#")
    # Path.exists raises for a name that is too long
    is_whole = not before or way.startswith("sha256=") or (not is_url(name) and os.path.exists(name))  # noqa: PTH110
    return (name, "") if is_whole else (before, way)


def load_encoder_config(name: str) -> EncoderConfig:
    """A text encoder by name, by the path of its YAML file, or as ADAPTER:MODEL.

    `open_clip:MODEL/WEIGHTS` takes a pretrained tag or a local weights file, `sentence_transformers:NAME`
    a hub name or a folder.
    """
    adapter, colon, model = name.partition(":")
    if colon and not name.endswith((".yaml", ".yml")):
        weights = None
        if adapter == "open_clip":
            model, _, weights = model.partition("/")
        return EncoderConfig(name, name, EncoderSpec(adapter=adapter, model=model, weights=weights or None))
    return _load("encoder", EncoderSpec, name)


def load_dataset_config(name: str, root: Path | None = None, split: str = "all", subset: str = "test") -> DatasetConfig:
    """A dataset by name, by the path of its YAML file, or as LOADER:PATH (folder:my-images)."""
    loader, colon, path = name.partition(":")
    if colon and not name.endswith((".yaml", ".yml")):
        spec = DatasetSpec(loader=loader, protocol=f"{loader} as given", options={"path": path})
        return DatasetConfig(name, name, spec, root=root, split=split, subset=subset)
    found = _load("dataset", DatasetSpec, name)
    spec = found.spec
    if spec.classes_from:
        lender = _load("dataset", DatasetSpec, spec.classes_from)
        spec = msgspec.structs.replace(spec, classes=lender.spec.classes)
    return DatasetConfig(found.name, found.source, spec, root=root, split=split, subset=subset)


def load_suite(name: str) -> Suite:
    """A suite by name or by the path of its YAML file. Raises UnknownNameError, ConfigError."""
    suite = _load("suite", SuiteSpec, name)
    if not suite.spec.datasets or not suite.spec.methods:
        raise ConfigError(f"{suite.source}: 'datasets' and 'methods' must each name at least one")
    return suite


def load_published(suite: str, split: str, section: Literal["figures", "gains"] = "figures") -> tuple[Published, ...]:
    """What was published for a suite and split, in the file's order; "gains" are differences.

    Raises ConfigError for a broken file.
    """
    path = shipped_root() / PUBLISHED
    file = read_yaml(path)
    listed = [parse(Published, entry, str(path)) for entry in file[section]]
    return tuple(
        msgspec.structs.replace(
            figure,
            source=file["sources"][figure.source],
            mean=None if figure.mean is None else figure.mean / 100,
            by_dataset={name: value / 100 for name, value in figure.by_dataset.items()},
            error=None if figure.error is None else figure.error / 100,
            error_by_dataset={name: value / 100 for name, value in figure.error_by_dataset.items()},
        )
        for figure in listed
        if (figure.suite, figure.split) == (suite, split)
    )
