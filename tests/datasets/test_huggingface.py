import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.file_server import running_file_server
from tests.support.table_files import IMAGES, LABELS, NAMES, write_parquet, write_shard
from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets.huggingface import split_address
from tlac.errors import ConfigError, InputError


@pytest.fixture(autouse=True)
def own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    datasets.disable_progress_bars()


def open_at(address: str, **asked: str):
    return open_dataset(load_dataset_config(f"hf:{address}", **asked))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/set", ("org/set", None, None)),
        ("org/set:test", ("org/set", None, "test")),
        ("org/set@v1.0:train", ("org/set", "v1.0", "train")),
        ("org/set@refs/pr/1", ("org/set", "refs/pr/1", None)),
        ("set@abc", ("set", "abc", None)),
        ("s3://bucket/a@b", ("s3://bucket/a@b", None, None)),
        ("s3://bucket/set:val", ("s3://bucket/set", None, "val")),
    ],
)
def test_an_address_names_repository_revision_and_split(text: str, address: tuple[str, str | None, str | None]) -> None:
    assert split_address(text) == address


def test_a_local_path_may_hold_the_marks_of_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "a@b:c"
    folder.mkdir()
    assert split_address(str(folder)) == (str(folder), None, None)
    assert split_address(f"{folder}:test") == (str(folder), None, "test")


def test_a_parquet_folder_keeps_the_original_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set")
    dataset = open_at(str(tmp_path / "set"))
    assert dataset.classes == tuple(NAMES)
    assert [(sample.source, sample.label) for sample in dataset] == list(zip(IMAGES, LABELS, strict=True))
    assert len(dataset) == 4
    assert dataset.protocol == "hf as given, split test"
    assert [sample.id for sample in dataset] == ["000000", "000001", "000002", "000003"]


def test_the_hub_is_not_told_of_files_that_it_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import fsspec

    table = write_parquet(tmp_path / "set")
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/test.parquet", table.read_bytes())
    asked: list[object] = []
    # the library swallows whatever goes wrong there
    monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a session"))
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    for address in (table, table.parent, f"memory://{tmp_path.name}/test.parquet"):
        assert len(open_at(str(address))) == 4
    assert asked == []
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


def test_a_webdataset_shard_takes_its_names_from_the_file_beside_it(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "wds" / "shard-000.tar")
    with pytest.raises(InputError, match=r"there is no classnames.txt"):
        open_at(str(shard))
    (shard.parent / "classnames.txt").write_text("cat\ndog\nemu\n")
    for address in (shard, shard.parent):
        dataset = open_at(str(address))
        assert dataset.classes == tuple(NAMES)
        assert [(sample.source, sample.label) for sample in dataset] == list(zip(IMAGES, LABELS, strict=True))
        assert [sample.id for sample in dataset] == ["s0", "s1", "s2", "s3"]


def test_tables_in_an_object_store_are_those_of_this_machine(tmp_path: Path) -> None:
    import fsspec

    table, shard = write_parquet(tmp_path / "set"), write_shard(tmp_path / "wds" / "shard-000.tar")
    store = fsspec.filesystem("memory")
    bucket = f"bucket-{tmp_path.name}"
    store.pipe(f"/{bucket}/set/data/test-00000-of-00001.parquet", table.read_bytes())
    store.pipe(f"/{bucket}/wds/shard-000.tar", shard.read_bytes())
    with pytest.raises(InputError, match=r"there is no classnames.txt"):
        open_at(f"memory://{bucket}/wds")
    store.pipe(f"/{bucket}/wds/classnames.txt", b"cat\ndog\nemu\n")
    for address in ("set", "set:test", "set/data/test-00000-of-00001.parquet", "wds", "wds/shard-000.tar"):
        dataset = open_at(f"memory://{bucket}/{address}")
        assert dataset.classes == tuple(NAMES)
        assert [(sample.source, sample.label) for sample in dataset] == list(zip(IMAGES, LABELS, strict=True))
    with pytest.raises(InputError, match=r"no split 'train': add one of :test"):
        open_at(f"memory://{bucket}/set", subset="train")


