"""Prints in one line what an environment has: python tests/releases/versions.py.

With a file of constraints it prints what is installed in another version than it says instead, and
exits with 1 if there is such a thing: python tests/releases/versions.py constraints/py3.11.txt.
"""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

_PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "numpy",
    "pandas",
    "plotly",
    "huggingface-hub",
    "jaxtyping",
    "beartype",
)


def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _name(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def others(constraints: str, installed: dict[str, str]) -> list[str]:
    """What is installed but not as the constraints say; local parts (`+cpu`) say nothing."""
    stated = {
        _name(package): release
        for package, release in re.findall(r"^([\w.-]+)==([^\s;]+)", constraints, re.MULTILINE)
    }
    return [
        f"{package} {release} (constraints: {stated.get(_name(package), 'none')})"
        for package, release in sorted(installed.items())
        if stated.get(_name(package), "").split("+")[0] != release.split("+")[0]
    ]


def _compare(path: str) -> None:
    tools = {"pip", "setuptools", "visit-tl", "wheel"}
    installed = {one.name: one.version for one in distributions() if _name(one.name) not in tools}
    found = others(Path(path).read_text(encoding="utf-8"), installed)
    print("\n".join(found))
    sys.exit(bool(found))


def _main() -> None:
    if len(sys.argv) > 1:
        _compare(sys.argv[1])
    found = ", ".join(f"{package} {_of(package)}" for package in _PACKAGES)
    print(f"Python {platform.python_version()}, {found}")


if __name__ == "__main__":
    _main()
