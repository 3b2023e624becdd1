"""Composition scores: the strongest pair of every two blocks, and the strongest edges."""

from __future__ import annotations

import html as html_text
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.escaping import for_plotly, table
from visit_tl.view import save_figures
from visit_tl.view.figures.head_map import colour_scale, visible_words
from visit_tl.view.style import CLASS_COLOURS, FONT_SIZE, ground, palette

if TYPE_CHECKING:
    from visit_tl.circuits.channels.channel_result import Channel
    from visit_tl.circuits.channels.composition_result import CompositionScores

KIND_COLOURS: Final = {"q": 0, "k": 1, "v": 2}
"""The place of a kind among the colours of classes."""

_PANEL: Final = 300
_LEFT, _TOP, _BOTTOM, _GAP, _BARS, _LABELS, _SCALE = 60, 96, 60, 44, 260, 116, 74
_EDGES: Final = 16


def figure(found: CompositionScores, theme: str = "light") -> go.Figure:
    """A panel of writer block x reader block for each kind, and bars of the strongest edges."""
    colours = palette(theme)
    kinds = list(found.scores)
    n_layers = found.shape[0]
    best = {kind: _best(grid) for kind, grid in found.scores.items()}
    peak = max((float(np.nanmax(values)) for values, _ in best.values() if _any(values)), default=1)
    plot = len(kinds) * _PANEL + (len(kinds) - 1) * _GAP + _SCALE + _LABELS + _BARS
    made, layout, notes = go.Figure(), {}, []
    for i, kind in enumerate(kinds):
        axis = "" if i == 0 else str(i + 1)
        left = i * (_PANEL + _GAP)
        values, names = best[kind]
        made.add_trace(
            go.Heatmap(
                z=values,
                zmin=0,
                zmax=peak,
                customdata=names,
                hovertemplate="%{customdata}<extra></extra>",
                colorscale=colour_scale(colours, False),
                showscale=i == len(kinds) - 1,
                colorbar=_bar(colours.text, (left + _PANEL + 8) / plot),
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
            )
        )
        layout |= _panel_axes(axis, left / plot, (left + _PANEL) / plot, n_layers, first=i == 0)
        notes.append(_note(f"<b>{kind}-composition</b>, the best pair of heads", left / plot))
    last = str(len(kinds) + 1)
    right = (plot - _BARS) / plot
    made.add_trace(_bars(found, last, theme))
    layout |= {
        f"xaxis{last}": {
            "domain": [right, 1],
            "anchor": f"y{last}",
            "rangemode": "tozero",
            "gridcolor": colours.rule,
            "zeroline": False,
            "title": {"text": "composition score", "standoff": 4},
            "fixedrange": True,
        },
        f"yaxis{last}": {
            "domain": [0, 1],
            "anchor": f"x{last}",
            "autorange": "reversed",
            "showgrid": False,
            "fixedrange": True,
        },
    }
    notes.append(_note("<b>strongest edges</b> · line: by chance", right))
    made.add_shape(
        type="line",
        x0=found.baseline,
        x1=found.baseline,
        xref=f"x{last}",
        yref=f"y{last} domain",
        y0=0,
        y1=1,
        line={"color": colours.text, "width": 1, "dash": "dot"},
    )
    made.update_layout(
        **ground(colours),
        width=plot + _LEFT + 24,
        height=_PANEL + _TOP + _BOTTOM,
        margin={"l": _LEFT, "r": 24, "t": _TOP, "b": _BOTTOM},
        showlegend=False,
        title=_title(found),
        annotations=notes,
        **layout,
    )
    return made


def _any(values: Float[np.ndarray, "writer reader"]) -> bool:
    return bool(np.isfinite(values).any())


