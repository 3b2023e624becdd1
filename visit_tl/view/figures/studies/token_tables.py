"""Which tokens are among the first ones in most prompts, as a table of words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from visit_tl.escaping import clip, for_plotly, visible
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.figures.studies.panels import Sizes, panels, place
from visit_tl.view.style import FONT_SIZE, palette

if TYPE_CHECKING:
    import pandas as pd

ROWS: Final = 10
_LAYERS: Final = 6


def figure(run: SweepRun, study: str, found: pd.DataFrame, side: str, theme: str) -> go.Figure:
    """A column for each layer and side; in it the tokens that most prompts have there.

    Args:
        run: The run.
        study: The study.
        found: Its summary by layer, side, token_id and token.
        side: The column that says which side: `side` (before, after) or `kind` (loser, gainer).
        theme: `light` or `dark`.
    """
    colours = palette(theme)
    layers = sorted(found["layer"].unique().tolist())
    kinds = [one for one in ("before", "after", "loser", "gainer") if (found[side] == one).any()]
    kinds = kinds or sorted(found[side].unique().tolist())
    left_out = layers[_LAYERS:]
    layers = layers[:_LAYERS]
    columns = [(layer, kind) for layer in layers for kind in kinds]
    shares: list[list[float | None]] = [[None] * len(columns) for _ in range(ROWS)]
    texts = [[""] * len(columns) for _ in range(ROWS)]
    hovers = [[""] * len(columns) for _ in range(ROWS)]
    for x, (layer, kind) in enumerate(columns):
        own = found[(found["layer"] == layer) & (found[side] == kind)]
        first = own.sort_values(["share", "token_id"], ascending=[False, True]).head(ROWS)
        for y, row in enumerate(first.itertuples(index=False)):
            token: Any = row.token
            shares[y][x] = float(row.share)
            texts[y][x] = for_plotly(clip(visible(token), 14))
            hovers[y][x] = (
                f"<b>{for_plotly(visible(token))}</b> in {row.share:.0%} of the prompts"
                f"<br>layer {layer}, {kind}"
            )
    sizes = Sizes(width=112 * len(columns), height=24 * ROWS, columns=1, left=44, right=110)
    said = [f"layers {', '.join(map(str, left_out))} are in summary()"] if left_out else []
    made = panels(run, study, [""], colours, sizes, said)
    made.add_trace(
        go.Heatmap(
            z=shares, text=texts, customdata=hovers, hovertemplate="%{customdata}<extra></extra>",
            zmin=0, zmax=1, colorscale=[[0, colours.background], [1, _half(colours)]], xgap=2,
            ygap=1, showscale=True,
            colorbar={"title": {"text": "share of prompts", "side": "right"}, "thickness": 12,
                      "outlinewidth": 0, "tickformat": ".0%",
                      "tickfont": {"size": FONT_SIZE, "color": colours.text}},
        ),
        **place(0, sizes, 1),
    )  # fmt: skip
    for y, line in enumerate(texts):
        for x, text in enumerate(line):
            made.add_annotation(
                text=text, x=x, y=y, showarrow=False,
                font={"size": FONT_SIZE, "color": colours.text},
            )  # fmt: skip
    made.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=[f"layer {layer}<br>{for_plotly(str(kind))}" for layer, kind in columns],
        side="top",
        showgrid=False,
        showline=False,
        zeroline=False,
    )
    made.update_yaxes(
        autorange="reversed",
        tickvals=list(range(ROWS)),
        ticktext=[str(i) for i in range(ROWS)],
        showgrid=False,
        showline=False,
        zeroline=False,
    )
    layout: Any = made.layout
    made.update_layout(margin={"t": layout.margin.t + 36, "b": 16})
    return made


def _half(colours: Any) -> str:
    """The middle of the scale of maps: text can be read on it."""
    return colour_scale(colours, signed=False)[1][1]
