"""Random and damaged files give a run or one line, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzzing import JSON, TEXTS, damage, fuzzed, one_line
from tests.support.table_files import write_shard
from tlac.config.files import list_names, read_yaml, shipped_root
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_dataset
from tlac.config.schemas import (
    BackendSpec,
    DatasetConfig,
    DatasetSpec,
    load_backend,
    load_dataset_config,
    load_encoder_config,
)
from tlac.errors import TlacError

pytestmark = pytest.mark.fuzz

LOADERS = {"backends": load_backend, "backends/encoders": load_encoder_config, "prompts": load_prompts}
SHIPPED = [path for folder in LOADERS for path in sorted((shipped_root() / folder).glob("*.yaml"))]
FIELDS = st.sampled_from([*BackendSpec.__struct_fields__, *DatasetSpec.__struct_fields__, "path", "images"])


def try_out(load, path: Path) -> None:
    try:
        load(str(path))
    except TlacError as error:
        one_line(error)


@fuzzed
@given(st.data())
def test_damaged_yaml_files(tmp_path: Path, data: st.DataObject) -> None:
    shipped = data.draw(st.sampled_from(SHIPPED))
    path = tmp_path / "damaged.yaml"
    path.write_bytes(data.draw(damage(shipped.read_bytes())))
    load = LOADERS[shipped.parent.relative_to(shipped_root()).as_posix()]
    try_out(load, path)


@fuzzed
@given(st.dictionaries(FIELDS | TEXTS, JSON, max_size=8), st.sampled_from([*LOADERS.values(), load_dataset_config]))
def test_yaml_of_every_shape(tmp_path: Path, content: dict, load) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try_out(load, path)


@fuzzed
@given(st.binary(max_size=200))
def test_any_bytes_as_yaml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        read_yaml(path)
    except TlacError as error:
        one_line(error)


SPLIT = json.dumps(
    {"train": [], "val": [], "test": [["cat/1.jpg", 0, "cat"], ["dog/1.jpg", 1, "dog"], ["dog/2.jpg", 1, "dog"]]}
).encode()
ROWS = st.lists(st.lists(JSON, max_size=4) | st.tuples(TEXTS, st.integers(), TEXTS).map(list), max_size=5)


@fuzzed
@given(
    damage(SPLIT)
    | st.dictionaries(st.sampled_from(["train", "val", "test", "x"]), ROWS).map(lambda rows: json.dumps(rows).encode())
)
def test_split_files(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "pets"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "split.json").write_bytes(content)
    options = {"folder": "pets", "images": "images", "split_file": "split.json"}
    spec = DatasetSpec(loader="coop", protocol="CoOp", classes=("cat", "dog"), options=options)
    try:
        list(open_dataset(DatasetConfig("pets", "pets.yaml", spec, root=tmp_path)))
    except TlacError as error:
        one_line(error)


LIST = 'path,label,note\n1.jpg,"crane, bird",x\n2.jpg,crane,"a\nb"\n3.jpg,caf\u00e9,\n'.encode()
CELLS = st.text(st.sampled_from('ab,;\t"\n\r \ufeff'), max_size=12)


@fuzzed
@given(damage(LIST) | st.lists(CELLS, max_size=6).map(lambda rows: "path,label\n{}".format("\n".join(rows)).encode()))
def test_csv_lists(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    try:
        list(open_dataset(load_dataset_config(f"csv:{tmp_path / 'list.csv'}")))
    except TlacError as error:
        one_line(error)


@fuzzed
@given(st.sampled_from([0, 1, 2]), st.data())
def test_webdataset_shards(tmp_path: Path, cut: int, data: st.DataObject) -> None:
    from tlac.datasets.huggingface import table_files

    path = tmp_path / "shard.tar"
    whole = write_shard(path).read_bytes()
    content = whole[: data.draw(st.integers(0, len(whole)))] if cut else data.draw(damage(whole))
    path.write_bytes(content)
    try:
        table_files(str(path), "test")
    except TlacError as error:
        one_line(error)
    else:
        # a shard is cut anywhere before its end mark
        assert not cut or len(content) > len(whole.rstrip(b"\0"))


@pytest.mark.parametrize("name", list_names("dataset"))
def test_every_shipped_dataset_says_in_one_line_that_it_is_not_there(tmp_path: Path, name: str) -> None:
    try:
        open_dataset(load_dataset_config(name, tmp_path))
    except TlacError as error:
        one_line(error)
