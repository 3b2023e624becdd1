"""A heat map of what parts add to one number, with their sums as bars beside it and above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.escaping import clip, clip_start, for_html, for_plotly
from visit_tl.graph.descriptions import patched_words, readable, segments_words
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.style import FONT_SIZE, Palette

GAP: Final = 10
"""Room in px between the map and its bars."""
SIDE: Final = 16
"""Margin in px at the sides."""
TOP: Final = 100
"""Room in px for the title."""
TEXT_WIDTH: Final = 110
"""The most characters of a line of text."""
NAMED_AXIS: Final[dict[str, Any]] = {
    "showgrid": False,
    "zeroline": False,
    "fixedrange": True,
    "ticks": "",
    "tickmode": "array",
    "automargin": False,
}
"""An axis of the map, without its names."""


def changed(
    patched: tuple[str, ...],
    segments: tuple[tuple[int, int], ...],
    adapters: tuple[str, ...] = (),
) -> list[tuple[str, str]]:
    """What was unlike the model's own run, by name."""
    facts = []
    if patched:
        facts.append(("patched", patched_words(patched)))
    if adapters:
        facts.append(("adapters", ", ".join(map(readable, adapters))))
    if segments:
        facts.append(("segments", segments_words(segments)))
    return facts


def line(name: str, fact: str) -> str:
    """A fact as a line of text, after its name."""
    return clip(f"{name:<12}{fact}", TEXT_WIDTH)


def prompt_line(prompt: str) -> str:
    """The prompt as a line of text."""
    return line("prompt", f'"{clip_start(readable(prompt), TEXT_WIDTH - 14)}"')


def share(value: float, whole: float) -> str:
    """A part's share of the whole; empty if there is no whole."""
    return f"{value / whole:.0%}" if whole else ""


def preformatted(text: str) -> str:
    """A text, escaped, for the output cell of a notebook."""
    return f"<pre>{for_html(text)}</pre>"


def short(value: float) -> str:
    """Two decimals, or three digits of a large number; with a minus sign of full width."""
    shown = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
    return ("0.00" if shown == "-0.00" else shown).replace("-", "−")


def heat_map(
    cells: Float[np.ndarray, "row column"],
    most: float,
    hovers: list[list[str]],
    colours: Palette,
    **more: Any,
) -> go.Heatmap:
    """The cells, coloured from -most to most.

    Args:
        cells: What each pair of a row and a column adds.
        most: Where the colours end.
        hovers: What is said of each cell.
        colours: The theme's.
        more: Further settings of the trace.
    """
    scale = colour_scale(colours, signed=True)
    scale[len(scale) // 2][1] = colours.background
    return go.Heatmap(
        z=cells,
        zmin=-most,
        zmax=most,
        colorscale=scale,
        xgap=1,
        ygap=1,
        showscale=False,
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
        **more,
    )


def bars(sums: Float[np.ndarray, " part"], along: str, colours: Palette, **more: Any) -> go.Bar:
    """The sums of rows (`along` is "y") or of columns ("x").

    Args:
        sums: One number for each row or column.
        along: The axis of the map that they stand at.
        colours: The theme's.
        more: Further settings of the trace.
    """
    blue, _, _, _, orange = colours.ranks
    said = {
        "textposition": "outside",
        "textfont": {"size": FONT_SIZE},
        "constraintext": "none",
        "cliponaxis": False,
        "marker": {"color": [f"rgb{blue if value >= 0 else orange}" for value in sums]},
        **more,
    }
    places = list(range(len(sums)))
    if along == "y":
        return go.Bar(x=sums, y=places, orientation="h", xaxis="x2", yaxis="y", **said)
    return go.Bar(x=places, y=sums, xaxis="x", yaxis="y2", **said)


def bar_axis(
    sums: Float[np.ndarray, " part"], length: int, room: int, colours: Palette
) -> dict[str, Any]:
    """The axis of bars `length` px long, with `room` px for a number at each end that has one."""
    low, high = min(0.0, float(sums.min())), max(0.0, float(sums.max()))
    ends = (room if low < 0 else 4), (room if high > 0 else 4)
    unit = ((high - low) or 1.0) / (length - sum(ends))
    return {
        "range": [low - ends[0] * unit, high + ends[1] * unit],
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
        "showticklabels": False,
        "zeroline": True,
        "zerolinecolor": colours.rule,
        "zerolinewidth": 1,
    }


def frame(width: int, height: int) -> dict[str, Any]:
    """The layout that does not depend on what is drawn."""
    return {
        "width": width,
        "height": height,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "showlegend": False,
        "bargap": 0.3,
        "hovermode": "closest",
    }


def title(model: str, prompt: str, small: Sequence[str], width: int) -> dict[str, Any]:
    """Model and prompt, and lines in a smaller font below."""
    name, room = readable(model), (width - 2 * SIDE) / 7.2
    text = clip_start(readable(prompt), max(20, round(room / 1.2) - len(name) - 8))
    said = [f"<b>{for_plotly(name)}</b> · “{for_plotly(text)}”"]
    said += [
        f'<span style="font-size:13px">{for_plotly(clip(one, round(room)))}</span>' for one in small
    ]
    return {
        "text": "<br>".join(said),
        "x": 0,
        "xref": "container",
        "pad": {"l": SIDE, "t": 28},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
