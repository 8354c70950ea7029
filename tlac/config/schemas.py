"""What a backend, encoder, dataset or prompt file may say, parsed strictly.

Does not know where files lie (tlac.config.files) nor the adapters that the files name.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from tlac.cache.pack import read_manifest
from tlac.cache.remote_pack import fetch_pack, is_address
from tlac.config.files import Resource, find
from tlac.errors import ConfigError, InputError, UnknownNameError
from tlac.hashing import sha256_of
from tlac.types import Preparation


class _Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the file schemas: immutable, and no key that is not listed."""


# a larger one would add up to what no number holds
_Price: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Limits(_Schema, frozen=True):
    """How hard a backend may be asked: calls in flight, seconds per call, calls and tokens a minute."""

    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Prices(_Schema, frozen=True):
    """USD per million tokens, for models that litellm's own table does not know.

    `cached` is the price of prompt tokens read from a cache, `cache_write` of those written to one.
    """

    prompt: _Price
    completion: _Price
    cached: _Price | None = None
    cache_write: _Price | None = None


class BackendSpec(_Schema, frozen=True):
    """A backend file. `adapter` is an entry point of the group tlac.lmms; `options` are that adapter's own.

    `params` go to the provider for both stages, `stage1_params` and `stage2_params` on top of them.
    `choice_by_index` asks stage 2 for JSON with a class index, constrained by a schema.
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
    image: Preparation = Preparation()
    limits: Limits = Limits()
    prices: Prices | None = None
    options: dict[str, Any] = {}


class EncoderSpec(_Schema, frozen=True):
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


class Expected(_Schema, frozen=True):
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


class Archive(_Schema, frozen=True):
    """A file to download: its address, where torchvision looks for it below its root, and its md5 (hex)."""

    url: str
    path: str
    md5: str = ""


class Mirror(_Schema, frozen=True):
    """A copy of a dataset on the Hugging Face hub: webdataset shards test/*.tar and a classnames.txt.

    `revision` is the commit to fetch, None for the newest. `expected` is what it holds, where that is known.
    """

    repo: str
    revision: str | None = None
    expected: Expected | None = None


class Download(_Schema, frozen=True):
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


class DatasetSpec(_Schema, frozen=True):
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


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend: its name, the file it came from, and what that file says. `stranger` as in `Resource`."""

    name: str
    source: str
    spec: BackendSpec
    stranger: tuple[Path, str] | None = None

    @property
    def digest(self) -> str:
        """The sha256 (hex) of all that the file says."""
        return sha256_of(msgspec.to_builtins(self.spec))


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A text encoder: its name, the file it came from, and what that file says.

    With `is_offline` it is to be loaded from this machine alone. `stranger` as in `Resource`.
    """

    name: str
    source: str
    spec: EncoderSpec
    is_offline: bool = False
    stranger: tuple[Path, str] | None = None


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """A dataset as asked for: its name, the file it came from, what that file says, and which part of it.

    `root` is the folder that holds the datasets' folders; `split` is "all", "base" or "novel";
    `subset` is "test", "val" or "train". Where it `is_offline`, the Hugging Face hub is not asked.
    """

    name: str
    source: str
    spec: DatasetSpec
    root: Path | None = None
    split: str = "all"
    subset: str = "test"
    is_offline: bool = False


SchemaT = TypeVar("SchemaT", bound=msgspec.Struct)


def parse(schema: type[SchemaT], resource: Resource) -> SchemaT:
    """A description as its schema. Raises ConfigError naming file and key, with the nearest known key."""
    try:
        return msgspec.convert(resource.content, schema, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{resource.source}: {_complaint(schema, str(error))}") from error


def _complaint(schema: type[msgspec.Struct], message: str) -> str:
    match = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*?)`)?", message)
    if not match:
        return re.sub(r" - at `\$\.?(.*?)`", lambda place: f" (at {place[1]!r})" if place[1] else "", message)
    key, place = match[1], match[2] or ""
    nested: type[msgspec.Struct] | None = schema
    for part in place.split(".") if place else ():
        nested = _struct_of(nested, part.partition("[")[0]) if nested else None
    known = nested.__struct_fields__ if nested else ()
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"unknown key {key!r}{f' in {place!r}' if place else ''}: {hint}"


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
    resource = find("backend", name)
    return Backend(resource.name, resource.source, parse(BackendSpec, resource), resource.stranger)


def _pack_backend(name: str, is_offline: bool) -> Backend:
    place, way = _split_way(name)
    path, source = fetch_pack(place, is_offline) if is_address(place) else (Path(place), place)
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
        **msgspec.structs.asdict(ways[chosen]),
    }
    stem = re.split(r"\.|#sha256=", Path(source).name)[0]
    label = f"pack:{stem}#{way}" if way else f"pack:{stem}"
    return Backend(label, source, parse(BackendSpec, Resource(label, source, content)))


def _split_way(name: str) -> tuple[str, str]:
    """The file or URL of a pack, and what is named behind it, as in FILE#NAME."""
    before, _, way = name.rpartition("#")
    # Path.exists raises for a name that is too long
    is_whole = not before or way.startswith("sha256=") or (not is_address(name) and os.path.exists(name))  # noqa: PTH110
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
    resource = find("encoder", name)
    return EncoderConfig(resource.name, resource.source, parse(EncoderSpec, resource), stranger=resource.stranger)


def load_dataset_config(name: str, root: Path | None = None, split: str = "all", subset: str = "test") -> DatasetConfig:
    """A dataset by name, by the path of its YAML file, or as LOADER:PATH (folder:my-images)."""
    loader, colon, path = name.partition(":")
    if colon and not name.endswith((".yaml", ".yml")):
        spec = DatasetSpec(loader=loader, protocol=f"{loader} as given", options={"path": path})
        return DatasetConfig(name, name, spec, root, split, subset)
    resource = find("dataset", name)
    spec = parse(DatasetSpec, resource)
    if spec.classes_from:
        lender = parse(DatasetSpec, find("dataset", spec.classes_from))
        spec = msgspec.structs.replace(spec, classes=lender.classes)
    return DatasetConfig(resource.name, resource.source, spec, root, split, subset)
