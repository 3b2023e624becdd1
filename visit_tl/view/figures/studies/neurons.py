"""Neurons of a sweep: in how many prompts they are active, their norms, entropies and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import plotly.graph_objects as go

from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.head_map import CLASS_COLOURS, SHAPES, colour_scale
from visit_tl.view.figures.studies.panels import Sizes, grey, panels, place
from visit_tl.view.style import FONT_SIZE, palette

if TYPE_CHECKING:
    import pandas as pd

_SHOWN: Final = 8
"""Neurons of a layer in the figure of shares."""
_NAMED: Final = 6
_PANELS: Final = 4
_ENTRIES: Final = 3
"""Neurons whose entries are drawn, in each layer."""
_OFTEN: Final = 0.85
"""The share of prompts that VISIT (section 5.3) finds in each of the last blocks."""


def shares(run: SweepRun, study: str, found: pd.DataFrame, theme: str) -> go.Figure:
    """For each layer, in which share of the prompts its neurons are among the most active ones."""
    colours, sizes = palette(theme), Sizes(width=620, height=300, columns=1, right=180)
    first = found.sort_values(["share", "neuron"], ascending=[False, True])
    first = first.groupby("layer").head(_SHOWN).sort_values(["layer", "share"])
    best = first.groupby("layer").tail(1)
    made = panels(run, study, [""], colours, sizes)
    names = [f"L{layer}N{n}" for layer, n in zip(first["layer"], first["neuron"], strict=True)]
    blue, vermilion = CLASS_COLOURS[theme][1], CLASS_COLOURS[theme][0]
    made.add_trace(
        go.Scatter(
            x=first["layer"], y=first["share"], mode="markers", text=names,
            name=f"the {_SHOWN} most frequent", marker={"color": blue, "size": 6, "opacity": 0.6},
            hovertemplate="<b>%{text}</b> in %{y:.1%} of the prompts<extra></extra>",
        )
    )  # fmt: skip
    made.add_trace(
        go.Scatter(
            x=best["layer"], y=best["share"], mode="lines+markers", name="the most frequent",
            line={"color": vermilion, "width": 1.5}, marker={"symbol": "diamond", "size": 7},
            hoverinfo="skip",
        )
    )  # fmt: skip
    made.add_hline(
        y=_OFTEN, line={"color": colours.quiet, "width": 1, "dash": "dash"},
        annotation={"text": f"{_OFTEN:.0%}, VISIT's<br>last blocks", "font": {"size": FONT_SIZE},
                    "xanchor": "left", "x": 1.01, "showarrow": False, "yanchor": "middle",
                    "align": "left"},
    )  # fmt: skip
    made.update_xaxes(title_text="layer")
    made.update_yaxes(title_text="share of prompts", range=[0, 1.04], tickformat=".0%")
    return made


def entropies(run: SweepRun, study: str, found: pd.DataFrame, theme: str) -> go.Figure:
    """Norm and entropy of the neurons' rows; darker is active in more prompts."""
    colours = palette(theme)
    layers = sorted(found["layer"].unique().tolist())[:_PANELS]
    sizes = Sizes(width=460, height=330, columns=2, right=190)
    made = panels(run, study, [f"layer {layer}" for layer in layers], colours, sizes)
    for i, layer in enumerate(layers):
        at = place(i, sizes, len(layers))
        own = found[found["layer"] == layer].sort_values(["share", "neuron"])
        often = set(own.tail(_NAMED)["neuron"])
        names = [f"N{n}" if n in often else "" for n in own["neuron"]]
        full = [f"L{layer}N{n}" for n in own["neuron"]]
        made.add_trace(
            go.Scatter(
                x=own["norm"], y=own["entropy"], mode="markers+text", text=names, customdata=full,
                textposition="top center", textfont={"size": FONT_SIZE}, showlegend=False,
                name="neurons", cliponaxis=False,
                marker={"color": own["share"], "cmin": 0, "cmax": 1, "size": 7,
                        "colorscale": colour_scale(colours, signed=False),
                        "line": {"width": 0.6, "color": colours.quiet}, "showscale": i == 0,
                        "colorbar": {"title": {"text": "share of prompts", "side": "right"},
                                     "thickness": 12, "tickformat": ".0%", "len": 0.8, "y": 0.4,
                                     "outlinewidth": 0}},
                hovertemplate="<b>%{customdata}</b> norm %{x:.3g}, entropy %{y:.3g} nats, in "
                "%{marker.color:.0%} of the prompts<extra></extra>",
            ),
            **at,
        )  # fmt: skip
        mean = own.iloc[0]
        made.add_trace(
            go.Scatter(
                x=[mean["layer_norm"]], y=[mean["layer_entropy"]], mode="markers",
                name="mean of the layer", legendgroup="mean", showlegend=i == 0,
                marker={"symbol": "x", "size": 11, "color": CLASS_COLOURS[theme][0]},
                hovertemplate="mean of all rows: norm %{x:.3g}, entropy %{y:.3g}<extra></extra>",
            ),
            **at,
        )  # fmt: skip
        made.update_xaxes(title_text="norm of the row of W_out", **at)
        made.update_yaxes(title_text="entropy of its lens, nats", rangemode="tozero", **at)
    return made


