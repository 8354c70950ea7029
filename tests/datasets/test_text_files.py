"""Lists are read strictly: a line that could be read in two ways is an error with its number."""

import json
from pathlib import Path

import pytest

from tlac.datasets.coop import read_split_file
from tlac.datasets.text_files import NamedClasses, parse_csv, read_classes, read_lines, read_names, read_text
from tlac.errors import ConfigError, InputError


def parse(text: str) -> list[tuple[int, dict[str, str]]]:
    return parse_csv(text, "list.csv", ("path", "label"))


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n1.jpg,cat\n",
        "path;label\n1.jpg;cat\n",
        "path\tlabel\n1.jpg\tcat\n",
        "Path, LABEL\r\n1.jpg,cat\r\n",
        '\ufeff"path","label"\n"1.jpg","cat"\n',
        "\npath,label\n\n1.jpg,cat\n\n",
    ],
)
def test_separators_case_spaces_and_blank_lines_of_spreadsheets_do_not_matter(text: str) -> None:
    ((_, row),) = parse(text)
    assert row == {"path": "1.jpg", "label": "cat"}


def test_quotes_may_hold_separators_and_other_columns_line_breaks() -> None:
    rows = parse('path,label,note\n1.jpg,"crane, bird","two\nlines"\n2.jpg,"crane, machine",x\n')
    assert [(line, row["label"]) for line, row in rows] == [(2, "crane, bird"), (4, "crane, machine")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\n1.jpg,crane, bird\n",
            "line 2: 3 cells where the first line has 2: put a cell that holds a comma",
        ),
        ("path;label\n1.jpg;crane; bird\n", "line 2: 3 cells where the first line has 2: put .* a semicolon"),
        ("path,label\n1.jpg\n", "line 2: 1 cells"),
        ('path,label\n1.jpg,cat\n2.jpg,"dog\n3.jpg,emu\n', "line 3: not valid CSV"),
        ('path,label\n1.jpg,"cat\n2.jpg,dog\n3.jpg,emu"\n', "line 2: label goes over several lines"),
        ('path,label\n1.jpg,"cat\n2.jpg,""dog"\n', "line 2: label goes over several lines"),
        ('path,label\n1.jpg,"a" b\n', "line 2: not valid CSV"),
        ("path,label,label\n1.jpg,cat,dog\n", "line 1: the column 'label' stands twice"),
        ("path,label,Label\n1.jpg,cat,dog\n", "line 1: the column 'label' stands twice"),
        ("file|class\n1.jpg|cat\n", "no columns path and label: its first line must name .* and is 'file|class'"),
        ("path,class\n1.jpg,cat\n", "no column label"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"list\.csv.*{message}"):
        parse(text)


def test_names_lose_the_byte_order_mark_and_wordnet_ids_and_keep_all_else() -> None:
    assert read_names("\ufeffcat\r\ndog\u2028house\r\n\r\n", "names") == ("cat", "dog\u2028house")
    assert read_names("n01440764 tench\nn01443537 gold fish\n", "names") == ("tench", "gold fish")
    assert read_names("n95 mask\ncloth mask\n", "names") == ("n95 mask", "cloth mask")
    assert read_names("cafe\u0301\n", "names") == ("caf\u00e9",)


def test_signs_that_nobody_sees_are_no_part_of_a_name() -> None:
    joined, marked, dashed = "\ufeffdog", "\u200e\u0643\u0644\u0628\u200f", "sea\u00ad horse\u200b"
    # a joiner is one that somebody sees: without it, the word is written otherwise
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    names = read_names("\n".join(["cat", joined, marked, dashed, persian]), "names.txt")
    assert names == ("cat", "dog", "\u0643\u0644\u0628", "sea horse", persian)


def test_a_blank_line_between_names_is_an_error_and_at_the_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n\n\n")
    assert read_lines(path) == [(1, "cat"), (2, "dog")]
    path.write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match=r"names\.txt, line 2: is blank: remove it, or write what belongs there"):
        read_lines(path)


def test_blank_answers_of_a_csv_file_keep_their_line() -> None:
    rows = parse_csv('Answer\na cat\n\n"a\ndog"\n', "a.csv", ("answer",), ("choice",), is_free_text=True)
    assert rows == [(2, {"answer": "a cat"}), (3, {"answer": ""}), (4, {"answer": "a\ndog"})]
    rows = parse_csv("answer;Choice\n;\nowl;emu\n", "a.csv", ("answer",), ("choice",), is_free_text=True)
    assert rows == [(2, {"answer": "", "choice": ""}), (3, {"answer": "owl", "choice": "emu"})]


def test_classes_are_names_in_a_line_in_a_file_or_keys_of_yaml(tmp_path: Path) -> None:
    assert read_classes("red car, old car").names == ("red car", "old car")
    (tmp_path / "names.txt").write_text("bolt\nnut, wing\n")
    assert read_classes(str(tmp_path / "names.txt")) == NamedClasses(("bolt", "nut, wing"))
    (tmp_path / "classes.yaml").write_text(
        "bolt: {description: has a  thread, aliases: [screw, pin]}\nnut: goes on a bolt\nwasher:\n"
    )
    assert read_classes(str(tmp_path / "classes.yaml")) == NamedClasses(
        ("bolt", "nut", "washer"),
        {"bolt": "has a thread", "nut": "goes on a bolt"},
        {"bolt": ("screw", "pin")},
    )


