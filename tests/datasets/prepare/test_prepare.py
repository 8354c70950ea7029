import errno
import inspect
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from tlac.config.files import list_names
from tlac.config.schemas import load_dataset_config
from tlac.datasets.prepare.download import OnBytes, RemoteFile
from tlac.datasets.prepare.prepare import STAGING, Prepared, fetch_mirror, prepare_dataset
from tlac.errors import ConfigError, TlacError, UnknownNameError, UsageError


class Source:
    """Stands in for the network and for torchvision, and remembers what it was asked for.

    Fetching an archive writes its name into it; reading fills a folder with `files`, as torchvision would.
    """

    def __init__(self, *files: str) -> None:
        self.files = files
        self.fetched: list[str] = []
        self.read_with: list[str] = []

    def fetch(self, archive: RemoteFile, on_bytes: OnBytes | None) -> None:
        self.fetched.append(archive.path.name)
        archive.path.parent.mkdir(parents=True, exist_ok=True)
        archive.path.write_text(archive.path.name)

    def read(self, reader: str, folder: Path) -> None:
        self.read_with.append(reader)
        for name in self.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    def prepare(self, name: str, root: Path) -> Prepared:
        return prepare_dataset(load_dataset_config(name, root), fetch=self.fetch, read=self.read)


def test_a_download_is_put_where_coop_has_it(tmp_path: Path) -> None:
    source = Source("oxford-iiit-pet/images/a.jpg", "oxford-iiit-pet/annotations/test.txt")
    prepared = source.prepare("oxford_pets", tmp_path)
    assert source.fetched == ["images.tar.gz", "annotations.tar.gz"]
    assert source.read_with == ["OxfordIIITPet"]
    assert prepared.is_downloaded
    assert prepared.folder == tmp_path / "oxford_pets"
    assert sorted(path.name for path in prepared.folder.iterdir()) == ["annotations", "images"]
    assert not (tmp_path / STAGING / "oxford_pets").exists()


