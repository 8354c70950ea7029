"""What `make audit` says of pip-audit's report: never that all is well where nothing was checked."""

from __future__ import annotations

import sys

import pytest

from tests.support import audit

CLEAN = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "lines", "status"),
    [
        ([CLEAN], ["audit: 1 packages, 0 known vulnerabilities"], 0),
        ([CLEAN, FAULTY], ["b 2: PYSEC-1, mended in 3", "audit: 2 packages, 1 known vulnerabilities"], 1),
        ([CLEAN, UNKNOWN], ["audit: 1 packages, 0 known vulnerabilities; 1 could not be checked: c"], 0),
        ([UNKNOWN], ["audit skipped: the service knows none of 1 packages, nothing was checked"], 0),
    ],
)
def test_what_is_said_of_a_report(packages: list[dict], lines: list[str], status: int) -> None:
    assert audit.summarise({"dependencies": packages}) == (lines, status)


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("import sys; sys.exit('requests.exceptions.ConnectionError: no route')", 0, "audit skipped"),
        ("import sys; sys.exit('No module named pip_audit')", 2, "pip-audit failed: No module named pip_audit"),
    ],
)
def test_a_service_that_is_away_is_no_fault_and_a_failure_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str, status: int, word: str
) -> None:
    monkeypatch.setattr(audit, "_COMMAND", (sys.executable, "-c", code))
    assert audit.main() == status
    assert word in "".join(capsys.readouterr())