def test_a_url_that_leads_nowhere_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"memory://nowhere/set: no .parquet or .tar files there"):
        open_at("memory://nowhere/set")
    with pytest.raises(InputError, match=r"nonsense://bucket/set: can't be listed: Protocol not known"):
        open_at("nonsense://bucket/set")


def test_folder_csv_and_tables_hold_the_same_images_labels_and_classes(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    lines = ["path,label"]
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = root / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        lines.append(f"{NAMES[label]}/{number}.png,{NAMES[label]}")
    (root / "list.csv").write_text("\n".join(lines))
    shard = write_shard(tmp_path / "wds" / "shard.tar")
    (shard.parent / "classnames.txt").write_text("\n".join(NAMES))
    addresses = (f"folder:{root}", f"csv:{root / 'list.csv'}", f"hf:{write_parquet(tmp_path / 'p')}", f"hf:{shard}")
    contents = []
    for address in addresses:
        dataset = open_dataset(load_dataset_config(address))
        pairs = {
            (sample.source.read_bytes() if isinstance(sample.source, Path) else sample.source, sample.label)
            for sample in dataset
        }
        contents.append((dataset.classes, pairs))
    assert contents[1:] == contents[:1] * 3


def test_text_labels_are_sorted_into_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", labels=["emu", "cat", "emu", "dog"], kind="text")
    dataset = open_at(str(tmp_path / "set"))
    assert (dataset.classes, [sample.label for sample in dataset]) == (("cat", "dog", "emu"), [2, 0, 2, 1])


def test_the_split_asked_for_is_taken(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", "train")
    write_parquet(tmp_path / "set", "validation", labels=[2, 2, 2, 2])
    with pytest.raises(InputError, match=r"no split 'test': add one of :train, :validation"):
        open_at(str(tmp_path / "set"))
    assert {sample.label for sample in open_at(str(tmp_path / "set"), subset="val")} == {2}
    assert {sample.label for sample in open_at(f"{tmp_path / 'set'}:train")} == {0, 1, 2}


def test_halves_are_taken_from_tables_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set")
    base = open_at(str(tmp_path / "set"), split="base")
    assert (base.classes, [(sample.id, sample.label) for sample in base]) == (
        ("cat", "dog"),
        [("000000", 0), ("000002", 1)],
    )
    with pytest.raises(InputError, match="1 class in split 'novel': at least two"):
        open_at(str(tmp_path / "set"), split="novel")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_named(tmp_path: Path, label: int) -> None:
    write_parquet(tmp_path / "set", labels=[0, 1, label, 2], kind="number")
    (tmp_path / "set" / "classnames.txt").write_text("\n".join(NAMES))
    with pytest.raises(InputError, match=rf"row 2: the label {label} is none of the 3 classes"):
        open_at(str(tmp_path / "set"))


def test_columns_may_be_named_and_unknown_ones_are_listed(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set")
    for column, message in (("label", None), ("kind", r"no label column kind among image, label")):
        (tmp_path / "set.yaml").write_text(
            f"loader: hf\nprotocol: ours\noptions: {{path: '{path}', label_column: {column}}}\n"
        )
        config = load_dataset_config(str(tmp_path / "set.yaml"))
        if message is None:
            assert len(open_dataset(config)) == 4
        else:
            with pytest.raises(InputError, match=message):
                open_dataset(config)


def test_an_image_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    secret = tmp_path / "secret.png"
    secret.write_bytes(IMAGES[0])
    image = {"bytes": Value("binary"), "path": Value("string")}
    table = Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(secret)}] * 2, "label": [0, 1]},
        features=Features(image=image, label=ClassLabel(names=NAMES)),
    )
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "test.parquet")
    for address in (tmp_path / "set", tmp_path / "set" / "test.parquet"):
        with pytest.raises(InputError, match="row 0: holds no image, and names none among the dataset's own files"):
            list(open_at(str(address)))


