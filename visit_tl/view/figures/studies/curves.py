"""Means of a study as curves over the layers, on bands of one standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from visit_tl.escaping import for_plotly
from visit_tl.graph.descriptions import readable
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.head_map import CLASS_COLOURS, SHAPES
from visit_tl.view.figures.studies.panels import SIZES, panels, place
from visit_tl.view.style import palette

if TYPE_CHECKING:
    import pandas as pd

MOST: Final = 16
"""Curves in a panel."""
_PANELS: Final = 6
_ALONE: Final = 480
"""Width in px of a panel that stands alone."""
_ENTRY: Final = 20
"""Height in px of a line of the legend."""
_DASHES: Final = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class _Curve:
    """A curve: its name, its rows by layer, the column, and how it is drawn."""

    name: str
    rows: pd.DataFrame
    column: str
    colour: str
    symbol: str = "circle"
    dash: str = "solid"


def figure(
    run: SweepRun,
    study: str,
    found: pd.DataFrame,
    groups: Sequence[str],
    numbers: Sequence[str],
    theme: str,
) -> go.Figure:
    """Curves over the layers.

    Without groups, numbers of one unit share a panel. With groups, a panel shows one number, and a
    curve is of one value of the group; of two groups, the first is told apart by the dash.

    Args:
        run: The run.
        study: The study.
        found: Its summary, by layer and at most two more columns.
        groups: These columns.
        numbers: The columns that are drawn.
        theme: `light` or `dark`.
    """
    drawn = _grouped(found, groups, numbers, theme) if groups else _plain(found, numbers, theme)
    drawn = sorted(drawn, key=lambda one: not _shares(one[1]))[:_PANELS]
    n, most = len(drawn), max(len(curves) for _, curves in drawn)
    sizes = replace(
        SIZES,
        width=_ALONE if n == 1 else SIZES.width,
        height=max(SIZES.height, _ENTRY * most),
        columns=2 if n == 4 else SIZES.columns,
        right=60 + max(100, 7 * max(len(one.name) for _, curves in drawn for one in curves)),
    )
    headings = [title for title, _ in drawn] if n > 1 or groups else [""]
    made = panels(run, study, headings, palette(theme), sizes)
    shown: set[str] = set()
    k = run.about["studies"][study]["options"].get("k")
    for i, (_, curves) in enumerate(drawn):
        at = place(i, sizes, len(drawn))
        for curve in curves:
            for trace in _traces(curve, listed=curve.name not in shown):
                made.add_trace(trace, **at)
            shown.add(curve.name)
        share = _shares(curves)
        made.update_xaxes(title_text="layer", **at)
        made.update_yaxes(rangemode="tozero" if _positive(curves) else "normal", **at)
        if share and _highest(curves) > 0.6:
            made.update_yaxes(range=[0, 1.02], **at)
        if share and k is not None and not groups:
            made.update_yaxes(title_text=f"I_k, k = {k}", **at)
    _one_scale(made, [curves for _, curves in drawn])
    made.update_layout(legend_tracegroupgap=0, showlegend=bool(groups) or len(shown) > 1)
    if n == 1 and not groups and len(shown) == 1:
        made.update_yaxes(title_text=for_plotly(next(iter(shown))))
    return made


def _plain(
    found: pd.DataFrame, numbers: Sequence[str], theme: str
) -> list[tuple[str, list[_Curve]]]:
    """A panel for all shares, and one for each other number."""
    colours = CLASS_COLOURS[theme]
    curves = [
        _Curve(readable(name), found, name, colours[i % len(colours)], SHAPES[i % len(SHAPES)])
        for i, name in enumerate(numbers)
    ]
    shares = [one for one in curves if _shares([one])]
    others = [one for one in curves if not _shares([one])]
    first = [("shares" if others else "", shares)] if shares else []
    return [*first, *((one.name, [one]) for one in others)]


def _grouped(
    found: pd.DataFrame, groups: Sequence[str], numbers: Sequence[str], theme: str
) -> list[tuple[str, list[_Curve]]]:
    """A panel for each number."""
    *outer, inner = groups
    values = sorted(found[inner].unique().tolist())
    outers = sorted(found[outer[0]].unique().tolist()) if outer else [None]
    scale = _colours(values, theme)
    drawn = []
    for number in numbers:
        curves = []
        for o, value_outer in enumerate(outers):
            part = found if value_outer is None else found[found[outer[0]] == value_outer]
            for i, value in enumerate(values):
                rows = part[part[inner] == value]
                name = f"{readable(inner)} {_said(value)}"
                if value_outer is not None:
                    name = f"{name}, {readable(outer[0])} {_said(value_outer)}"
                symbol, dash = SHAPES[i % len(SHAPES)], _DASHES[o % len(_DASHES)]
                curves.append(_Curve(name, rows, number, scale[i], symbol, dash))
        drawn.append((readable(number), curves))
    return drawn


def _said(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return readable(str(value))


def _colours(values: Sequence[Any], theme: str) -> list[str]:
    """Colours of the values: of a scale where they are many and in order."""
    if len(values) > len(CLASS_COLOURS[theme]) or (
        len(values) > 4 and all(isinstance(one, int) for one in values)
    ):
        ends = (0.0, 0.9) if theme == "light" else (0.2, 1.0)
        return [
            str(one) for one in sample_colorscale("Viridis", list(np.linspace(*ends, len(values))))
        ]
    return list(CLASS_COLOURS[theme][: len(values)])


def _traces(curve: _Curve, *, listed: bool) -> list[go.Scatter]:
    """A mean over the layers, on a band of one standard error."""
    rows = curve.rows.sort_values("layer")
    rows = rows[rows[curve.column].notna()]
    x, mean = rows["layer"].to_numpy(), rows[curve.column].to_numpy()
    traces = []
    if f"{curve.column}_se" in rows:
        error = np.nan_to_num(rows[f"{curve.column}_se"].to_numpy())
        traces.append(
            go.Scatter(
                x=[*x, *x[::-1]], y=[*(mean + error), *(mean - error)[::-1]], fill="toself",
                fillcolor=curve.colour, opacity=0.16, mode="none", hoverinfo="skip",
                showlegend=False, legendgroup=curve.name,
            )
        )  # fmt: skip
    label = for_plotly(curve.name)
    traces.append(
        go.Scatter(
            x=x, y=mean, name=label, mode="lines+markers", legendgroup=curve.name,
            showlegend=listed, line={"color": curve.colour, "width": 2, "dash": curve.dash},
            marker={"color": curve.colour, "symbol": curve.symbol, "size": 5},
            hovertemplate=f"<b>{label}</b> layer %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    )  # fmt: skip
    return traces


def _shares(curves: Sequence[_Curve]) -> bool:
    """Whether all values are between 0 and 1."""
    return all(bool(one.rows[one.column].dropna().between(0, 1).all()) for one in curves)


def _positive(curves: Sequence[_Curve]) -> bool:
    return all(bool((one.rows[one.column].dropna() >= 0).all()) for one in curves)


def _highest(curves: Sequence[_Curve]) -> float:
    return max(float(one.rows[one.column].max()) for one in curves)


def _one_scale(made: go.Figure, drawn: Sequence[Sequence[_Curve]]) -> None:
    """Panels of shares have one range, so that they can be compared."""
    shares = [i for i, curves in enumerate(drawn) if _shares(curves)]
    if len(shares) < 2:
        return
    highest = max(_highest(drawn[i]) for i in shares)
    top = 1.02 if highest > 0.6 else highest * 1.12 or 1.0
    for i in shares:
        made.layout[f"yaxis{i + 1 if i else ''}"].range = [0, top]
