"""The releases of TransformerLens and transformers that this package was tested with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

# For each library, the oldest and the newest release with which all core tests passed, from
# tests/releases/ and the constraints files. tests/test_environments.py checks that they agree.
TESTED: Final = {
    "transformer-lens": ("2.16.0", "4.3.0"),
    "transformers": ("4.51.0", "5.24.0"),
}


def installed(package: str) -> str | None:
    """The installed release of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def tested() -> str:
    """The tested and the installed releases, in words.

    Such as `transformer-lens 2.18.0 to 4.3.0 (here 4.3.0), transformers ...`.
    """
    return ", ".join(
        f"{package} {oldest} to {newest} (here {installed(package) or 'not installed'})"
        for package, (oldest, newest) in TESTED.items()
    )


def newer() -> str | None:
    """A sentence that names installed releases newer than all tested ones; None if none are."""
    found = [
        f"{package} {here} (tested up to {newest})"
        for package, (_, newest) in TESTED.items()
        if (here := installed(package)) is not None and _numbers(here) > _numbers(newest)
    ]
    if not found:
        return None
    return (
        f"Installed is {' and '.join(found)}, which is newer than what this release of visit_tl "
        f"was tested with, and may be the cause."
    )


def _numbers(release: str) -> tuple[int, ...]:
    """The leading numbers of a release: 5.24.0.dev0 gives (5, 24, 0)."""
    numbers: list[int] = []
    for part in release.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
