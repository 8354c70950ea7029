import json
from pathlib import Path

import numpy as np
import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.errors import InputError


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def open_at(name: str, root: Path, **asked: str):
    return open_dataset(load_dataset_config(name, root, **asked))


def listed(dataset) -> list[tuple[str, int]]:
    return [(sample.id, sample.label) for sample in dataset]


PETS = {
    "images/Egyptian_Mau_1.jpg": "",
    "annotations/test.txt": "Egyptian_Mau_1 1 1 1\nbeagle_7 2 2 1\n",
    "annotations/trainval.txt": "beagle_1 2 2 1\n",
}


@pytest.mark.parametrize("folder", ["oxford_pets", "oxford-iiit-pet"])
def test_pets_are_split_officially_where_the_split_file_is_absent(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder, PETS)
    dataset = open_at("oxford_pets", tmp_path)
    assert dataset.protocol == "official test split"
    assert dataset.classes == ("Egyptian Mau", "Beagle")
    assert listed(dataset) == [("images/Egyptian_Mau_1.jpg", 0), ("images/beagle_7.jpg", 1)]
    assert next(iter(dataset)).source == tmp_path / folder / "images" / "Egyptian_Mau_1.jpg"


def test_a_complete_official_list_takes_the_clean_class_names(tmp_path: Path) -> None:
    clean = load_dataset_config("oxford_pets").spec.classes
    lines = [f"{name}_1 {label} 1 1" for label, name in enumerate(clean, start=1)]
    write(tmp_path / "oxford_pets", {"images/x.jpg": "", "annotations/test.txt": "\n".join(lines)})
    assert open_at("oxford_pets", tmp_path).classes == clean


def test_caltech_without_the_split_file_has_its_101_categories(tmp_path: Path) -> None:
    config = load_dataset_config("caltech101")
    folders = CALTECH_FOLDERS.split()
    root = tmp_path / "caltech-101" / "101_ObjectCategories"
    for folder in [*folders, "BACKGROUND_Google"]:
        write(root, {f"{folder}/image_0001.jpg": ""})
    dataset = open_at("caltech101", tmp_path)
    assert len(dataset.classes) == len(folders) == 101
    assert set(config.spec.classes) == set(dataset.classes) - {"Faces_easy"}
    assert dataset.protocol == "all images of all 101 categories, not divided"
    named = {sample.id: dataset.classes[sample.label] for sample in dataset}
    assert named["101_ObjectCategories/Faces/image_0001.jpg"] == "face"
    assert named["101_ObjectCategories/airplanes/image_0001.jpg"] == "airplane"
    assert named["101_ObjectCategories/yin_yang/image_0001.jpg"] == "yin_yang"


