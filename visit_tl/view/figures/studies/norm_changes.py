"""Probabilities of tokens before and after a norm, one panel a layer (VISIT, Fig. 7)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from visit_tl.escaping import clip, for_plotly, visible
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.studies.panels import Sizes, css, grey, panels, place
from visit_tl.view.style import Palette, palette

if TYPE_CHECKING:
    import pandas as pd

_PANELS: Final = 8
_MOVERS: Final = 4
"""Most losers, and most gainers, beside the words that are followed."""


def figure(run: SweepRun, study: str, found: pd.DataFrame, theme: str) -> go.Figure:
    """Tokens from top to bottom, their probability from left to right, before and after the norm.

    Shown are the words that the study follows, the target, and of the tokens that change most those
    that do so in most prompts. Their means are over the prompts in which they are among these.
    """
    colours = palette(theme)
    both = list(dict.fromkeys(zip(found["norm"], found["layer"], strict=True)))
    shown = sorted(both)[:_PANELS]
    targets = run.summary(study, ["layer", "norm", "kind"])
    parts = [
        [frame[(frame["norm"] == norm) & (frame["layer"] == layer)] for frame in (found, targets)]
        for norm, layer in shown
    ]
    rows = [_rows(*part) for part in parts]
    tallest = max(map(len, rows))
    sizes = Sizes(width=330, height=17 * tallest + 12, columns=2, left=118, right=170)
    headings = [f"{norm} of layer {layer}" for norm, layer in shown]
    said = ["a percentage: the share of prompts in which the token is among those that change most"]
    made = panels(run, study, headings, colours, sizes, said)
    for i, told in enumerate(rows):
        at = place(i, sizes, len(rows))
        for trace in _traces(told, colours, listed=i == 0):
            made.add_trace(trace, **at)
        made.update_yaxes(
            tickvals=list(range(len(told))),
            ticktext=[for_plotly(one["name"]) for one in told],
            range=[tallest - 0.5, -0.5],
            showgrid=False,
            zeroline=False,
            **at,
        )
        made.update_xaxes(
            type="log", exponentformat="power", dtick=_step(told),
            title_text="probability in the lens, log scale", **at,
        )  # fmt: skip
    return made


def _rows(own: pd.DataFrame, targets: pd.DataFrame) -> list[dict[str, Any]]:
    """The tokens of a norm: followed words and the target, then losers, then gainers."""
    words = own[own["kind"] == "word"].sort_values("difference")
    told = [_row(visible(one.token), one) for one in words.itertuples()]
    told += [_row("the target", one) for one in targets[targets["kind"] == "target"].itertuples()]
    movers = own[(own["kind"] == "mover") & ~own["token_id"].isin(words["token_id"])]
    movers = movers.sort_values(["share", "token_id"], ascending=[False, True])
    for sign in (-1, 1):
        some = movers[movers["difference"] * sign > 0].head(_MOVERS).itertuples()
        told += [_row(f"{clip(visible(one.token), 11)} {one.share:.0%}", one) for one in some]
    return told


def _step(rows: list[dict[str, Any]]) -> int:
    """Powers of ten between two ticks."""
    lowest = min((one[c] for one in rows for c in ("before", "after") if one[c] > 0), default=1.0)
    return max(1, math.ceil(-math.log10(lowest) / 7))


def _row(name: str, one: Any) -> dict[str, Any]:
    return {"name": name, **{c: float(getattr(one, c)) for c in ("before", "after", "n")},
            "control": float(getattr(one, "control_after", float("nan")))}  # fmt: skip


def _traces(rows: list[dict[str, Any]], colours: Palette, *, listed: bool) -> list[go.Scatter]:
    up, down = css(colours.ranks[1]), css(colours.ranks[3])
    traces = []
    for sign, colour, name in ((1, up, "gains"), (-1, down, "loses")):
        x: list[float | None] = []
        y: list[int | None] = []
        for i, one in enumerate(rows):
            if (one["after"] >= one["before"]) == (sign > 0):
                x += [one["before"], one["after"], None]
                y += [i, i, None]
        traces.append(
            go.Scatter(x=x, y=y, mode="lines", name=name, legendgroup=name, showlegend=listed,
                       line={"color": colour, "width": 3}, hoverinfo="skip")
        )  # fmt: skip
    places = list(range(len(rows)))
    dots = (
        ("before", "before the norm", {"symbol": "circle-open", "size": 8, "color": colours.text}),
        ("after", "after the norm", {"symbol": "circle", "size": 8, "color": colours.text}),
        ("control", "a random vector, after", {"symbol": "line-ns-open", "size": 9,
                                               "color": grey(colours, 0.9)}),
    )  # fmt: skip
    for column, name, marker in dots:
        traces.append(
            go.Scatter(
                x=[one[column] for one in rows], y=places, mode="markers", name=name,
                legendgroup=name, showlegend=listed, marker=marker,
                customdata=[f"<b>{for_plotly(one['name'])}</b> {name}: {one[column]:.3g}"
                            for one in rows],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    return traces
