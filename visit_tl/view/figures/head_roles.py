"""Roles of heads: a map of layers x heads for each role, its heads marked; and the same as text."""

from __future__ import annotations

import html as html_text
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.escaping import for_plotly, table
from visit_tl.view import save_figures
from visit_tl.view.figures.head_map import colour_scale, visible_words
from visit_tl.view.style import FONT_SIZE, ground, palette, role_colour

if TYPE_CHECKING:
    from visit_tl.studies.head_roles.result import HeadRoles

_WIDEST: Final = 1180
_CELL, _SMALLEST_CELL = 16, 4
_PANEL: Final = 440
"""The most px that a panel is wide before its cells shrink."""
_LEAST_PANEL: Final = 132
"""The least room of a panel, for its two lines of heading."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 78, 108, 44
_GAP, _ROW_GAP = 22, 92
_SCALE: Final = 160

SAID: Final = {
    "previous": "attends to the token before",
    "duplicate": "attends to the same token before",
    "induction": "attends to the token after the same token before",
    "retrieval": "looks most at the token that is copied",
    "copying": "its value says the token",
    "successor": "its value says the successor of the word",
    "sink": "attends to the first token",
    "sink-free": "attends to others than the first token",
}
"""What a score is a share or mean of, in a few words."""


def figure(found: HeadRoles, theme: str = "light") -> go.Figure:
    """A panel for each role: darker is higher, from 0 to 1; a frame is round heads that have it."""
    colours = palette(theme)
    n_layers, n_heads = found.shape
    cell = max(_SMALLEST_CELL, min(_CELL, _PANEL // n_heads, 900 // n_layers))
    wide, high = cell * n_heads, cell * n_layers
    room = max(wide, _LEAST_PANEL)
    in_row = max(1, min(len(found.names), (_WIDEST - _LEFT - _RIGHT + _GAP) // (room + _GAP)))
    n_rows = math.ceil(len(found.names) / in_row)
    in_row = math.ceil(len(found.names) / n_rows)
    inner = in_row * room + (in_row - 1) * _GAP, n_rows * high + (n_rows - 1) * _ROW_GAP
    made = go.Figure()
    layout: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    for i, role in enumerate(found.names):
        left = (i % in_row) * (room + _GAP)
        top = (i // in_row) * (high + _ROW_GAP)
        axis = "" if i == 0 else str(i + 1)
        made.add_traces(_panel(found, role, axis, cell, theme, first=i == 0))
        layout |= _axes(axis, (left, top, wide, high), inner, (n_layers, n_heads), cell)
        if i % in_row == 0:
            layout[f"yaxis{axis}"]["title"] = {"text": "layer", "standoff": 4}
        notes.append(_heading(found, role, i, (left, top), inner, theme))
    made.update_layout(
        **ground(colours),
        width=max(inner[0] + _LEFT + _RIGHT, 560),
        height=max(inner[1], _SCALE) + _TOP + _BOTTOM,
        margin={
            "l": _LEFT,
            "r": max(_RIGHT, 560 - inner[0] - _LEFT),
            "t": _TOP,
            "b": _BOTTOM + max(0, _SCALE - inner[1]),
        },
        showlegend=False,
        hovermode="closest",
        title={
            "text": for_plotly(
                f"{visible_words(found.model)} · roles of {n_layers} x {n_heads} heads"
            ),
            "x": 0,
            "xref": "container",
            "pad": {"l": 14, "t": 14},
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 15},
        },
        annotations=notes,
        **layout,
    )
    return made


def _panel(
    found: HeadRoles, role: str, axis: str, cell: int, theme: str, *, first: bool
) -> list[Any]:
    colours = palette(theme)
    scores = found.scores[role]
    layers, heads = np.nonzero(scores > found.thresholds[role])
    hovers = [
        [_hover(found, role, layer, head) for head in range(scores.shape[1])]
        for layer in range(scores.shape[0])
    ]
    bar = {
        "title": {"text": "score", "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
        "lenmode": "pixels",
        "len": _SCALE,
        "y": 1,
        "yanchor": "top",
        "ypad": 0,
        "tickvals": [0, 0.5, 1],
        "tickfont": {"size": FONT_SIZE, "color": colours.text},
    }
    places = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    return [
        go.Heatmap(
            z=scores,
            zmin=0,
            zmax=1,
            colorscale=colour_scale(colours, False),
            xgap=1 if cell > 6 else 0,
            ygap=1 if cell > 6 else 0,
            customdata=hovers,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=True,
            showscale=first,
            colorbar=bar if first else None,
            **places,
        ),
        go.Scatter(
            x=heads,
            y=layers,
            mode="markers",
            marker={
                "symbol": "square-open",
                "size": cell - 3,
                "line": {"width": 2 if cell > 6 else 1},
                "color": role_colour(role, 0, theme),
            },
            hoverinfo="skip",
            cliponaxis=False,
            **places,
        ),
    ]


def _hover(found: HeadRoles, role: str, layer: int, head: int) -> str:
    score = found.scores[role][layer, head]
    told = "not measured" if np.isnan(score) else f"{role} {score:.3g}"
    own = ", ".join(found.of(f"L{layer}H{head}")) or "none"
    return f"<b>L{layer}H{head}</b> {told}<br>roles: {own}"


def _axes(
    axis: str,
    box: tuple[int, int, int, int],
    inner: tuple[int, int],
    shape: tuple[int, int],
    cell: int,
) -> dict[str, Any]:
    left, top, wide, high = box
    n_layers, n_heads = shape
    plain = {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True, "tick0": 0}
    return {
        f"xaxis{axis}": plain
        | {
            "domain": [left / inner[0], (left + wide) / inner[0]],
            "range": [-0.5, n_heads - 0.5],
            "anchor": f"y{axis}",
            "dtick": _step(cell, n_heads, 18),
            "title": {"text": "head", "standoff": 4},
        },
        f"yaxis{axis}": plain
        | {
            "domain": [1 - (top + high) / inner[1], 1 - top / inner[1]],
            "range": [n_layers - 0.5, -0.5],
            "anchor": f"x{axis}",
            "dtick": _step(cell, n_layers, 26),
        },
    }


def _step(cell: int, n: int, room: int) -> int:
    return next((step for step in (1, 2, 4, 5, 8, 10, 16, 20) if step * cell >= room), max(n, 1))


def _heading(
    found: HeadRoles,
    role: str,
    i: int,
    at: tuple[int, int],
    inner: tuple[int, int],
    theme: str,
) -> dict[str, Any]:
    limit = found.thresholds[role]
    count = len(found.passing(role))
    told = "not measured" if np.isnan(limit) else f"{count} heads > {limit:.2f}"
    return {
        "text": f'<b><span style="color:{role_colour(role, i, theme)}">■</span> {role}</b>'
        f"<br>{told}",
        "x": at[0] / inner[0],
        "y": 1 - at[1] / inner[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 4,
        "showarrow": False,
        "align": "left",
        "font": {"size": FONT_SIZE},
    }


def text(found: HeadRoles, top: int = 8) -> str:
    """For each role its threshold, how many heads have it, and the strongest of these."""
    n_layers, n_heads = found.shape
    rows = [["role", "above", "heads", "strongest"]]
    for role, limit in found.thresholds.items():
        heads = found.passing(role)
        scores = found.scores[role]
        named = "  ".join(f"{h} {scores[h.layer, h.head]:.2f}" for h in heads[:top])
        more = f"  and {len(heads) - top} more" if len(heads) > top else ""
        shown = "not measured" if math.isnan(limit) else f"{named}{more}"
        rows.append([role, "" if math.isnan(limit) else f"{limit:.3f}", str(len(heads)), shown])
    lines = [f"roles of {n_layers} x {n_heads} heads of {visible_words(found.model)}"]
    lines += [*table(rows, right=(1, 2)), *(f"  {visible_words(note)}" for note in found.notes)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def html(found: HeadRoles) -> str:
    """The text as a table of a notebook."""
    rows = []
    for role, limit in found.thresholds.items():
        heads = found.passing(role)
        named = ", ".join(map(str, heads[:12])) + (", …" if len(heads) > 12 else "")
        number = "not measured" if math.isnan(limit) else f"&gt; {limit:.3f}"
        cells = (SAID.get(role, ""), number, str(len(heads)), html_text.escape(named))
        rows.append(
            f'<tr><th style="text-align:left">{html_text.escape(role)}</th>'
            + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def content(found: HeadRoles, theme: str) -> save_figures.Content:
    """What can be written of them: the maps, the text, and a row for each head."""
    return save_figures.Content(
        figure=lambda: figure(found, theme),
        text=lambda: text(found),
        table=lambda: found.to_dataframe().reset_index(),
        sections=lambda: [save_figures.Section("Roles", [figure(found, theme)], text(found))],
        title=f"roles of heads of {found.model}",
        theme=theme,
    )