LISTS = {
    "a list": ("classes.yaml", "[bolt, 'nut, wing', bolt]", ("bolt", "nut, wing", "bolt")),
    "a list of JSON": ("classes.json", '["bolt",\n "nut"]', ("bolt", "nut")),
    "as Python writes it": ("classes.json", json.dumps(["🦊", "nut"], indent="\t"), ("🦊", "nut")),
    "a key for each": ("classes.json", '{"bolt": null, "names": {"description": "of people"}}', ("bolt", "names")),
    "as Ultralytics has them": ("data.yaml", "nc: 2\ntrain: t\nnames:\n  1: nut\n  0: bolt\n", ("bolt", "nut")),
    "as it had them": ("data.yml", "names: [bolt, nut]\nnc: 2\n", ("bolt", "nut")),
    "as transformers has them": (
        "config.json",
        '{"id2label": {"0": "bolt", "1": "nut", "2": "pin"}, "label2id": {"bolt": 0}, "hidden_size": 8}',
        ("bolt", "nut", "pin"),
    ),
    "more than ten": (
        "a.json",
        json.dumps({"names": {str(n): f"c{n}" for n in range(12)}}),
        tuple(f"c{n}" for n in range(12)),
    ),
    "digits that mean themselves": ("digits.yaml", "'1': {description: one}\n'0':\n", ("1", "0")),
    "a column": ("classes.csv", "id;Name\n7;bolt\n8;nut, wing\n", ("bolt", "nut, wing")),
}


@pytest.mark.parametrize(("name", "text", "names"), LISTS.values(), ids=LISTS)
def test_classes_come_in_the_forms_that_people_have(
    tmp_path: Path, name: str, text: str, names: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(str(tmp_path / name)).names == names


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"0": "bolt", "1": "nut"}', r"a\.json: keys are numbers: put them below `names:`"),
        ("a.json", '{"0": ["n01440764", "tench"]}', r"a\.json: expected a list of names"),
        ("a.json", '{"names": {"0": "bolt", "2": "nut"}}', r"a\.json: names: the classes are numbered from 0, without"),
        ("a.json", '{"bolt": null, "bolt": null}', r"a\.json: key 'bolt' stands twice"),
        ("a.json", '["bolt",\n "nut"', r"a\.json: line 3: "),
        ("a.yaml", "[bolt, no]", r"a\.yaml: expected a list of names.* Expected `str`, got `bool`"),
        ("a.csv", "bolt\nnut\n", r"a\.csv: no column name: its first line must name the columns name, and is 'bolt'"),
    ],
)
def test_what_could_be_read_in_two_ways_is_no_list_of_classes(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((InputError, ConfigError), match=said):
        read_classes(str(tmp_path / name))


def test_json_in_another_place_is_no_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text('["bolt",\n "nut"]')
    for given in (str(tmp_path / "names.txt"), '["bolt", "nut"]', '{"bolt": 1, "nut": 2}'):
        with pytest.raises(InputError, match=r"begins as JSON does: put it into a file named \.json"):
            read_classes(given)


@pytest.mark.parametrize("text", ["bolt: {descripton: x}", "bolt: [screw]", "bolt: 3"])
def test_yaml_of_another_shape_is_no_list_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(InputError, match=r"classes.yaml: expected a list of names, or `name: .* at `\$\[\.\.\.\]"):
        read_classes(str(tmp_path / "classes.yaml"))


@pytest.mark.parametrize("name", ["names.txt", "names.yaml"])
def test_a_list_of_classes_that_is_a_link_out_of_its_folder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """The folder may be a clone, and the lines of a private file would be sent to the LMM as class names."""
    (tmp_path / "private").write_text("cat:\ndog:\n")
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / name).symlink_to("../private")
    with pytest.raises(InputError, match=f"{name}: a link that leads outside of its folder: refused") as caught:
        read_classes(str(tmp_path / "clone" / name))
    assert str(caught.value).endswith(f"give {tmp_path / 'private'} itself")
    (tmp_path / "clone" / "real").write_text("cat:\n")
    (tmp_path / "clone" / "linked.yaml").symlink_to("real")
    assert read_classes(str(tmp_path / "clone" / "linked.yaml")).names == ("cat",)


def test_a_list_of_over_256_mib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, read in (("names.txt", read_text), ("split.json", read_split_file)):
        with (tmp_path / name).open("wb") as file:
            # a hole, which takes no room on the disk
            file.truncate(2**28 + 1)
        with pytest.raises(InputError, match=rf"{name}: holds more than 268,435,456 bytes, the most that is read"):
            read(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_without_its_mark_in_the_encoding_that_the_mark_names(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_bytes("caf\u00e9, \u732b\n".encode(encoding))
    assert read_text(tmp_path / "names.txt") == "caf\u00e9, \u732b\n"
    (tmp_path / "names.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match=r"names\.txt: can't be read as UTF-8 text: .*: save it as UTF-8"):
        read_text(tmp_path / "names.txt")
