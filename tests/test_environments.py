"""The versions that `make` installs, held against what the package asks for."""

import re
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

pytest.importorskip("packaging")
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from visit_tl.model.releases import TESTED

ROOT = Path(__file__).parent.parent
PROMISED = ("3.10", "3.11", "3.12", "3.13")


def pins(version):
    """By name, the version that a constraints file gives; every line must be one."""
    found = {}
    for line in (ROOT / "constraints" / f"py{version}.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        assert match, f"no plain pin: {line!r}"  # no URL, no index, no local tag
        found[canonicalize_name(match[1])] = Version(match[2])
    return found


def asked():
    if tomllib is None:
        pytest.skip("this Python cannot read TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["build-system"]["requires"]
    extras = [
        name for extra in project["project"]["optional-dependencies"].values() for name in extra
    ]
    return [Requirement(one) for one in (*project["project"]["dependencies"], *extras, *build)]


@pytest.mark.parametrize("version", PROMISED)
def test_every_dependency_has_one_version_that_the_package_allows(version):
    pinned = pins(version)
    for requirement in asked():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned for Python {version}"
        assert pinned[name] in requirement.specifier, requirement


def test_what_counts_as_tested_is_what_is_installed_and_what_the_older_releases_are_run_with():
    newest = pins("3.11")
    old = {}
    for line in (ROOT / "tests/releases/tl-2.18.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        old[name] = version
    for package, (oldest, latest) in TESTED.items():
        assert newest[package] == Version(latest)
        assert old[package] == oldest
