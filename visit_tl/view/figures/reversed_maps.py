"""The attention of some heads beside their reversed attention, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from visit_tl.errors import InputError
from visit_tl.escaping import columns, for_plotly, visible
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.graph.descriptions import number
from visit_tl.view.figures.gradient_caption import lowers, title, title_height
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

_PANEL: Final = 420
_CELL = (14, 28)
"""The smallest and the largest cell in px: labels of 12 px need 14."""
_GAP_FROM: Final = 16
"""From this size on there are gaps between cells."""
_LABEL: Final = 10
_CHARACTER: Final = 7.2
"""Width in px of a character of a label."""
_BAR: Final = 88
"""Room in px for a colour bar and its numbers."""
_HEADING: Final = 30
_BELOW: Final = 18
_SIDE: Final = 16


def maps(found: ReversedAttention, heads: Sequence[tuple[int, int]], theme: str) -> go.Figure:
    """For each head a row: its attention, and its reversed attention R.

    Queries are rows from top to bottom, keys are columns. R has a scale of its own that is
    symmetric about 0: blue above, orange-red below.

    Raises:
        InputError: there are no heads, or no such theme.
    """
    if not heads:
        raise InputError("no heads were given; name some, such as ['L9H6', 'L10H0']")
    colours, n = palette(theme), len(found.tokens)
    cell = max(_CELL[0], min(_CELL[1], _PANEL // n))
    names = [_label(found, position) for position in range(n)]
    longest = max(columns(visible(token, _LABEL)) for token in found.tokens)
    label = round((longest + 1 + len(str(n - 1))) * _CHARACTER) + 12
    side = cell * n
    column = label + side + _BAR
    width = max(2 * column + 2 * _SIDE, 640)
    said = [
        "A: attention · R: reversed attention, the gradient at the attention scores; "
        f"where R < 0, more attention lowers {lowers(found)}",
    ]
    if width < 900:
        said = [
            "A: attention · R: reversed attention, the gradient at the scores",
            f"where R < 0, more attention lowers {lowers(found)}",
        ]
    top, row = title_height(found, said), _HEADING + side + label + _BELOW
    height = top + row * len(heads)
    drawn, layout, notes = go.Figure(), {}, []
    for i, (layer, head) in enumerate(heads):
        pair = {"A": found.forward_map(layer, head), "R": found.map(layer, head)}
        norms = {"A": found.forward_norms, "R": found.norms}
        for j, (what, values) in enumerate(pair.items()):
            left, above = _SIDE + label + j * column, top + i * row + _HEADING
            box = _Box(
                (left / width, (left + side) / width),
                (1 - (above + side) / height, 1 - above / height),
                side,
                width,
            )
            panel = f"{2 * i + j + 1}" if i or j else ""
            shown = np.where(_masked(found, pair["A"]), np.nan, values)
            drawn.add_trace(_map(found, shown, what, f"L{layer}H{head}", box, colours, panel))
            layout |= _axes(names, box, panel, colours)
            norm = float(norms[what][found.layers.index(layer), head])
            notes.append(_heading(f"L{layer}H{head}", what, norm, box))
    drawn.update_layout(
        **ground(colours) | {"plot_bgcolor": _mask(colours)},
        **layout,
        annotations=notes,
        width=width,
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        hovermode="closest",
        showlegend=False,
        title=title(found, said, width),
    )
    return drawn


@dataclass(frozen=True)
class _Box:
    """Where a map stands: shares of the figure's width and height, and the width of both in px."""

    x: tuple[float, float]
    y: tuple[float, float]
    side: int
    width: int


def _masked(
    found: ReversedAttention, attention: Float[np.ndarray, "query key"]
) -> Bool[np.ndarray, "query key"]:
    """Keys that the query does not see."""
    later = np.triu(np.ones_like(attention, dtype=bool), 1)
    for start, end in found.segments:
        later[start:end, start:end] = False
    return later


def _map(
    found: ReversedAttention,
    values: Float[np.ndarray, "query key"],
    what: str,
    name: str,
    box: _Box,
    colours: Palette,
    panel: str,
) -> go.Heatmap:
    most = float(np.nanmax(np.abs(values))) or 1.0
    n = len(values)
    gap = 1 if box.side / n >= _GAP_FROM else 0
    return go.Heatmap(
        z=[[None if math.isnan(v) else float(v) for v in row] for row in values],
        zmin=-most if what == "R" else 0,
        zmax=most,
        colorscale=_colours(colours, signed=what == "R"),
        xgap=gap,
        ygap=gap,
        xaxis=f"x{panel}",
        yaxis=f"y{panel}",
        hoverongaps=False,
        customdata=[[_hover(found, name, what, q, k, values) for k in range(n)] for q in range(n)],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "x": box.x[1] + 8 / box.width,
            "xanchor": "left",
            "xpad": 0,
            "y": box.y[1],
            "yanchor": "top",
            "ypad": 0,
            "lenmode": "pixels",
            "len": box.side,
            "thickness": 10,
            "outlinecolor": colours.rule,
            "outlinewidth": 1,
            "nticks": 5,
            "exponentformat": "power",
            "showexponent": "all",
            "tickfont": {"size": FONT_SIZE, "color": colours.text},
        },
    )


def _colours(colours: Palette, *, signed: bool) -> list[list[Any]]:
    """The scale of `head_map`, but white (in the dark theme: the background) where it is 0."""
    scale = colour_scale(colours, signed)
    zero = len(scale) // 2 if signed else 0
    scale[zero] = [scale[zero][0], colours.background]
    return scale


def _mask(colours: Palette) -> str:
    """The colour of what cannot be attended to, and of the lines between cells."""
    red, green, blue = (int(colours.rule[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def _hover(
    found: ReversedAttention,
    name: str,
    what: str,
    query: int,
    key: int,
    values: Float[np.ndarray, "query key"],
) -> str:
    if math.isnan(values[query, key]):
        return ""
    tokens = (f"{visible(found.tokens[at])} at {at}" for at in (query, key))
    said = [*(f"{role} {token}" for role, token in zip(("query", "key"), tokens, strict=True))]
    said.append(f"{what} = {number(float(values[query, key]))}")
    return f"<b>{name}</b><br>" + "<br>".join(map(for_plotly, said))


def _heading(name: str, what: str, norm: float, box: _Box) -> dict[str, Any]:
    words = "attention" if what == "A" else "reversed attention"
    return {
        "text": f"<b>{name}</b> {words} · norm {number(norm)}",
        "x": box.x[0],
        "xref": "paper",
        "xanchor": "left",
        "y": box.y[1],
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": 3,
        "showarrow": False,
        "font": {"size": 13},
    }


def _axes(names: list[str], box: _Box, panel: str, colours: Palette) -> dict[str, Any]:
    n = len(names)
    both = {
        "tickmode": "array",
        "tickvals": list(range(n)),
        "ticktext": names,
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": "rgba(0,0,0,0)",
        "fixedrange": True,
        "autorange": False,
        "mirror": True,
        "showline": True,
        "linecolor": colours.rule,
    }
    return {
        f"xaxis{panel}": {
            **both,
            "domain": box.x,
            "anchor": f"y{panel}",
            "range": [-0.5, n - 0.5],
            "tickangle": -90,
        },
        f"yaxis{panel}": {
            **both,
            "domain": box.y,
            "anchor": f"x{panel}",
            "range": [n - 0.5, -0.5],
        },
    }


def _label(found: ReversedAttention, position: int) -> str:
    name = f"{for_plotly(visible(found.tokens[position], _LABEL))} {position}"
    return f"<b>{name}</b>" if position == found.position else name
