"""Norms or ranks of gradients as curves over the layers, one for each position."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.escaping import for_plotly, visible
from visit_tl.gradients.backward_lens_result import BackwardLens
from visit_tl.graph.descriptions import number
from visit_tl.view.figures.gradient_caption import title, title_height
from visit_tl.view.figures.head_map import CLASS_COLOURS, SHAPES
from visit_tl.view.figures.norm_scale import NormScale
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette, rank_place

_EMPHASISED: Final = 6
"""How many curves have a colour of their own, the position of the loss included."""
_WIDTH, _HEIGHT = 880, 420
_LEFT, _RIGHT, _BOTTOM = 76, 190, 52
_TOKEN: Final = 14


def curves(lens: BackwardLens, kind: str, matrix: str, theme: str) -> go.Figure:
    """Curves of `norms` or `ranks` of one matrix.

    The position of the loss and those with the largest norms, or the ranks nearest to either end,
    have colours; the others are thin and grey, and their hovers name them. A vector that is 0 is a
    gap.

    Raises:
        InputError: there is no such theme.
    """
    colours = palette(theme)
    found = lens.matrices[matrix]
    scale = NormScale.of(found.norms)
    if kind == "norms":
        values = np.array([[_drawn_norm(scale, float(v)) for v in row] for row in found.norms])
        axis = {"title": f"norm of the VJP{scale.words}", **scale.marks()}
        said = f"{matrix} · norm of the VJP at each position"
        if not scale.logarithmic:
            axis |= {"rangemode": "tozero"}
    else:
        values = np.array([[_drawn_rank(int(r), lens.d_vocab) for r in row] for row in found.ranks])
        axis = _rank_axis(lens.d_vocab)
        read = "input" if found.reads == "inputs" else "VJP"
        said = f"{matrix} · rank of the target in the {read} at each position"
    chosen = _chosen(lens, kind, values)
    drawn = go.Figure(_lines(lens, matrix, values, chosen, colours, theme))
    top = title_height(lens, [said])
    drawn.update_layout(
        **ground(colours),
        width=_WIDTH,
        height=_HEIGHT + top + _BOTTOM,
        margin={"l": _LEFT, "r": _RIGHT, "t": top, "b": _BOTTOM},
        hovermode="closest",
        title=title(lens, [said], _WIDTH),
        xaxis=_axis(colours) | {"title": "layer", **_layer_marks(lens.layers)},
        yaxis=_axis(colours) | axis,
        legend={
            "x": 1.02,
            "y": 1,
            "xanchor": "left",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": FONT_SIZE, "color": colours.text},
        },
    )
    return drawn


def _drawn_norm(scale: NormScale, norm: float) -> float:
    return scale.number(norm) if norm > 0 else math.nan


def _drawn_rank(rank: int, d_vocab: int) -> float:
    """The height of a rank: 1 is rank 0, and 0 the last rank."""
    return 1 - rank_place(rank, d_vocab) if rank >= 0 else math.nan


def _rank_axis(d_vocab: int) -> dict[str, Any]:
    near = [0, *(r for r in (10, 100, 1000, 10_000) if r < d_vocab / 4)]
    ranks = [*near, *((d_vocab - 1) // 2 for _ in [0] if d_vocab > 8), *reversed(near)]
    half = len(near)
    marks, names = [], []
    for i, rank in enumerate(ranks):
        last = i >= len(ranks) - half
        place = rank_place(d_vocab - 1 - rank if last else rank, d_vocab)
        marks.append(1 - place)
        names.append(f"last − {rank:,}" if last and rank else "last" if last else f"{rank:,}")
    return {
        "title": "rank of the target (0: promoted most)",
        "tickmode": "array",
        "tickvals": marks,
        "ticktext": names,
        "range": [-0.03, 1.03],
    }


def _chosen(lens: BackwardLens, kind: str, values: Float[np.ndarray, "layer pos"]) -> list[int]:
    """The columns that have a colour, in their order in the prompt."""
    if kind == "norms":
        best = np.where(np.isnan(values), -np.inf, values).max(0)
    else:
        best = np.where(np.isnan(values), 0, np.abs(values - 0.5)).sum(0)
    order = sorted(
        range(len(lens.positions)), key=lambda j: (lens.positions[j] != lens.position, -best[j], j)
    )
    return sorted(order[:_EMPHASISED])


def _lines(
    lens: BackwardLens,
    matrix: str,
    values: Float[np.ndarray, "layer pos"],
    chosen: list[int],
    colours: Palette,
    theme: str,
) -> list[go.Scatter]:
    others = [j for j in range(len(lens.positions)) if j not in chosen]
    drawn = []
    for n, j in enumerate(others):
        style = {"color": "rgba({},{},{},0.4)".format(*colours.neutral), "width": 1}
        name = f"{len(others)} other{'s' if len(others) > 1 else ''}"
        drawn.append(_line(lens, matrix, values, j, name, style, None) | {"showlegend": n == 0})
        drawn[-1] |= {"legendgroup": "others", "legendrank": 2000}
    plain = iter(range(_EMPHASISED))
    for j in chosen:
        position = lens.positions[j]
        own = position == lens.position
        colour, shape = (colours.text, "circle") if own else _mark(next(plain), theme)
        style = {"color": colour, "width": 3 if own else 2}
        name = for_plotly(f"{visible(lens.tokens[position], _TOKEN)} {position}")
        marker = {"color": colour, "symbol": shape, "size": 6}
        drawn.append(
            _line(lens, matrix, values, j, f"<b>{name}</b> (loss)" if own else name, style, marker)
        )
    return [go.Scatter(one) for one in drawn]


def _mark(number: int, theme: str) -> tuple[str, str]:
    """A colour and a shape; black or white is left to the position of the loss."""
    colours = [c for c in CLASS_COLOURS[theme] if c not in ("#000000", "#ffffff")]
    return colours[number % len(colours)], SHAPES[1 + number % (len(SHAPES) - 1)]


def _line(
    lens: BackwardLens,
    matrix: str,
    values: Float[np.ndarray, "layer pos"],
    j: int,
    name: str,
    style: dict[str, Any],
    marker: dict[str, Any] | None,
) -> dict[str, Any]:
    found, position = lens.matrices[matrix], lens.positions[j]
    token = for_plotly(f"{visible(lens.tokens[position])} at {position}")
    hovers = [
        f"<b>{token}</b> · layer {layer}<br>norm of the VJP {number(float(found.norms[i, j]))}"
        + (f"<br>rank of the target {found.ranks[i, j]:,}" if found.ranks[i, j] >= 0 else "")
        for i, layer in enumerate(lens.layers)
    ]
    return {
        "x": list(lens.layers),
        "y": [None if math.isnan(v) else float(v) for v in values[:, j]],
        "name": name,
        "mode": "lines" if marker is None and len(lens.layers) > 1 else "lines+markers",
        "line": style,
        "marker": marker or {"color": style["color"], "size": 3},
        "customdata": hovers,
        "hovertemplate": "%{customdata}<extra></extra>",
        "connectgaps": False,
    }


def _layer_marks(layers: tuple[int, ...]) -> dict[str, Any]:
    step = next((s for s in (1, 2, 5, 10, 20) if len(layers) / s <= 16), 50)
    marks = [layer for layer in layers if layer % step == 0 or len(layers) == 1]
    return {
        "tickmode": "array",
        "tickvals": marks,
        "ticktext": [str(layer) for layer in marks],
        "range": [layers[0] - 0.5, layers[-1] + 0.5],
    }


def _axis(colours: Palette) -> dict[str, Any]:
    return {
        "gridcolor": colours.band,
        "linecolor": colours.rule,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": colours.rule,
    }
