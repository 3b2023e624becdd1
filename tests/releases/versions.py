"""Prints in one line what an environment has: python tests/releases/versions.py."""

import platform
from importlib.metadata import PackageNotFoundError, version

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


def _main() -> None:
    found = ", ".join(f"{package} {_of(package)}" for package in _PACKAGES)
    print(f"Python {platform.python_version()}, {found}")


if __name__ == "__main__":
    _main()
