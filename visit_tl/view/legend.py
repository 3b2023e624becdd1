"""What surrounds the flow in a figure: headings of blocks and columns, bands, and the legend."""

from __future__ import annotations

from typing import Any, Final

from visit_tl.view.layout import NODE_WIDTH, Layout
from visit_tl.view.style import (
    FEATURE_COLOUR,
    FONT_SIZE,
    entropy_colour,
    palette,
    rank_colour,
    rank_place,
    sign_colour,
)

HEADINGS: Final = 46
"""Height in px of the two lines over the columns."""

LEGEND: Final = 74
"""Height in px of the legend under the columns."""

GREY_LEGEND: Final = "sum or flow, by the entropy of its source: 0 (strong) to log d_vocab (faint)"
WIDTH: Final = 960
"""Width in px of the legend, and the least width of a figure."""

RANK_LEGEND: Final = "node: rank of the target among what the node promotes"
EDGE_LEGEND: Final = "edge: wider = larger score, within its group; hover for the score"

FEATURE_LEGEND: Final = "rim: feature of an SAE, its error or b_dec"

LATER_LEGEND: Final = "dashed outline: memory of a later token"

Drawn = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Annotations and shapes of a Plotly layout."""

Px = int | float
"""A length in px, or a share of the figure."""

_STEPS: Final = 32


def blocks(layout: Layout) -> list[tuple[int | None, float, float]]:
    """Each block's left and right edge in px, from left to right."""
    found: list[tuple[int | None, float, float]] = []
    starts = [
        c for i, c in enumerate(layout.columns) if i == 0 or c.layer != layout.columns[i - 1].layer
    ]
    for i, column in enumerate(starts):
        right = starts[i + 1].left if i + 1 < len(starts) else float(layout.width)
        found.append((column.layer, column.left, right))
    return found


def headings(layout: Layout, theme: str) -> Drawn:
    """Annotations that name blocks and columns, and a band behind every other block."""
    colours = palette(theme)
    notes, shapes = [], []
    for column in layout.columns:
        middle = (column.left + NODE_WIDTH / 2) / layout.width
        notes.append(
            _note(column.words, middle, 1, colours.quiet, yshift=4, anchor="left", xshift=-5)
        )
    for i, (layer, left, right) in enumerate(blocks(layout)):
        if layer is not None:
            words = f"<b>block {layer}</b>"
            place = left / layout.width
            notes.append(_note(words, place, 1, colours.text, yshift=22, size=14, anchor="left"))
        if i % 2 == 0:
            shapes.append(_band(left - 8, right - 8, layout, colours.band))
    return notes, shapes


def legend(d_vocab: int, theme: str, *, later: bool = False, features: bool = False) -> Drawn:
    """The legend under a Plotly figure: the scale of ranks, the two signs and the greys.

    It is laid out in px from the left edge, so that it stays together at any width.

    Args:
        d_vocab: The size of the vocabulary.
        theme: `light` or `dark`.
        later: Whether edges of later tokens' memories are drawn, which have an outline.
        features: Whether features of SAEs are drawn, which have a rim.
    """
    text = palette(theme).text
    notes, shapes = [], []
    bar = 12.0
    for i in range(_STEPS):
        shapes.append(_swatch(bar + i * 8, 8, 10, rank_colour((i + 0.5) / _STEPS, theme), -31))
    notes.append(_under(RANK_LEGEND, bar, -8, text))
    for rank in _ticks(d_vocab):
        place = bar + rank_place(rank, d_vocab) * _STEPS * 8
        name = f"{rank:,}" if rank < d_vocab - 1 or rank == 0 else "last"
        notes.append(_under(name, place, -40, text, anchor="center"))
    left = 400.0
    notes.append(_under(EDGE_LEGEND, left, -8, text))
    for x, colour, words in (
        (left, sign_colour(False, theme), "coefficient &gt; 0"),
        (left + 140, sign_colour(True, theme), "coefficient &lt; 0"),
    ):
        shapes.append(_swatch(x, 22, 10, colour, -31))
        notes.append(_under(words, x + 28, -26, text))
    if later:
        rim = _swatch(left + 280, 22, 10, "rgba(0,0,0,0)", -31)
        shapes.append(rim | {"line": {"width": 1, "color": text, "dash": "4px,3px"}})
        notes.append(_under(LATER_LEGEND, left + 308, -26, text))
    if features:
        rim = _swatch(13, 9, 9, "rgba(0,0,0,0)", -60)
        shapes.append(rim | {"line": {"width": 2, "color": FEATURE_COLOUR[theme]}})
        notes.append(_under(FEATURE_LEGEND, 30, -55, text))
    for i in range(12):
        colour = entropy_colour((i + 0.5) / 12, theme)
        shapes.append(_swatch(left + i * 6, 6, 10, colour, -51))
    notes.append(_under(GREY_LEGEND, left + 78, -46, text))
    return notes, shapes


def empty(words: str, theme: str) -> dict[str, Any]:
    """A note in the middle of a figure that has nothing else to show."""
    return _note(words, 0.5, 0.5, palette(theme).quiet)


def _ticks(d_vocab: int) -> list[int]:
    ticks = [0, *(r for r in (10, 1000) if r < d_vocab / 4), d_vocab - 1]
    return sorted(set(ticks))


def _note(
    words: str,
    x: Px,
    y: Px,
    colour: str,
    *,
    yshift: Px = 0,
    xshift: Px = 0,
    size: int = FONT_SIZE,
    anchor: str = "center",
    yanchor: str = "bottom",
) -> dict[str, Any]:
    return {
        "text": words,
        "x": round(x, 5),
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": anchor,
        "yanchor": yanchor,
        "xshift": xshift,
        "yshift": yshift,
        "showarrow": False,
        "align": "left",
        "font": {"size": size, "color": colour},
    }


def _under(words: str, x: Px, y: Px, colour: str, anchor: str = "left") -> dict[str, Any]:
    return _note(words, 0, 0, colour, xshift=x, yshift=y - 2, anchor=anchor, yanchor="top")


def _swatch(left: Px, width: Px, height: Px, colour: str, top: Px) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "yref": "paper",
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        "xanchor": 0,
        "yanchor": 0,
        "x0": left,
        "x1": left + width,
        "y0": top - height,
        "y1": top,
        "fillcolor": colour,
        "line": {"width": 0},
    }


def _band(left: Px, right: Px, layout: Layout, colour: str) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "paper",
        "yref": "paper",
        "x0": max(left, 0) / layout.width,
        "x1": right / layout.width,
        "y0": 0,
        "y1": 1 + HEADINGS / layout.height,
        "fillcolor": colour,
        "line": {"width": 0},
        "layer": "below",
    }
