"""Any Plotly figure as PNG, PDF or SVG: drawn by kaleido with the user's own Chrome."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from visit_tl.errors import FileError

SCALE: Final = 2
"""Pixels of a PNG for each px of the figure: fit for print at 192 dpi."""

_FREE: Final = ".svg"
"""The format of a graph that needs no browser."""


def draw(figure: Any, kind: str, *, free: str = _FREE) -> bytes:
    """Any Plotly figure of a fixed size as `png`, `pdf` or `svg`.

    Args:
        figure: The figure.
        kind: The format.
        free: The suffix that an error names, of the same picture without a browser.

    Raises:
        FileError: as `image`.
    """
    import kaleido  # type: ignore[import-not-found]
    from kaleido.errors import (  # type: ignore[import-not-found]
        ChromeNotFoundError,
        KaleidoError,
    )

    layout = figure.layout
    size = {"width": layout.width, "height": layout.height}
    asked = {"format": kind, "scale": SCALE if kind == "png" else 1, **size}
    try:
        # Without mathjax=False, kaleido loads MathJax from a CDN; plotly.js is Plotly's own.
        drawn = kaleido.calc_fig_sync(figure.to_dict(), opts=asked, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise FileError(
            f"kaleido, which draws .{kind}, found no Chrome or Chromium: install one (`apt install "
            f"chromium`, or `kaleido_get_chrome`), or name yours in the variable BROWSER_PATH; "
            f"{free} needs no browser"
        ) from error
    except (KaleidoError, OSError, RuntimeError, ValueError) as error:
        raise FileError(
            f"kaleido could not draw the .{kind}: {error}; {free} needs no browser"
        ) from error
    return drawn


def require_kaleido(what: str = "PNG and PDF", *, free: str = _FREE) -> None:
    """Check that kaleido is installed.

    Args:
        what: The formats that an error names as drawn by kaleido.
        free: As for `draw`.

    Raises:
        FileError: it is not installed, or older than 1.0.
    """
    try:
        version = metadata.version("kaleido")
    except metadata.PackageNotFoundError:
        version = None
    if version is None or int(version.split(".")[0]) < 1:
        found = "is not installed" if version is None else f"is {version}, which is too old"
        raise FileError(
            f"{what} are drawn by kaleido 1.0 or newer, which {found}: pip install "
            f"'visit-tl[image]', or save as {free}, which needs nothing"
        )
