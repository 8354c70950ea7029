from __future__ import annotations

import platform

import huggingface_hub
import pytest
from huggingface_hub import constants

from tlac.runtime.libraries import http_errors, installed_versions


def test_what_is_installed_has_a_version() -> None:
    versions = installed_versions()
    assert versions["python"] == platform.python_version()
    assert {"tlac", "numpy", "diskcache"} <= versions.keys()
    assert all(versions.values())


def test_an_error_of_the_client_that_the_hub_s_library_uses_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    session = huggingface_hub.get_session()
    with pytest.raises(http_errors()):
        session.head("http://127.0.0.1:9", timeout=5.0)
