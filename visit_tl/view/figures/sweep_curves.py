"""The summary of a study as curves over the layers, or as a map of layers and heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.errors import InputError
from visit_tl.escaping import clip, for_plotly
from visit_tl.graph.descriptions import readable
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.head_map import CLASS_COLOURS, SHAPES
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

if TYPE_CHECKING:
    import pandas as pd

_PANEL, _HEIGHT = 330, 300
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 66, 150, 86, 52, 46
_PANELS: Final = 4
"""Most panels beside each other; further groups are named in the title, and left out."""
_CURVES: Final = 8


def figure(run: SweepRun, study: str, *, theme: str = "light") -> go.Figure:
    """Curves of a study's means over the layers, with bands of one standard error.

    A study that is summarised by layer and head is drawn as a map. Of other groups, such as the
    rank of a head, each value has a panel of its own.

    Raises:
        InputError: the study has no layers or no numbers, or there is no such theme.
    """
    colours = palette(theme)
    found = run.summary(study)
    by = [name for name in run.about["studies"][study]["by"] if name in found.columns]
    numbers = [
        name
        for name in found.columns
        if f"{name}_se" in found.columns and name not in by and found[name].notna().any()
    ] or ["share"]
    if "layer" not in by:
        raise InputError(f"{study} is summarised by {by or 'nothing'}, not by layer; see summary()")
    others = [name for name in by if name != "layer"]
    if others == ["head"]:
        return _map(run, study, found, numbers[0], colours)
    groups = [(None, found)] if not others else list(found.groupby(others[0], sort=True))
    left_out = max(0, len(groups) - _PANELS)
    return _panels(run, study, groups[:_PANELS], others, numbers[:_CURVES], left_out, theme)


def _panels(
    run: SweepRun,
    study: str,
    groups: list[tuple[Any, pd.DataFrame]],
    others: list[str],
    numbers: list[str],
    left_out: int,
    theme: str,
) -> go.Figure:
    colours = palette(theme)
    n = len(groups)
    width = _LEFT + _RIGHT + n * _PANEL + (n - 1) * _GAP
    inner = width - _LEFT - _RIGHT
    drawn = go.Figure()
    layout: dict[str, Any] = {}
    shares = all(
        bool(frame[name].dropna().between(0, 1).all()) for _, frame in groups for name in numbers
    )
    for i, (value, frame) in enumerate(groups):
        suffix = "" if i == 0 else str(i + 1)
        left = i * (_PANEL + _GAP) / inner
        averaged = frame.groupby("layer")[[*numbers, *(f"{c}_se" for c in numbers if c != "share")]]
        rows = averaged.mean().reset_index()
        for j, name in enumerate(numbers):
            colour, shape = CLASS_COLOURS[theme][j % 7], SHAPES[j % len(SHAPES)]
            for trace in _curve(rows, name, colour, shape, first=i == 0):
                drawn.add_trace(trace.update(xaxis=f"x{suffix}", yaxis=f"y{suffix}"))
        axis = {
            "gridcolor": _grey(colours, 0.25),
            "zeroline": False,
            "linecolor": _grey(colours, 0.6),
        }
        layout[f"xaxis{suffix}"] = axis | {
            "domain": [left, left + _PANEL / inner],
            "title": "layer",
            "anchor": f"y{suffix}",
        }
        layout[f"yaxis{suffix}"] = axis | {
            "anchor": f"x{suffix}",
            "rangemode": "tozero",
            "matches": None if i == 0 else "y",
            **({"range": [0, 1]} if shares and _high(groups, numbers) else {}),
        }
        if value is not None:
            drawn.add_annotation(
                text=f"{others[0]} {value}", showarrow=False, xref="paper", yref="paper",
                x=left, y=1.0, xanchor="left", yanchor="bottom",
                font={"size": FONT_SIZE, "color": colours.text},
            )  # fmt: skip
    said = [f"{left_out} more values of {others[0]} are in summary()"] if left_out else []
    drawn.update_layout(
        **ground(colours),
        width=width,
        height=_TOP + _HEIGHT + _BOTTOM,
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        title=_title(run, study, said, width),
        legend={"x": 1.0, "y": 1.0, "xanchor": "left", "font": {"color": colours.text}},
        hovermode="x unified",
        **layout,
    )
    return drawn


def _curve(
    rows: pd.DataFrame, name: str, colour: str, shape: str, *, first: bool
) -> list[go.Scatter]:
    """A mean over the layers, on a band of one standard error."""
    x, mean = rows["layer"].to_numpy(), rows[name].to_numpy()
    traces = []
    if f"{name}_se" in rows:
        error = np.nan_to_num(rows[f"{name}_se"].to_numpy())
        band = [*(mean + error), *(mean - error)[::-1]]
        traces.append(
            go.Scatter(
                x=[*x, *x[::-1]], y=band, fill="toself", fillcolor=colour, opacity=0.18,
                line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
            )
        )  # fmt: skip
    label = for_plotly(readable(name))
    traces.append(
        go.Scatter(
            x=x, y=mean, name=label, mode="lines+markers", legendgroup=name, showlegend=first,
            line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": shape, "size": 5},
            hovertemplate=f"{label} %{{y:.3g}}<extra></extra>",
        )
    )  # fmt: skip
    return traces


def _map(run: SweepRun, study: str, found: pd.DataFrame, name: str, colours: Palette) -> go.Figure:
    """A map of one number: layers from left to right, heads from top to bottom."""
    grid = found.pivot(index="head", columns="layer", values=name)
    width = _LEFT + _RIGHT + max(_PANEL, 18 * grid.shape[1])
    drawn = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(), x=list(grid.columns), y=list(grid.index), colorscale="Viridis",
            colorbar={"title": for_plotly(readable(name)), "thickness": 14},
            hovertemplate="L%{x}H%{y} %{z:.3g}<extra></extra>",
        )
    )  # fmt: skip
    drawn.update_layout(
        **ground(colours),
        width=width,
        height=_TOP + _BOTTOM + max(160, 18 * grid.shape[0]),
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        title=_title(run, study, [], width),
        xaxis={"title": "layer"},
        yaxis={"title": "head", "autorange": "reversed"},
    )
    return drawn


def _title(run: SweepRun, study: str, said: list[str], width: int) -> dict[str, Any]:
    about = run.about["studies"][study]
    n = run.measured
    source = f" · {about['source']}" if about.get("source") else ""
    options = ", ".join(f"{k}={v}" for k, v in about["options"].items())
    first = f"<b>{for_plotly(readable(study))}</b> · {for_plotly(readable(run.about['model']))}"
    second = clip(f"{n} prompts{source}{f' · {options}' if options else ''}", width // 6)
    lines = [
        first,
        *(f'<span style="font-size:13px">{for_plotly(s)}</span>' for s in [second, *said]),
    ]
    return {
        "text": "<br>".join(lines),
        "x": 0,
        "xref": "container",
        "pad": {"l": 16, "t": 16},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }


def _high(groups: list[tuple[Any, pd.DataFrame]], numbers: list[str]) -> bool:
    """Whether a share comes near 1, so that the whole range is worth its room."""
    return max(float(frame[name].max()) for _, frame in groups for name in numbers) > 0.6


def _grey(colours: Palette, opacity: float) -> str:
    return "rgba({},{},{},{})".format(*colours.neutral, opacity)


def html(run: SweepRun) -> str:
    """The run as a table in a notebook: its studies, their rows, and how far it is."""
    from html import escape

    return f"<pre>{escape(str(run))}</pre>"
