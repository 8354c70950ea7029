from __future__ import annotations

import platform

from tlac.runtime.versions import installed_versions


def test_what_is_installed_has_a_version() -> None:
    versions = installed_versions()
    assert versions["python"] == platform.python_version()
    assert {"tlac", "numpy", "diskcache"} <= versions.keys()
    assert all(versions.values())
