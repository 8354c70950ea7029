"""One Ray for all tests of the session: starting one takes some ten seconds."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support.emulated import KEYS
from tlac.engines.ray.session import connect


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    if find_spec("ray") is None:
        pytest.skip("Ray comes with the extra: pip install 'tlac[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        # keys are never sent to workers: they are in their environment or nowhere. A cluster that the environment names
        # is left alone
        for name, value in (KEYS | {"RAY_ADDRESS": "127.0.0.1:1"}).items():
            patch.setenv(name, value)
        ray = connect(None, 2)
    yield ray
    ray.shutdown()