def write_loose(folder: Path) -> dict[str, bytes]:
    """Image files in a folder of their class each."""
    files = {f"{NAMES[label]}/{number}.png": IMAGES[number] for number, label in enumerate(LABELS)}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def test_a_folder_of_image_files_is_read_but_no_link_out_of_it(tmp_path: Path) -> None:
    write_loose(tmp_path / "set")
    dataset = open_at(str(tmp_path / "set"))
    assert dataset.classes == tuple(NAMES)
    assert sorted((sample.source, sample.label) for sample in dataset) == sorted(zip(IMAGES, LABELS, strict=True))
    (tmp_path / "secret.png").write_bytes(IMAGES[0])
    (tmp_path / "set" / "cat" / "0.png").unlink()
    (tmp_path / "set" / "cat" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="row 0: holds no image, and names none among the dataset's own files"):
        list(open_at(str(tmp_path / "set")))


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "loose"])
def test_a_repository_of_the_hub_is_read_and_no_other_split_of_it_is_fetched(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        names = ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
        files = {name: write_parquet(tmp_path, name[5:].partition("-")[0]).read_bytes() for name in names}
    elif kind == "loose":
        files = {f"test/{name}": content for name, content in write_loose(tmp_path / "loose").items()}
    else:
        shard = write_shard(tmp_path / "shard.tar").read_bytes()
        files = {"train/0.tar": shard, "test/0.tar": shard, "classnames.txt": "\n".join(NAMES).encode()}
    home = tmp_path / "home"
    with running_file_server() as server:
        FakeHub(server).publish("ours/pets", "0123456789abcdef0123456789abcdef01234567", files)
        shown = verify_from_hub("hf:ours/pets@main:test", server.base, home)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert (found["n"], found["classes"], found["images"], found["good"]) == (4, 3, 4, True)
    assert found["protocol"] == "hf as given, split test at main"
    assert "Generating" not in shown.stderr
    kinds = (".parquet", ".tar", ".png")
    fetched = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.suffix in kinds}
    assert fetched
    assert not [path for path in fetched if "train" in path]
    again = verify_from_hub("hf:ours/pets@main:test", server.base, home)
    assert (again.returncode, again.stdout) == (0, shown.stdout)
    other = verify_from_hub("hf:ours/pets@v2:test", server.base, home)
    assert "is not on this machine" in other.stdout