def _best(
    grid: Float[np.ndarray, "layer head layer head"],
) -> tuple[Float[np.ndarray, "writer reader"], list[list[str]]]:
    """For each two blocks, the highest score and the words of its pair of heads."""
    n_layers, n_heads = grid.shape[:2]
    flat = np.nan_to_num(grid, nan=-np.inf).transpose(0, 2, 1, 3).reshape(n_layers, n_layers, -1)
    values, at = flat.max(-1), flat.argmax(-1)
    names = [
        [
            f"L{w}H{at[w, r] // n_heads} → L{r}H{at[w, r] % n_heads}<br>{values[w, r]:.3f}"
            if np.isfinite(values[w, r])
            else ""
            for r in range(n_layers)
        ]
        for w in range(n_layers)
    ]
    return np.where(np.isfinite(values), values, np.nan), names


def _bars(found: CompositionScores, axis: str, theme: str) -> go.Bar:
    edges = found.top(min(_EDGES, len(found.edges))) if found.edges else ()
    return go.Bar(
        x=[found.edges[edge] for edge in edges],
        y=[str(edge).replace("<", " ").replace(">", "").replace("-", " → ") for edge in edges],
        orientation="h",
        marker={"color": [CLASS_COLOURS[theme][KIND_COLOURS[edge.input or "q"]] for edge in edges]},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
    )


def _panel_axes(
    axis: str, left: float, right: float, n_layers: int, *, first: bool
) -> dict[str, Any]:
    plain = {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True, "tick0": 0}
    step = next((s for s in (1, 2, 4, 5, 10, 20) if n_layers / s <= 12), 40)
    return {
        f"xaxis{axis}": plain
        | {
            "domain": [left, right],
            "anchor": f"y{axis}",
            "range": [-0.5, n_layers - 0.5],
            "dtick": step,
            "title": {"text": "block of the reader", "standoff": 4},
        },
        f"yaxis{axis}": plain
        | {
            "anchor": f"x{axis}",
            "range": [n_layers - 0.5, -0.5],
            "dtick": step,
            "title": {"text": "block of the writer" if first else "", "standoff": 4},
        },
    }


def _bar(colour: str, x: float) -> dict[str, Any]:
    return {
        "thickness": 12,
        "outlinewidth": 0,
        "len": 1,
        "y": 0.5,
        "x": x,
        "xanchor": "left",
        "xpad": 0,
        "nticks": 5,
        "tickfont": {"size": FONT_SIZE, "color": colour},
    }


def _note(words: str, x: float) -> dict[str, Any]:
    return {
        "text": words,
        "x": x,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
        "font": {"size": FONT_SIZE},
    }


def _title(found: CompositionScores) -> dict[str, Any]:
    return {
        "text": for_plotly(f"{visible_words(found.model)} · {_words(found)}"),
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 14},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }


def _words(found: CompositionScores) -> str:
    at = f" at offset {found.offset}" if found.rotary else ""
    return f"composition of heads{at}; by chance {found.baseline:.3f}"


def text(found: CompositionScores, n: int = 12) -> str:
    """The strongest edges of each kind, side by side."""
    kinds = list(found.scores)
    columns: list[list[str]] = []
    for kind in kinds:
        own = {edge: score for edge, score in found.edges.items() if edge.input == kind}
        best = sorted(own, key=lambda edge: -own[edge])[:n]
        columns.append([f"{edge.source} → {edge.target}  {own[edge]:.3f}" for edge in best])
    rows = [[f"{kind}-composition" for kind in kinds]]
    rows += [list(row) for row in zip(*columns, strict=True)]
    lines = [f"{visible_words(found.model)}: {_words(found)}", *table(rows)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def html(found: CompositionScores) -> str:
    """The text, for a notebook."""
    return f"<pre>{html_text.escape(text(found))}</pre>"


def content(found: CompositionScores | Channel, theme: str) -> save_figures.Content:
    """What can be written of scores or of a channel: the figure, the text, and the table."""
    return save_figures.Content(
        figure=lambda: found.figure(theme),  # type: ignore[arg-type]
        text=found.text,
        table=lambda: found.to_dataframe().reset_index(),
        sections=lambda: [
            save_figures.Section("Channels", [found.figure(theme)], found.text())  # type: ignore[arg-type]
        ],
        title=f"channels between heads of {found.model}",
        theme=theme,
    )
