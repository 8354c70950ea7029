from __future__ import annotations

import pytest

from tlac.config.registry import list_plugins, load_plugin
from tlac.errors import ConfigError, UnknownNameError


def test_our_own_adapters_are_entry_points_like_anybodys() -> None:
    assert {"embedded", "litellm", "pack"} <= set(list_plugins("tlac.lmms"))
    assert {"open_clip", "sentence_transformers", "litellm"} <= set(list_plugins("tlac.encoders"))
    assert {"samples", "folder"} <= set(list_plugins("tlac.datasets"))
    assert {"slac", "tlac"} <= set(list_plugins("tlac.methods"))
    assert {"mlflow", "trackio", "wandb"} <= set(list_plugins("tlac.loggers"))


@pytest.mark.parametrize("group", ["tlac.lmms", "tlac.encoders", "tlac.datasets", "tlac.methods", "tlac.loggers"])
def test_every_entry_point_can_be_loaded(group: str) -> None:
    for name in list_plugins(group):
        assert callable(load_plugin(group, name))


def test_an_unknown_method_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown method 'slack': did you mean 'slac'"):
        load_plugin("tlac.methods", "slack")


def test_a_plugin_that_can_not_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    broken = EntryPoint("broken", "no_such_module_at_all:Thing", "tlac.methods")
    monkeypatch.setattr("tlac.config.registry._entry_points", lambda group: {"broken": broken})
    with pytest.raises(ConfigError, match=r"method 'broken' \(no_such_module_at_all:Thing\) can't be loaded"):
        load_plugin("tlac.methods", "broken")
