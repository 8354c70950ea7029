"""What docs/labelling.md says of classes, rows, formats and options is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tlac.cli.label import label
from tlac.datasets.text_files import read_classes
from tlac.results.labels import COLUMNS, FORMATS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "labelling.md").read_text(encoding="utf-8")


def test_the_classes_are_read_as_they_are_described(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, flags=re.M | re.S)
    (tmp_path / "classes.yaml").write_text(block)
    found = read_classes(str(tmp_path / "classes.yaml"))
    assert found.names == ("bolt", "nut", "washer")
    assert (sorted(found.descriptions), found.aliases) == (["bolt", "nut"], {"bolt": ("screw", "hex bolt")})


def test_every_column_format_and_option_is_there() -> None:
    (rows,) = re.findall(r"^## Rows\n(.*?)^## ", DOCUMENT, flags=re.M | re.S)
    assert all(f"`{name}`" in rows for name in COLUMNS)
    (formats,) = re.findall(r"^## Formats\n(.*?)^## ", DOCUMENT, flags=re.M | re.S)
    assert set(re.findall(r"`([\w-]+)`(?:, | \|)", formats)) >= set(FORMATS)
    known = {name for parameter in label.params for name in parameter.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", DOCUMENT)) <= known
