"""Scores of heads as a map of layers x heads; the heads of a circuit are outlined by class.

A class has a colour and a shape, so that it can be recognised without colour. The colours are based
on those of Okabe and Ito (2008), without the blues, which the map uses; tests/view/test_head_map.py
measures them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.circuits.scores import check_shape, matrix
from visit_tl.escaping import clip, for_plotly, visible
from visit_tl.view.style import CLASS_COLOURS, FONT_SIZE, Palette, ground, palette

if TYPE_CHECKING:
    from visit_tl.circuits.references import Reference

SHAPES: Final = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon")
"""One more than there are colours, so that 56 classes have different pairs."""

_CELL: Final = 34
_SMALLEST_CELL: Final = 16
_WIDEST_MAP: Final = 1100
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 96, 92, 14
_LEGEND_LINE: Final = 20
_SYMBOL: Final = 40
"""Width in px of the symbol that Plotly puts before the words of an entry."""

_NARROWEST: Final = 420
_SCALE: Final = 64
"""The least length of the scale in px, so that its numbers do not overlap."""


def head_map(
    scores: Any,
    *,
    reference: Reference | None = None,
    title: str | None = None,
    score: str = "score",
    theme: str = "light",
) -> go.Figure:
    """Scores [layer, head] as a figure: layers from top to bottom, heads from left to right.

    Darker (in the dark theme: lighter) is higher. If there are scores of both signs, blue is above
    zero and orange below, on one scale.

    Args:
        scores: An array, tensor or nested list [layer, head]. NaN is a head without a score, drawn
            as a short dash; an infinite score has the colour of the largest finite one.
        reference: The circuit whose heads are outlined; None for none.
        title: Above the map; None for none.
        score: What the numbers are, for the scale; cut off where it is longer than the scale.
        theme: `light` or `dark`.

    Returns:
        A figure that grows with the number of layers.

    Raises:
        InputError: the scores are not numbers [layer, head], the reference is of another shape, or
            there is no such theme.
    """
    from visit_tl.graph.circuit_edges import Shape

    colours, values = palette(theme), matrix(scores)
    n_layers, n_heads = values.shape
    if reference is not None:
        check_shape(Shape(n_layers, n_heads), reference, "the scores are")
    cell = max(_SMALLEST_CELL, min(_CELL, _WIDEST_MAP // n_heads))
    drawn = [*_outlines(reference, cell, theme), *_unscored(values, cell, colours)]
    figure = go.Figure([_map(values, reference, score, colours, cell), *drawn])
    entry, legend = _legend_size(
        [trace.name for trace in drawn if trace.showlegend], cell * n_heads
    )
    room = max(cell * n_heads, entry) + _LEFT + _RIGHT
    width = max(room, _NARROWEST)
    below = _BOTTOM + legend + max(0, _SCALE - cell * n_layers)
    figure.update_layout(
        **ground(colours),
        width=width,
        height=cell * n_layers + _TOP + below,
        margin={"l": _LEFT, "r": width - cell * n_heads - _LEFT, "t": _TOP, "b": below},
        hovermode="closest",
        title=_title(title),
        xaxis=_axis("head", n_heads, cell) | {"side": "top"},
        yaxis=_axis("layer", n_layers, cell)
        | {"autorange": False, "range": _range(n_layers)[::-1]},
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": min(0.0, 1 - _SCALE / (cell * n_layers)),
            "yanchor": "top",
            "tracegroupgap": 0,
            "itemsizing": "trace",
            "entrywidth": entry,
            "entrywidthmode": "pixels",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": FONT_SIZE, "color": colours.text},
        },
    )
    return figure


def class_marks(number: int, theme: str) -> tuple[str, str]:
    """The colour and the shape of a class, by its place in the reference."""
    palette(theme)
    colours = CLASS_COLOURS[theme]
    return colours[number % len(colours)], SHAPES[number % len(SHAPES)]


def _map(
    values: Float[np.ndarray, "layer head"],
    reference: Reference | None,
    score: str,
    colours: Palette,
    cell: int,
) -> go.Heatmap:
    finite = values[np.isfinite(values)]
    high = float(np.abs(finite).max()) if finite.size else 1.0
    signed = bool(finite.size) and float(finite.min()) < 0 < float(finite.max())
    low = -high if signed else float(finite.min()) if finite.size else 0.0
    top = high if signed else float(finite.max()) if finite.size else 1.0
    if low == top:
        low, top = low - 0.5, top + 0.5
    length = max(_SCALE, cell * values.shape[0])
    return go.Heatmap(
        z=np.clip(values, low, top),
        zmin=low,
        zmax=top,
        colorscale=colour_scale(colours, signed),
        xgap=1,
        ygap=1,
        customdata=_hovers(values, reference),
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=True,
        colorbar={
            "title": {"text": for_plotly(clip(visible_words(score), length // 8)), "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "lenmode": "pixels",
            "len": length,
            "y": 1,
            "yanchor": "top",
            "ypad": 0,
            "nticks": length // 40 + 1,
            "tickfont": {"size": FONT_SIZE, "color": colours.text},
        },
    )


def colour_scale(colours: Palette, signed: bool) -> list[list[Any]]:
    """From the background to blue; with both signs, from orange over the background to blue."""
    blue, pale_blue, _, pale_orange, orange = (_css(rgb) for rgb in colours.ranks)
    down = (orange, pale_orange) if signed else ()
    stops = (*down, colours.band, pale_blue, blue)
    return [[i / (len(stops) - 1), colour] for i, colour in enumerate(stops)]


def _hovers(
    values: Float[np.ndarray, "layer head"], reference: Reference | None
) -> list[list[str]]:
    classes = {} if reference is None else {str(h): c for h, c in reference.class_of.items()}
    return [
        [_hover(f"L{layer}H{head}", value, classes) for head, value in enumerate(row)]
        for layer, row in enumerate(values)
    ]


def _hover(name: str, value: float, classes: dict[str, str]) -> str:
    told = "no score" if math.isnan(value) else f"{value:.4g}"
    own = f"<br>{for_plotly(visible_words(classes[name]))}" if name in classes else ""
    return f"<b>{name}</b> {told}{own}"


def visible_words(text: str) -> str:
    """A text with its spaces kept, and with other invisible characters made visible."""
    return " ".join(visible(word) for word in text.split(" "))


def _unscored(
    values: Float[np.ndarray, "layer head"], cell: int, colours: Palette
) -> list[go.Scatter]:
    layers, heads = np.nonzero(np.isnan(values))
    if not layers.size:
        return []
    mark = {"symbol": "line-ew", "size": cell * 0.2, "line": {"width": 1, "color": colours.quiet}}
    return [_dots(heads, layers, "no score", mark)]


def _outlines(reference: Reference | None, cell: int, theme: str) -> list[go.Scatter]:
    """A frame round each head of the reference, and the shape of its class inside."""
    ground, drawn = palette(theme).background, []
    for number, (name, heads) in enumerate(reference.classes.items() if reference else ()):
        colour, shape = class_marks(number, theme)
        x, y = [head.head for head in heads], [head.layer for head in heads]
        halo, frame = (
            {
                "symbol": "square-open",
                "size": cell - 7,
                "line": {"width": w, "color": c},
                "color": c,
            }
            for w, c in ((6, ground), (3, colour))
        )
        fill = {
            "symbol": shape,
            "size": max(8, cell * 0.36),
            "color": colour,
            "line": {"width": 1.5, "color": ground},
        }
        words = for_plotly(visible_words(name))
        drawn += [_dots(x, y, words, m, group=str(number), listed=False) for m in (halo, frame)]
        drawn.append(_dots(x, y, f"{words} ({len(heads)})", fill, group=str(number)))
    return drawn


def _dots(
    x: Any, y: Any, name: str, marker: dict[str, Any], *, group: str = "", listed: bool = True
) -> go.Scatter:
    # The map underneath shows the hovers.
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode="markers",
        marker=marker,
        hoverinfo="skip",
        showlegend=listed,
        legendgroup=group,
        cliponaxis=False,
    )


def _legend_size(names: list[Any], room: int) -> tuple[int, int]:
    """Width of an entry and height of the legend, both in px, for columns in `room` px."""
    if not names:
        return 0, 0
    entry = round(max(map(len, names)) * FONT_SIZE * 0.54) + 8
    columns = max(1, room // (entry + _SYMBOL))
    return entry, math.ceil(len(names) / columns) * _LEGEND_LINE + 14


def _axis(name: str, n: int, cell: int) -> dict[str, Any]:
    return {
        "title": {"text": name, "standoff": 6},
        "range": _range(n),
        "dtick": next(step for step in (1, 2, 4, 8, 16, 32) if step * cell >= 22),
        "tick0": 0,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "fixedrange": True,
    }


def _range(n: int) -> list[float]:
    return [-0.5, n - 0.5]


def _title(title: str | None) -> dict[str, Any]:
    words = "" if title is None else for_plotly(visible_words(title))
    return {
        "text": words,
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 16},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }


def _css(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)