def entries(run: SweepRun, study: str, found: pd.DataFrame, theme: str) -> go.Figure:
    """The largest entries of the neurons that most prompts have, by dimension."""
    colours = palette(theme)
    layers = sorted(found["layer"].unique().tolist())[:_PANELS]
    chosen = []
    for layer in layers:
        own = found[found["layer"] == layer].groupby("neuron")["n"].max()
        own = own.reset_index().sort_values(["n", "neuron"], ascending=[False, True])
        chosen += [(layer, int(neuron)) for neuron in own["neuron"].head(_ENTRIES)]
    sizes = Sizes(width=300, height=220, columns=3, right=190)
    made = panels(run, study, [f"L{layer}N{neuron}" for layer, neuron in chosen], colours, sizes)
    colour = CLASS_COLOURS[theme][0]
    for i, (layer, neuron) in enumerate(chosen):
        at = place(i, sizes, len(chosen))
        own = found[(found["layer"] == layer) & (found["neuron"] == neuron)].sort_values(
            "dimension"
        )
        stems = [part for d, w in zip(own["dimension"], own["weight"], strict=True)
                 for part in ((d, 0.0), (d, w), (None, None))]  # fmt: skip
        made.add_trace(
            go.Scatter(x=[x for x, _ in stems], y=[y for _, y in stems], mode="lines",
                       line={"color": colour, "width": 1.5}, hoverinfo="skip", showlegend=False),
            **at,
        )  # fmt: skip
        largest = set(own.reindex(own["weight"].abs().sort_values().index).tail(3)["dimension"])
        made.add_trace(
            go.Scatter(
                x=own["dimension"], y=own["weight"], mode="markers+text", name="entry",
                text=[str(d) if d in largest else "" for d in own["dimension"]],
                textposition=["top center" if w > 0 else "bottom center" for w in own["weight"]],
                legendgroup="entry", showlegend=i == 0, cliponaxis=False,
                marker={"color": colour, "size": 6, "symbol": SHAPES[0]},
                hovertemplate="dimension %{x}: %{y:.3g}<extra></extra>",
            ),
            **at,
        )  # fmt: skip
        for sign in (1, -1):
            made.add_trace(
                go.Scatter(
                    x=own["dimension"], y=sign * own["mean_absolute"], mode="markers",
                    name="a usual neuron, ±", legendgroup="usual",
                    showlegend=i == 0 and sign > 0,
                    marker={"symbol": "line-ew-open", "size": 9, "color": grey(colours, 1.0)},
                    hovertemplate="mean absolute entry %{y:.3g}<extra></extra>",
                ),
                **at,
            )  # fmt: skip
        low, high = float(own["weight"].min()), float(own["weight"].max())
        edge = 0.16 * max(abs(low), abs(high))
        made.update_yaxes(range=[min(low, 0) - edge, max(high, 0) + edge], **at)
        made.update_xaxes(title_text="dimension", **at)
    made.update_yaxes(title_text="weight", col=1)
    return made
