"""The versions that `make` installs, held against what the package asks for."""

import functools
import re
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

pytest.importorskip("packaging")
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from visit_tl.releases import TESTED

ROOT = Path(__file__).parent.parent
PROMISED = ("3.10", "3.11", "3.12", "3.13")
LANES = ("oldest", "tl-2.18", "tl-3.9")
PIN = re.compile(
    r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)(?: ; (.*))?"
)  # no URL, no index, no local tag


def pins(name, python="3.11.7"):
    """By package, the version that a constraints file gives; every line must be one."""
    here = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    here |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    found = {}
    for line in (ROOT / "constraints" / f"{name}.txt").read_text().splitlines():
        match = PIN.fullmatch(line)
        assert match, f"no plain pin: {line!r}"
        if match[3] is None or Marker(match[3]).evaluate(here):
            assert canonicalize_name(match[1]) not in found, line
            found[canonicalize_name(match[1])] = Version(match[2])
    return found


@functools.cache
def project():
    if tomllib is None:
        pytest.skip("this Python cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked(*extras):
    """What the package needs to be built and to run, and what some of its extras add."""
    optional = project()["project"]["optional-dependencies"]
    added = [one for extra in extras for one in optional[extra]]
    build = project()["build-system"]["requires"]
    return [Requirement(one) for one in (*project()["project"]["dependencies"], *added, *build)]


@pytest.mark.parametrize("version", PROMISED)
def test_every_dependency_has_one_version_that_the_package_allows(version):
    pinned = pins(f"py{version}", f"{version}.1")
    for requirement in asked(*project()["project"]["optional-dependencies"]):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned for Python {version}"
        assert pinned[name] in requirement.specifier, requirement


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_has_one_version_of_every_dependency_that_the_package_allows(lane):
    pinned = pins(lane)
    for requirement in asked("parquet"):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    for line in (ROOT / "constraints" / f"{lane}.in").read_text().splitlines():
        if line and not line.startswith("#"):
            own = Requirement(line)
            assert pinned[canonicalize_name(own.name)] in own.specifier, line


def test_the_oldest_lane_has_the_floor_of_every_dependency_but_torch():
    pinned = pins("oldest")
    for requirement in asked("parquet"):
        (floor,) = (one.version for one in requirement.specifier if one.operator == ">=")
        if requirement.name != "torch":  # of which one CPU build is at hand
            same = {Version(floor), Version(f"{floor}.0"), Version(f"{floor}.0.0")}
            patch = pinned[canonicalize_name(requirement.name)]
            assert patch in same or Version(f"{patch.major}.{patch.minor}") in same, requirement


def test_what_counts_as_tested_is_what_is_installed_and_what_the_oldest_lane_is_run_with():
    newest, oldest = pins("py3.11"), pins("oldest")
    for package, tested in TESTED.items():
        assert (str(oldest[package]), str(newest[package])) == tested