def test_a_shard_that_lies_cut_short_on_the_hub_is_named_once_it_is_fetched(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard.tar")
    with tarfile.open(path) as opened:
        border = opened.getmembers()[4].offset
    files = {"test/0.tar": path.read_bytes()[:border], "classnames.txt": "\n".join(NAMES).encode()}
    with running_file_server() as server:
        FakeHub(server).publish("ours/pets", "0123456789abcdef0123456789abcdef01234567", files)
        shown = verify_from_hub("hf:ours/pets@main:test", server.base, tmp_path / "home")
    assert "0.tar: is cut short or damaged (it has no end mark)" in shown.stdout + shown.stderr


def test_a_repository_that_can_t_be_had_is_one_line_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tlac", "bench", "--backend", "embedded", "--encoder", "minilm"]
    asked = subprocess.run(
        [*command, "--dataset", "hf:ours/pets:test"],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode != 0
    (line,) = asked.stderr.splitlines()
    assert line.startswith("tlac: hf:ours/pets:test: is not on this machine, and http://127.0.0.1:9 can't be reached")


def verify_from_hub(name: str, hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    """As a user has it: a process of its own, the hub's address in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "tlac", "datasets", "verify", name, "--json"],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes.txt: not a .parquet or .tar file"):
        open_at(str(tmp_path / "notes.txt"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="can't be loaded") as caught:
        open_at(str(tmp_path / "broken.parquet"))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'tlac\[hf\]'"):
        open_at("org/set")


def write_table(path: Path, columns: dict[str, list], features: dict[str, object] | None = None) -> Path:
    """A parquet file of two images and these columns."""
    from datasets import Dataset, Features, Image, Value

    given = {"image": [{"bytes": image, "path": None} for image in IMAGES[:2]], **columns}
    kinds = {name: (features or {}).get(name, Value("string")) for name in columns}
    table = Dataset.from_dict(given, features=Features({"image": Image(), **kinds}))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return path


def test_a_column_of_a_known_name_comes_before_a_lone_one_of_the_type(tmp_path: Path) -> None:
    from datasets import ClassLabel

    columns = {"label": ["cat", "dog"], "source": [0, 1]}
    path = write_table(tmp_path / "a.parquet", columns, {"source": ClassLabel(names=["web", "phone"])})
    dataset = open_at(str(path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.details == {"image column": "image", "label column": "label", "table split": "test"}
    other = open_at(f"{path},label_column=source,image_column=image")
    assert (other.classes, other.details["label column"]) == (("web", "phone"), "source")
    with pytest.raises(InputError, match="no label column breed among image, label, source"):
        open_at(f"{path},label_column=breed")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("label", "class"), "label and class may each be the label column: add ,label_column=NAME to the address"),
        (("txt",), "no label column among image, txt"),
    ],
)
def test_columns_that_may_both_be_labels_and_captions_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    path = write_table(tmp_path / "a.parquet", {name: ["cat", "dog"] for name in names})
    with pytest.raises(InputError, match=message):
        open_at(str(path))


def test_two_class_label_columns_of_other_names_are_refused(tmp_path: Path) -> None:
    from datasets import ClassLabel

    kind = ClassLabel(names=NAMES)
    path = write_table(tmp_path / "a.parquet", {"breed": [0, 1], "origin": [1, 0]}, {"breed": kind, "origin": kind})
    with pytest.raises(InputError, match="breed and origin may each be the label column"):
        open_at(str(path))
    assert [sample.label for sample in open_at(f"{path},label_column=origin")] == [1, 0]


@pytest.mark.parametrize("kind", ["text", "names", "number"])
def test_rows_without_a_label_are_left_out_and_noted_and_the_others_keep_theirs(tmp_path: Path, kind: str) -> None:
    labels = ["emu", None, "cat", " "] if kind == "text" else [2, None, 0, None]
    write_parquet(tmp_path / "set", labels=labels, kind=kind)
    (tmp_path / "set" / "classnames.txt").write_text("\n".join(NAMES))
    dataset = open_at(str(tmp_path / "set"))
    assert [(sample.id, dataset.classes[sample.label]) for sample in dataset] == [("000000", "emu"), ("000002", "cat")]
    assert dataset.notes[0] == "2 rows left out for want of a label: 1, 3"
    if kind != "text":
        base = open_at(str(tmp_path / "set"), split="base")
        assert [(sample.id, base.classes[sample.label]) for sample in base] == [("000002", "cat")]


def test_a_row_without_an_image_fails_alone(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": IMAGES[0], "path": None}, None, {"bytes": None, "path": "gone.png"}]
    table = pyarrow.table({"image": images, "label": ["cat", "dog", "emu"]})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    dataset = open_at(str(tmp_path / "test.parquet"))
    sources = [sample.source for sample in dataset]
    assert sources == [IMAGES[0], b"", tmp_path / "gone.png"]
    assert dataset.notes == ("1 row without an image: 1",)


def test_a_relative_path_in_a_table_is_below_the_tables_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, Features, Value

    image = {"bytes": Value("binary"), "path": Value("string")}
    rows = {"image": [{"bytes": None, "path": f"img/{number}.png"} for number in range(2)], "label": ["a", "b"]}
    (tmp_path / "set" / "img").mkdir(parents=True)
    (tmp_path / "work" / "img").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "set" / "img" / f"{number}.png").write_bytes(IMAGES[number])
        (tmp_path / "work" / "img" / f"{number}.png").write_bytes(IMAGES[3])
    Dataset.from_dict(rows, features=Features(image=image, label=Value("string"))).to_parquet(
        tmp_path / "set" / "test.parquet"
    )
    monkeypatch.chdir(tmp_path / "work")
    for address in (tmp_path / "set", tmp_path / "set" / "test.parquet"):
        assert [sample.source for sample in open_at(str(address))] == IMAGES[:2]


def shard_bytes(path: Path) -> bytes:
    (path.parent / "classnames.txt").write_text("\n".join(NAMES))
    return path.read_bytes()


@pytest.mark.parametrize("cut", ["at a member's border", "in a member", "to nothing", "in a header"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, cut: str, is_remote: bool) -> None:
    import fsspec

    shard = write_shard(tmp_path / "wds" / "test-0.tar")
    content = shard_bytes(shard)
    with tarfile.open(shard) as opened:
        border = opened.getmembers()[4].offset
    cuts = {"at a member's border": border, "in a member": border + 540, "to nothing": 0, "in a header": border + 100}
    shard.write_bytes(content[: cuts[cut]])
    address = str(shard.parent)
    if is_remote:
        store, address = fsspec.filesystem("memory"), f"memory://cut-{tmp_path.name}"
        for path in shard.parent.iterdir():
            store.pipe(f"/cut-{tmp_path.name}/{path.name}", path.read_bytes())
    with pytest.raises(InputError, match=r"test-0\.tar: is cut short or damaged"):
        open_at(address)


@pytest.mark.parametrize("lost", ["s2.png", "s2.cls"])
def test_a_shard_that_lacks_a_member_or_has_an_empty_one_is_named(tmp_path: Path, lost: str) -> None:
    shard = tmp_path / "wds" / "shard.tar"
    shard.parent.mkdir()
    shard_of = {name: content for number in range(12) for name, content in member_pair(number)}
    for change in ("missing", "empty"):
        members = {name: b"" if name == lost else content for name, content in shard_of.items()}
        if change == "missing":
            # the library takes the columns from the first five samples
            members = {name: content for name, content in shard_of.items() if name != lost.replace("2", "9")}
        write_members(shard, members)
        shard_bytes(shard)
        with pytest.raises(InputError, match=r"shard\.tar") as caught:
            open_at(str(shard))
        assert ("is empty" if change == "empty" else "for s9") in str(caught.value)


def member_pair(number: int) -> list[tuple[str, bytes]]:
    return [(f"s{number}.png", IMAGES[number % 4]), (f"s{number}.cls", str(number % 3).encode())]


def write_members(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def test_samples_of_shards_that_each_count_from_zero_have_ids_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        shard_bytes(write_shard(tmp_path / "wds" / f"test-{number}.tar"))
    assert [sample.id for sample in open_at(str(tmp_path / "wds"))] == [f"{row:06d}" for row in range(8)]


def test_a_part_that_is_missing_among_several_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set")
    path.rename(path.with_name("test-00001-of-00003.parquet"))
    with pytest.raises(InputError, match=r"test-00000-of-00003\.parquet is missing beside test-00001"):
        open_at(str(tmp_path / "set"))


def test_a_list_of_names_beside_a_table_is_read_strictly(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set", kind="number")
    names = path.parent / "classnames.txt"
    names.write_text("\ufeffn01 cat\nn02 dog\nn03 emu\n")
    assert open_at(str(path.parent)).classes == tuple(NAMES)
    names.write_text("cat\n\ndog\nemu\n")
    with pytest.raises(InputError, match=r"classnames\.txt, line 2: is blank"):
        open_at(str(path.parent))


def test_an_offline_run_does_not_ask_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    config = replace(load_dataset_config("hf:ours/pets:test"), is_offline=True)
    with pytest.raises(InputError, match=r"is not on this machine, and .*offline"):
        open_dataset(config)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [["cat"], ["dog"]]}, "the column label holds list and no labels: name another"),
        ({"label": [b"cat", b"dog"]}, "the column label holds bytes and no labels: name another"),
        ({"label": [None, " "]}, "no row has a label in the column label: name another column"),
        ({"label": ["cat", "dog"], "image": [1, 2]}, "the column image holds no images, but Value"),
    ],
)
def test_a_column_of_another_kind_is_named(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image": IMAGES[:2], **columns})
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        open_at(str(tmp_path / "test.parquet"))
