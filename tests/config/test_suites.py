from __future__ import annotations

from pathlib import Path

import pytest

from tlac.config.schemas import load_published, load_suite
from tlac.errors import ConfigError, UnknownNameError


def test_a_suite_gives_datasets_split_and_methods() -> None:
    suite = load_suite("base-to-novel")
    assert (len(suite.spec.datasets), suite.spec.split) == (11, "novel")
    assert suite.spec.methods == ("slac", "tlac")


def test_an_own_suite_needs_only_its_datasets(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("datasets: [cifar10-samples]\n")
    suite = load_suite(str(tmp_path / "mine.yaml"))
    assert (suite.name, suite.spec.split, suite.spec.methods) == ("mine", "all", ("tlac",))


@pytest.mark.parametrize("content", ["datasets: []\n", "datasets: [a]\nmethods: []\n"])
def test_a_suite_of_nothing_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml: 'datasets' and 'methods'"):
        load_suite(str(tmp_path / "mine.yaml"))


def test_an_unknown_suite_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'base-to-novel'"):
        load_suite("base-to-new")


def test_published_figures_are_shares_with_their_source_and_mark() -> None:
    figures = load_published("base-to-novel", "novel")
    (tlac,) = (figure for figure in figures if figure.method == "TLAC" and figure.mean is not None)
    assert (tlac.mean, tlac.mean_over, tlac.is_digitised) == (pytest.approx(0.8344), 11, False)
    assert "2503.12206" in tlac.source
    (chart,) = (figure for figure in figures if figure.is_digitised)
    assert (chart.method, chart.error) == ("TLAC", pytest.approx(0.003))
    assert chart.error_by_dataset == {"fgvc_aircraft": pytest.approx(0.008)}
    assert load_published("base-to-novel", "base") == ()


def test_published_differences_are_kept_apart_from_accuracies() -> None:
    (gain,) = load_published("domain-generalization", "all", "gains")
    assert (gain.method, gain.over) == ("TLAC", "few-shot")
    assert gain.by_dataset == {
        "imagenetv2": pytest.approx(0.036),
        "imagenet-sketch": pytest.approx(0.1696),
        "imagenet-r": pytest.approx(0.1259),
    }
    assert load_published("base-to-novel", "novel", "gains") == ()
