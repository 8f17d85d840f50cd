"""Packages of CI and images are pinned with hashes, satisfy pyproject.toml, and are in a bill of materials."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import REPOSITORY

LOCKS = sorted((REPOSITORY / "requirements").iterdir())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def pins(lock: Path) -> dict[str, set[str]]:
    """Return the versions of each package, several if platforms differ."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.!+]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def requirements_of(extra: str) -> list[Requirement]:
    """Return the requirements of the project and of an extra, with the project's own extras expanded."""
    found = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra])]
    own = [one for one in found if one.name == PROJECT["name"]]
    return [one for one in found if one not in own] + [
        needed for one in own for inner in sorted(one.extras) for needed in requirements_of(inner)
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_with_hashes_and_no_index_is_named(lock: Path) -> None:
    entries = lock.read_text().replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.!+]+( ; [^:@]+)?( +--hash=sha256:[0-9a-f]{64})+", entry), entry


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.stem != "build"], ids=lambda lock: lock.stem)
def test_a_lock_satisfies_the_requirements_of_the_project(lock: Path) -> None:
    pinned = pins(lock)
    for needed in requirements_of(lock.stem):
        versions = pinned.get(canonicalize_name(needed.name))
        assert versions, f"{needed} is not in {lock.name}: run make lock"
        assert all(needed.specifier.contains(version) for version in versions), f"{needed}: run make lock"


def test_the_image_of_the_ray_job_has_what_ray_asks_for_its_dashboard() -> None:
    job = (REPOSITORY / "deploy" / "cluster" / "score-rayjob.yaml").read_text()
    (extras,) = re.findall(r"EXTRAS=([\w,]+)", job)
    found: dict[str, set[str]] = {}
    for extra in extras.split(","):
        found |= pins(REPOSITORY / "requirements" / f"{extra}.txt")
    asked = [Requirement(text) for text in requires("ray") or []]
    dashboard = [one for one in asked if one.marker is not None and one.marker.evaluate({"extra": "default"})]
    assert "aiohttp-cors" in {canonicalize_name(one.name) for one in dashboard}
    assert [one.name for one in dashboard if canonicalize_name(one.name) not in found] == []
    assert re.findall(r'rayVersion: "(.*?)"', job) == list(found["ray"])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_an_image_has_the_versions_that_ci_tests(lock: Path) -> None:
    tested = pins(REPOSITORY / "requirements" / "dev.txt")
    assert {name: found for name, found in pins(lock).items() if name in tested and found != tested[name]} == {}


def test_the_bill_of_materials_lists_what_an_image_installs(tmp_path: Path) -> None:
    lock = REPOSITORY / "requirements" / "cpu.txt"  # only this one, because each takes seconds
    (line,) = re.findall(r"cyclonedx-py (.*?)\s-o\s", (REPOSITORY / "Makefile").read_text().replace("\\\n", " "))
    words = [word.replace("$$extra", lock.stem) for word in shlex.split(line)]
    command = [Path(sys.executable).with_name("cyclonedx-py"), *words, "-o", tmp_path / "sbom.json"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    found = json.loads((tmp_path / "sbom.json").read_text())
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == ("CycloneDX", PROJECT["name"])
    listed: dict[str, set[str]] = {}
    for one in found["components"]:
        listed.setdefault(canonicalize_name(one["name"]), set()).add(one["version"])
    assert listed == pins(lock)


def test_the_tests_named_in_the_threat_model_exist() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (REPOSITORY / "SECURITY.md").read_text())
    assert len(named) > 10
    assert [name for name in named if name != "requirements/" and not (REPOSITORY / "tests" / name).exists()] == []
