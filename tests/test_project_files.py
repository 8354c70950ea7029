"""The files beside the code that others read: citation, container, workflows, issue forms."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def read(path: str) -> dict:
    # in YAML 1.1 the key `on` is a truth value
    return yaml.load((ROOT / path).read_text(encoding="utf-8"), yaml.BaseLoader)


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    found = read("CITATION.cff")
    assert f'\nversion = "{found["version"]}"\n' in PYPROJECT
    assert f'\nlicense = "{found["license"]}"\n' in PYPROJECT
    (paper,) = found["references"]
    assert [one["family-names"] for one in paper["authors"]] == ["Munir", "Qureshi", "Khan", "Ali"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2503.12206"}]
    # what the format demands of a file and of a reference
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert {"type", "title", "authors"} <= paper.keys()


def test_the_container_runs_tlac_without_root_and_copies_what_is_there_and_what_the_wheel_needs() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.findall(r"^USER (.*)$", final, flags=re.MULTILINE) == ["1000"]
    assert 'ENTRYPOINT ["tlac"]' in final
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    needed = re.findall(r'^"(\w+).*" = "tlac/data/', PYPROJECT, flags=re.MULTILINE)
    assert {*needed, "tlac", "pyproject.toml", "README.md", "LICENSE"} == names
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == names
    # which index torch comes from is an argument of the build
    assert "://" not in DOCKERFILE


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed here")
def test_the_linter_of_containers_has_nothing_to_say() -> None:
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_workflows_call_what_a_contributor_calls() -> None:
    ci, release = read(".github/workflows/ci.yml"), read(".github/workflows/release.yml")
    commands = [step.get("run", "") for job in ci["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands
    targets = {target for command in commands if command.startswith("make ") for target in command.split()[1:]}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(f"\n{target}: " in makefile for target in targets)
    oldest = re.findall(r'requires-python = ">=(.*)"', PYPROJECT)
    assert oldest[0] in ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert "twine check --strict" in " ".join(step.get("run", "") for step in release["jobs"]["build"]["steps"])
    # nobody's secret is read, and only the last job may ask for a publisher's identity
    for workflow in (ci, release):
        assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]


def test_who_reports_a_fault_is_asked_for_what_doctor_prints() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    (asked,) = [one for one in form["body"] if one["id"] == "doctor"]
    assert "`tlac doctor`" in asked["attributes"]["label"]
    assert asked["validations"] == {"required": "true"}
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        for one in read(str(path.relative_to(ROOT))).get("body", []):
            assert {"type", "id", "attributes"} <= one.keys()
