"""Precision and recall of a comparison, from one item to all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from visit_tl.circuits.metrics import at_k
from visit_tl.escaping import for_plotly
from visit_tl.view.figures.head_map import visible_words
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette, rank_colour

if TYPE_CHECKING:
    from visit_tl.circuits.comparison import Comparison

_POINTS: Final = 80


def precision_recall(found: Comparison, *, theme: str = "light") -> go.Figure:
    """Precision and recall of the k highest scores for every k, on a logarithmic axis.

    Where k cuts through tied scores, both are the mean over all orders of the tied items. The
    dotted line is the precision of a random order, the vertical one the k of the comparison.

    Args:
        found: The comparison, of heads or edges.
        theme: `light` or `dark`.

    Raises:
        InputError: there is no such theme.
    """
    colours = palette(theme)
    ranked = [-math.inf if item.score is None else item.score for item in found.items]
    members = [item.member for item in found.items]
    steps = _steps(len(ranked), found.at_k.selected)
    curve = [at_k(ranked, members, k) for k in steps]
    lines = [
        _line("precision", steps, [s.precision for s in curve], rank_colour(0.0, theme), "solid"),
        _line("recall", steps, [s.recall for s in curve], rank_colour(0.78, theme), "dash"),
    ]
    figure = go.Figure(lines)
    k, thin = found.at_k.selected, {"width": 1, "color": colours.quiet}
    figure.add_hline(y=found.chance, line=thin | {"dash": "dot"})
    figure.add_vline(x=k, line=thin, layer="below")
    figure.add_annotation(
        _note("chance", 0.0, found.chance, colours) | {"xref": "paper", "xshift": 6}
    )
    figure.add_annotation(_note(f"k = {k}", math.log10(k), 0.94, colours) | {"xshift": 4})
    title = f"{found.reference.name} · average precision {found.average_precision:.3f}"
    layout = ground(colours)
    del layout["hoverlabel"]["align"]  # Plotly aligns a hover of several lines itself
    figure.update_layout(
        **layout,
        width=620,
        height=400,
        margin={"l": 64, "r": 24, "t": 64, "b": 56},
        hovermode="x unified",
        title={"text": for_plotly(visible_words(title)), "font": {"size": 15}, "x": 0.02},
        xaxis=_axis(f"k, the number of {found.level} taken", colours)
        | {"type": "log", "dtick": 1, "range": [0, math.log10(max(len(ranked), 2))]},
        yaxis=_axis("share", colours) | {"range": [0, 1.02]},
        legend={"x": 0.5, "xanchor": "center", "y": 1.02, "yanchor": "bottom", "orientation": "h"},
    )
    return figure


def _steps(n: int, k: int) -> list[int]:
    """Whole numbers from 1 to n, evenly spaced on a logarithmic scale, k among them."""
    spaced = (round(n ** (i / (_POINTS - 1))) for i in range(_POINTS))
    return sorted({k, n, *spaced})


def _line(name: str, x: list[int], y: list[float], colour: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="lines",
        line={"color": colour, "width": 2.5, "dash": dash},
        hovertemplate="%{y:.3f}",
    )


def _note(words: str, x: float, y: float, colours: Palette) -> dict[str, Any]:
    return {
        "text": words,
        "x": x,
        "y": y,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": FONT_SIZE, "color": colours.quiet},
    }


def _axis(title: str, colours: Palette) -> dict[str, Any]:
    return {
        "title": {"text": title},
        "gridcolor": colours.rule,
        "linecolor": colours.rule,
        "zeroline": False,
        "ticks": "",
    }