@pytest.mark.parametrize(
    ("name", "made", "placed"),
    [
        ("dtd", "dtd/dtd/images/x.jpg", "dtd/images/x.jpg"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/variants.txt", "fgvc_aircraft/variants.txt"),
        ("caltech101", "caltech101/101_ObjectCategories/a/1.jpg", "caltech-101/101_ObjectCategories/a/1.jpg"),
        ("flowers102", "flowers-102/jpg/1.jpg", "oxford_flowers/jpg/1.jpg"),
        ("eurosat", "eurosat/2750/Forest/1.jpg", "eurosat/2750/Forest/1.jpg"),
        ("food101", "food-101/images/a/1.jpg", "food-101/images/a/1.jpg"),
        ("cifar10", "cifar-10-batches-py/test_batch", "cifar-10-batches-py/test_batch"),
    ],
)
def test_each_download_lands_in_its_own_layout(tmp_path: Path, name: str, made: str, placed: str) -> None:
    Source(made).prepare(name, tmp_path)
    assert (tmp_path / placed).read_text() == made


def test_archives_are_removed_once_they_are_unpacked_and_lists_are_kept(tmp_path: Path) -> None:
    source = Source("flowers-102/jpg/1.jpg")
    source.prepare("flowers102", tmp_path)
    assert source.fetched == ["102flowers.tgz", "imagelabels.mat", "setid.mat"]
    kept = sorted(path.name for path in (tmp_path / "oxford_flowers").iterdir())
    assert kept == ["imagelabels.mat", "jpg", "setid.mat"]


def test_what_is_there_already_is_neither_fetched_nor_changed(tmp_path: Path) -> None:
    source = Source("dtd/dtd/images/x.jpg")
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text("mine")
    assert source.prepare("dtd", tmp_path).is_downloaded
    assert not source.prepare("dtd", tmp_path).is_downloaded
    assert source.read_with == ["DTD"]
    assert (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").read_text() == "mine"


def test_an_unpacking_that_was_stopped_begins_anew_with_the_archive_that_is_there(tmp_path: Path) -> None:
    source = Source("food-101/images/a/1.jpg")
    read = source.read

    def break_off(reader: str, folder: Path) -> None:
        (folder / "food-101" / "images" / "b").mkdir(parents=True)
        (folder / "food-101" / "images" / "b" / "half.jpg").write_text("ha")
        raise OSError("disk\nfull")

    source.read = break_off  # type: ignore[method-assign]
    with pytest.raises(TlacError, match=r"food101: the download failed \(disk full\): run the command again"):
        source.prepare("food101", tmp_path)
    assert not (tmp_path / "food-101").exists()
    assert (tmp_path / STAGING / "food101" / "food-101.tar.gz").exists()
    source.read = read  # type: ignore[method-assign]
    assert source.prepare("food101", tmp_path).is_downloaded
    assert [path.name for path in (tmp_path / "food-101").rglob("*.jpg")] == ["1.jpg"]


def test_a_damaged_archive_is_said_to_be_one(tmp_path: Path) -> None:
    source = Source()
    source.read = lambda reader, folder: tarfile.open(folder / "food-101.tar.gz").close()  # type: ignore[method-assign]
    with pytest.raises(TlacError, match=r"food101: an archive can't be unpacked .*: remove .* and run the command"):
        source.prepare("food101", tmp_path)


@pytest.mark.parametrize("is_other_disk", [False, True])
def test_a_move_into_place_that_was_stopped_is_finished_without_fetching_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_other_disk: bool
) -> None:
    source = Source("oxford-iiit-pet/images/a.jpg", "oxford-iiit-pet/images/b.jpg", "oxford-iiit-pet/list.txt")
    rename, copy = Path.rename, shutil.copytree

    def rename_here(path: Path, target: Path) -> Path:
        if is_other_disk and path.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if not is_other_disk and path.name == "list.txt":
            raise KeyboardInterrupt
        return rename(path, target)

    def copy_one(tree: Path, target: Path) -> None:
        target.mkdir()
        (target / "a.jpg").write_bytes((tree / "a.jpg").read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_here)
        patched.setattr(shutil, "copytree", copy_one)
        with pytest.raises(KeyboardInterrupt):
            source.prepare("oxford_pets", tmp_path)
    monkeypatch.setattr(Path, "rename", rename_here if is_other_disk else rename)
    monkeypatch.setattr(shutil, "copytree", copy)
    assert source.prepare("oxford_pets", tmp_path).is_downloaded
    assert len(source.fetched) == 2
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"oxford_pets/{name}" for name in ("images/a.jpg", "images/b.jpg", "list.txt")}
    assert not source.prepare("oxford_pets", tmp_path).is_downloaded


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    source = Source()

    def unpack(reader: str, folder: Path) -> None:
        entry = tarfile.TarInfo("../../../stolen.txt")
        with tarfile.open(folder / "evil.tar", "w") as archive:
            archive.addfile(entry, io.BytesIO())
        with tarfile.open(folder / "evil.tar") as archive:
            archive.extractall(folder)  # as torchvision does it

    source.read = unpack  # type: ignore[method-assign]
    before = tarfile.TarFile.extraction_filter
    with pytest.raises(TlacError, match=r"food101: an archive can't be unpacked \(.*stolen.txt.*outside"):
        source.prepare("food101", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("stolen.txt"))
    assert tarfile.TarFile.extraction_filter is before


@pytest.mark.parametrize("download", ["archives: [{url: 'http://h/a', path: ../../a}]", "makes: ../.."])
def test_a_dataset_file_cannot_put_files_elsewhere(tmp_path: Path, download: str) -> None:
    (tmp_path / "own.yaml").write_text(
        f"loader: coop\nprotocol: p\noptions: {{folder: own}}\ndownload: {{torchvision: DTD, {download}}}\n"
    )
    with pytest.raises(ConfigError, match="leads outside the dataset's folder: refused"):
        Source().prepare(str(tmp_path / "own.yaml"), tmp_path)


def test_what_is_fetched_by_hand_is_told_in_steps_that_name_the_folder(tmp_path: Path) -> None:
    prepared = prepare_dataset(load_dataset_config("imagenet", tmp_path))
    assert not prepared.is_downloaded
    assert len(prepared.steps) == 3
    assert str(tmp_path / "imagenet" / "images" / "val") in prepared.steps[1]
    assert "{" not in "".join(prepared.steps)


def test_every_shipped_dataset_under_the_root_can_be_fetched_or_says_how() -> None:
    import torchvision.datasets as reader

    for name in list_names("dataset"):
        spec = load_dataset_config(name).spec
        if "folder" in spec.options:
            assert spec.download.torchvision or spec.download.steps, name
            assert spec.download.torchvision is None or hasattr(reader, spec.download.torchvision), name


