"""A graph as PNG or PDF: the Plotly figure, drawn by kaleido with the user's own Chrome."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import FileError
from visit_tl.graph.container import GraphData
from visit_tl.view.figures.sankey import sankey

SCALE: Final = 2
"""Pixels of a PNG for each px of the figure: fit for print at 192 dpi."""


def image(
    graph: GraphData,
    kind: str,
    *,
    layers: Layers | None = None,
    theme: str = "light",
) -> bytes:
    """The figure of a graph as `png` or `pdf`.

    Args:
        graph: The graph.
        kind: `png` or `pdf`.
        layers: As for `visit_tl.view.figures.sankey.sankey`.
        theme: `light` or `dark`.

    Raises:
        FileError: kaleido is not installed, finds no Chrome, or fails.
        InputError: as `visit_tl.view.figures.sankey.sankey`.
    """
    require_kaleido()
    return draw(sankey(graph, layers=layers, theme=theme), kind)


def draw(figure: Any, kind: str) -> bytes:
    """Any Plotly figure of a fixed size as `png` or `pdf`.

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
            f".svg needs no browser"
        ) from error
    except (KaleidoError, OSError, RuntimeError, ValueError) as error:
        raise FileError(
            f"kaleido could not draw the .{kind}: {error}; .svg needs no browser"
        ) from error
    return drawn


def require_kaleido() -> None:
    """Check that kaleido is installed.

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
            f"PNG and PDF are drawn by kaleido 1.0 or newer, which {found}: pip install "
            f"'visit-tl[image]', or save as .svg, which needs nothing"
        )
