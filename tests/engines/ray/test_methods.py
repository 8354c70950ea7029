from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC
from tlac.cache.store import Store
from tlac.engines.ray.engine import RayEngine
from tlac.errors import UsageError
from tlac.lmms.middleware.stack import CallPolicy
from tlac.methods.base import NearestClassFinder


def test_a_method_that_asks_by_what_a_choice_said_is_refused_before_a_cluster_is_looked_for(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        engine = RayEngine(store, CallPolicy(), None, 1)
        with pytest.raises(
            UsageError, match="the method tlac-cascade:k=3 asks by what stage 2 said: use --engine local"
        ):
            engine.fetch(replace(SPEC, method="tlac-cascade:k=3"), NearestClassFinder(None))  # type: ignore[arg-type]
