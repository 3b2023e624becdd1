"""An overlap of two circuits: where the heads of each are, and how many each layer shares."""

from __future__ import annotations

import html as html_text
from typing import TYPE_CHECKING, Any, Final

from visit_tl.escaping import clip, for_plotly
from visit_tl.graph.circuit_parts import Part
from visit_tl.view.figures.head_map import CLASS_COLOURS, visible_words
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from visit_tl.circuits.circuit_overlap import CircuitOverlap

_ROW: Final = 22
_CELL: Final = 26
_LEFT, _TOP, _BOTTOM, _GAP, _BARS, _RIGHT = 64, 92, 56, 64, 300, 28
_NAMES: Final = ("a alone", "b alone", "both")
_MARKS: Final = ("triangle-left", "triangle-right", "square")


def figure(found: CircuitOverlap, theme: str = "light") -> go.Figure:
    """Where the circuits are, and how many items of each layer are in a, in b and in both.

    For heads, a map of layers and heads is on the left: a triangle to the left is in a alone, one
    to the right in b alone, a square in both. The bars are counts by layer; a line is the number
    that a and a random circuit of the size of b would share there.
    """
    colours = palette(theme)
    fills = (*CLASS_COLOURS[theme][:2], colours.text)
    heads = found.level == "heads"
    drawn: list[Any] = []
    if heads:
        drawn += [_heads(found, i, fills[i], colours) for i in range(3)]
    # Both first, from 0 on, so that its end can be compared with the line of chance.
    drawn += [_bars(found, i, fills[i], listed=not heads) for i in (2, 0, 1)]
    drawn += [_chance(found, 5.0, colours.background, listed=False)]
    drawn += [_chance(found, 2.5, f"rgb{colours.ranks[1]}", listed=True)]
    numbers = [one.item.head or 0 for one in found.items if isinstance(one.item, Part)]
    return _laid_out(drawn, found, max(numbers, default=-1) + 1, colours)


def _laid_out(drawn: list[Any], found: CircuitOverlap, n_heads: int, colours: Palette) -> go.Figure:
    """The figure of the drawn marks: a map of `n_heads` columns if there are heads, and bars."""
    import plotly.graph_objects as go

    rows = [group.name for group in found.layers]
    room = max(_CELL * n_heads, 150) + _GAP if n_heads else 0
    left = _LEFT + max(0, max(map(len, rows)) * 7 - 20)
    bars = _BARS if n_heads else _BARS + 150
    inner = room + bars
    most = max([1, *(max(g.a + g.b - g.shared, g.expected) for g in found.layers)])
    chart = go.Figure(drawn)
    chart.update_layout(
        **ground(colours),
        width=left + inner + _RIGHT,
        height=_TOP + _BOTTOM + _ROW * len(rows),
        margin={"l": left, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        barmode="stack",
        bargap=0.25,
        title=_title(found, inner, colours),
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "y": 1,
            "yanchor": "bottom",
            "font": {"size": FONT_SIZE, "color": colours.text},
            "itemclick": False,
            "itemdoubleclick": False,
        },
        yaxis=_rows(rows, colours),
        xaxis=_axis("head", colours, 0.0, max(0.0, room - _GAP) / inner)
        | {"range": [-0.6, n_heads - 0.4], "dtick": 1 if n_heads <= 16 else 4, "showgrid": False},
        xaxis2=_axis(f"{found.level} in a circuit", colours, room / inner, 1.0)
        | {"range": [0, most * 1.05], "anchor": "y"}
        | ({"dtick": 1} if most <= 8 else {}),
    )
    if not n_heads:
        chart.update_layout(xaxis={"visible": False, "domain": [0, 1]})
    return chart


def _title(found: CircuitOverlap, width: int, colours: Palette) -> dict[str, Any]:
    words = (
        f"{found.whole.shared} {found.level} of {found.whole.a} and {found.whole.b} are shared · "
        f"by chance {found.whole.expected:.2g}, p {found.whole.p:.2g}"
    )
    each = max(12, width // 15)
    sides = " · ".join(
        f"{which}: {clip(visible_words(name.removeprefix(f'{which}, ')), each)}"
        for which, name in (("a", found.a), ("b", found.b))
    )
    return {
        "text": f"{for_plotly(words)}<br><span style='font-size:12px;color:{colours.quiet}'>"
        f"{for_plotly(sides)}</span>",
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 14},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }


def html(found: CircuitOverlap) -> str:
    """The numbers as a table."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html_text.escape(name.strip())}</th>'
        f'<td style="text-align:left">{html_text.escape(value)}</td></tr>'
        for name, value in found.rows()
    )
    return f"<table>{cells}</table>"


def _where(one: Any) -> int:
    """0: in a alone, 1: in b alone, 2: in both, -1: in none."""
    if one.in_a and one.in_b:
        return 2
    return 0 if one.in_a else 1 if one.in_b else -1


def _heads(found: CircuitOverlap, which: int, colour: str, colours: Palette) -> go.Scatter:
    import plotly.graph_objects as go

    name = _NAMES[which]
    own = [one for one in found.items if _where(one) == which]
    hovers = [
        f"<b>{one.item}</b> {name}"
        + (f"<br>{for_plotly(visible_words(one.role))}" if one.role else "")
        + "".join(
            f"<br>{side}: {value:.4g}"
            for side, value in (("a", one.score_a), ("b", one.score_b))
            if value is not None
        )
        for one in own
    ]
    return go.Scatter(
        x=[one.item.head for one in own if isinstance(one.item, Part)],
        y=[one.layer for one in own],
        name=name,
        mode="markers",
        marker={
            "symbol": _MARKS[which],
            "size": 12,
            "color": colour,
            "line": {"width": 1, "color": colours.background},
        },
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
        cliponaxis=False,
    )


def _bars(found: CircuitOverlap, which: int, colour: str, *, listed: bool) -> go.Bar:
    import plotly.graph_objects as go

    name = _NAMES[which]
    counts = [(g.a - g.shared, g.b - g.shared, g.shared)[which] for g in found.layers]
    return go.Bar(
        y=[group.name for group in found.layers],
        x=counts,
        orientation="h",
        name=name,
        showlegend=listed,
        marker={"color": colour, "line": {"width": 0}},
        xaxis="x2",
        hovertemplate=f"layer %{{y}}: %{{x}} in {name}<extra></extra>",
    )


def _chance(found: CircuitOverlap, width: float, colour: str, *, listed: bool) -> go.Scatter:
    import plotly.graph_objects as go

    some = [group for group in found.layers if group.expected]
    return go.Scatter(
        x=[group.expected for group in some],
        y=[group.name for group in some],
        name="shared by chance",
        mode="markers",
        marker={
            "symbol": "line-ns",
            "size": 13,
            "line": {"width": width, "color": colour},
        },
        showlegend=listed,
        xaxis="x2",
        hovertemplate="layer %{y}: %{x:.3g} shared by chance<extra></extra>" if listed else None,
        hoverinfo=None if listed else "skip",
        cliponaxis=False,
    )


def _rows(rows: list[str], colours: Palette) -> dict[str, Any]:
    return {
        "title": {"text": "layer", "standoff": 6},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": rows,
        "range": [len(rows) - 0.5, -0.5],
        "gridcolor": colours.rule,
        "ticks": "",
        "dtick": 1,
        "fixedrange": True,
    }


def _axis(title: str, colours: Palette, start: float, end: float) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 6},
        "domain": [start, end],
        "gridcolor": colours.rule,
        "linecolor": colours.rule,
        "zeroline": False,
        "ticks": "",
        "fixedrange": True,
    }