def test_archives_are_those_that_torchvision_would_fetch() -> None:
    import torchvision.datasets as readers

    for name in list_names("dataset"):
        download = load_dataset_config(name).spec.download
        if download.torchvision is None:
            continue
        source = inspect.getsource(inspect.getmodule(getattr(readers, download.torchvision)))
        assert download.archives, name
        for archive in download.archives:
            assert archive.url.startswith(("http://", "https://"))
            folder, _, file = archive.url.rpartition("/")
            assert f'"{archive.url}"' in source or (f'"{folder}/"' in source and f'"{file}"' in source), archive.url
            # of Aircraft it knows none
            assert archive.md5 in source or name == "fgvc_aircraft", archive.url
            assert len(archive.md5) == 32


def test_torchvision_unpacks_what_was_fetched_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets as readers
    from torchvision.datasets import utils

    unpacked, asked = [], []
    monkeypatch.setattr(utils, "check_integrity", lambda path, md5=None: Path(path).is_file())
    monkeypatch.setattr(utils, "extract_archive", lambda path, *_: unpacked.append(Path(path)))
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, *_: asked.append(url))
    for name in list_names("dataset"):
        download = load_dataset_config(name).spec.download
        if download.torchvision is None:
            continue
        places = [tmp_path / name / archive.path for archive in download.archives]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        # where nothing was unpacked, there is no dataset
        with pytest.raises((RuntimeError, OSError)):
            getattr(readers, download.torchvision)(tmp_path / name, download=True)
        assert unpacked[-1:] == [place for place in places if place.suffix in (".gz", ".tgz", ".zip")][-1:], name
        assert asked == [], name


def test_packaged_samples_need_no_preparing_and_others_need_a_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs no preparing"):
        prepare_dataset(load_dataset_config("cifar10-samples", tmp_path))
    with pytest.raises(UsageError, match="--data ROOT"):
        prepare_dataset(load_dataset_config("dtd"))


@pytest.mark.parametrize(
    ("download", "complaint"),
    [
        ("archives: [{ulr: 'http://h/a', path: a}]", r"'ulr' in 'download.archives\[0\]': did you mean 'url'"),
        ("mirror: {repository: a/b}", "'repository' in 'download.mirror': did you mean 'repo'"),
        ("mirror: {repo: a/b, expected: {tests: 3}}", "'tests' in 'download.mirror.expected': did you mean 'test'"),
    ],
)
def test_a_wrong_key_of_a_download_is_named_with_the_right_one(tmp_path: Path, download: str, complaint: str) -> None:
    (tmp_path / "own.yaml").write_text(f"loader: coop\nprotocol: p\ndownload: {{{download}}}\n")
    with pytest.raises(ConfigError, match=complaint):
        load_dataset_config(str(tmp_path / "own.yaml"))


def test_no_dataset_file_names_a_folder_outside_the_root_or_another_class_of_torchvision(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    for folder in ("../site-packages", "/etc", "a/../../b"):
        own.write_text(f"loader: coop\nprotocol: p\noptions: {{folder: {folder}}}\ndownload: {{torchvision: DTD}}\n")
        with pytest.raises(ConfigError, match="leads outside the dataset's folder: refused"):
            Source().prepare(str(own), tmp_path / "root")
    own.write_text("loader: coop\nprotocol: p\noptions: {folder: own}\ndownload: {torchvision: FakeData}\n")
    with pytest.raises(UnknownNameError, match="unknown reader of torchvision's 'FakeData'"):
        Source().prepare(str(own), tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_dataset_at_the_root_itself_has_nothing_beside_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("loader: coop\nprotocol: p\noptions: {folder: .}\ndownload: {torchvision: DTD}\n")
    Source().prepare(str(own), tmp_path / "root")
    assert {path.name for path in tmp_path.iterdir()} == {"own.yaml", "root"}


@pytest.mark.skipif(Path("...yaml").stem != "..", reason="since Python 3.14 that name without its suffix is itself")
def test_the_name_of_a_dataset_file_leads_nowhere_either(tmp_path: Path) -> None:
    own = tmp_path / "...yaml"  # its name without the suffix is ".."
    own.write_text(
        "loader: coop\nprotocol: p\noptions: {folder: own}\ndownload: {torchvision: DTD, mirror: {repo: a/b}}\n"
    )
    kept = tmp_path / "root" / "kept" / "1.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x")
    config = load_dataset_config(str(own), tmp_path / "root")
    for get in (lambda: Source().prepare(str(own), tmp_path / "root"), lambda: fetch_mirror(config)):
        with pytest.raises(ConfigError, match="leads outside the dataset's folder: refused"):
            get()
    assert kept.exists()