CALTECH_FOLDERS = """
Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular bonsai brain
brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body cougar_face
crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar elephant emu
euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog
helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah
metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster
saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry
sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""


def test_food_and_textures_are_read_from_their_own_lists(tmp_path: Path) -> None:
    write(
        tmp_path / "food-101",
        {"images/sushi/1.jpg": "", "meta/test.json": json.dumps({"sushi": ["sushi/1"], "pizza": ["pizza/2"]})},
    )
    food = open_at("food101", tmp_path)
    assert food.classes == ("pizza", "sushi")
    assert sorted(listed(food)) == [("images/pizza/2.jpg", 0), ("images/sushi/1.jpg", 1)]
    labels = {"labels/test1.txt": "dotted/d_1.jpg\nbanded/b_1.jpg\n", "images/banded/b_1.jpg": ""}
    write(tmp_path / "dtd", labels)
    assert listed(open_at("dtd", tmp_path)) == [("images/dotted/d_1.jpg", 1), ("images/banded/b_1.jpg", 0)]


def test_textures_where_torchvision_puts_them(tmp_path: Path) -> None:
    labels = {"labels/test1.txt": "dotted/d_1.jpg\nbanded/b_1.jpg\n", "images/banded/b_1.jpg": ""}
    write(tmp_path / "dtd" / "dtd", labels)
    dataset = open_at("dtd", tmp_path)
    assert listed(dataset)[1] == ("dtd/images/banded/b_1.jpg", 0)
    assert [sample.source.is_file() for sample in dataset] == [False, True]


def test_eurosat_without_the_split_file_is_one_undivided_set(tmp_path: Path) -> None:
    write(tmp_path / "eurosat" / "2750", {"Forest/Forest_1.jpg": "", "River/River_1.jpg": ""})
    dataset = open_at("eurosat", tmp_path)
    assert dataset.classes == ("Forest", "River")
    assert dataset.protocol == "all images, not divided"
    with pytest.raises(InputError, match="no subset 'val'"):
        open_at("eurosat", tmp_path, subset="val")


def test_cars_are_read_from_their_annotations(tmp_path: Path) -> None:
    from scipy.io import savemat

    folder = tmp_path / "stanford_cars"
    write(folder, {"cars_test/00001.jpg": "", "devkit/x": ""})
    kind = [("fname", object), ("class", object)]
    rows = np.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=kind)
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    names = np.array(["Audi TT 2011", "BMW X6 2012"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    dataset = open_at("stanford_cars", tmp_path)
    assert dataset.classes == ("Audi TT 2011", "BMW X6 2012")
    assert listed(dataset) == [("cars_test/00001.jpg", 1), ("cars_test/00002.jpg", 0)]


def test_flowers_are_read_only_from_the_published_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets as reader
    from scipy.io import savemat

    folder = tmp_path / "oxford_flowers"
    write(folder, {"jpg/image_00001.jpg": ""})
    savemat(folder / "setid.mat", {"tstid": [[2, 1]], "trnid": [[3]], "valid": [[4, 5]]})
    savemat(folder / "imagelabels.mat", {"labels": [[77, 1, 1, 1, 1]]})
    with pytest.raises(InputError, match="nor a usable official one"):
        open_at("flowers102", tmp_path)
    monkeypatch.setattr(
        reader.Flowers102, "_file_dict", {"label": ("imagelabels.mat", None), "setid": ("setid.mat", None)}
    )
    dataset = open_at("flowers102", tmp_path)
    assert dataset.classes[76] == "passion flower"
    assert listed(dataset) == [("jpg/image_00002.jpg", 0), ("jpg/image_00001.jpg", 76)]
    assert len(open_at("flowers102", tmp_path, subset="val")) == 2


def test_places_take_partition_one(tmp_path: Path) -> None:
    write(
        tmp_path / "sun397",
        {
            "ClassName.txt": "/a/abbey\n/a/apse/indoor\n",
            "Testing_01.txt": "/a/apse/indoor/sun_b.jpg\n/a/abbey/sun_a.jpg\n",
            "Training_01.txt": "/a/abbey/sun_c.jpg\n",
        },
    )
    dataset = open_at("sun397", tmp_path)
    assert dataset.classes == ("abbey", "apse/indoor")
    assert listed(dataset) == [("SUN397/a/apse/indoor/sun_b.jpg", 1), ("SUN397/a/abbey/sun_a.jpg", 0)]
    assert len(open_at("sun397", tmp_path, subset="train")) == 1
    write(tmp_path / "sun397", {"Testing_01.txt": "/z/zoo/sun_z.jpg\n"})
    with pytest.raises(InputError, match="names the class '/z/zoo'"):
        open_at("sun397", tmp_path)


def test_actions_find_the_middle_frame_of_each_video(tmp_path: Path) -> None:
    write(
        tmp_path / "ucf101",
        {
            "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n",
            "ucfTrainTestlist/testlist01.txt": "HandstandPushups/v_HandStandPushups_g01_c01.avi\n",
            "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n",
            "UCF-101-midframes/HandStand_Pushups/v_HandStandPushups_g01_c01.jpg": "",
            "UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g08_c01.jpg": "",
        },
    )
    for subset, label in (("test", 1), ("train", 0)):
        dataset = open_at("ucf101", tmp_path, subset=subset)
        (sample,) = dataset
        assert sample.label == label
        assert sample.source.is_file()
    with pytest.raises(InputError, match="no subset 'val'"):
        open_at("ucf101", tmp_path, subset="val")


def test_an_official_list_that_leads_outside_is_refused(tmp_path: Path) -> None:
    files = {"ClassName.txt": "/../secrets\n/a/b\n", "Testing_01.txt": "/../secrets/x.jpg\n", "SUN397/x": ""}
    write(tmp_path / "sun397", files)
    with pytest.raises(InputError, match="leads outside"):
        open_at("sun397", tmp_path)


def test_a_folder_with_neither_list_says_so_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "oxford_pets", {"images/a.jpg": ""})
    with pytest.raises(InputError, match="neither CoOp's split file nor a usable official one") as caught:
        open_at("oxford_pets", tmp_path)
    assert "tlac datasets prepare oxford_pets" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "download=True" not in str(caught.value)


def test_a_split_file_beside_torchvisions_images_is_told_where_it_belongs(tmp_path: Path) -> None:
    write(tmp_path / "caltech101", {"split_zhou_Caltech101.json": "{}", "101_ObjectCategories/ant/image_0001.jpg": ""})
    with pytest.raises(InputError) as caught:
        open_at("caltech101", tmp_path)
    assert str(caught.value) == (
        f"caltech101: {tmp_path}/caltech101/split_zhou_Caltech101.json is in another folder than CoOp's: "
        f"move it to {tmp_path}/caltech-101, with 101_ObjectCategories beside it"
    )


def test_a_folder_that_torchvision_can_not_read_is_told_without_its_words(tmp_path: Path) -> None:
    write(tmp_path / "caltech101", {"101_ObjectCategories/ant/image_0001.jpg": "", "Annotations/x/y": ""})
    with pytest.raises(InputError, match="nor a usable official one: run ") as caught:
        open_at("caltech101", tmp_path)
    assert "list.remove" not in str(caught.value)
