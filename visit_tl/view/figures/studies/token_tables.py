"""Which tokens are among the first ones in most prompts, as tables of words."""

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
_COLUMN, _ROW = 112, 24
_SIDES: Final = ("before", "after", "loser", "gainer")


def figure(run: SweepRun, study: str, found: pd.DataFrame, side: str, theme: str) -> go.Figure:
    """A column for each layer and side; in it the tokens that most prompts have there.

    Each norm has a table of its own.

    Args:
        run: The run.
        study: The study.
        found: Its summary by layer, side, token_id and token, and perhaps norm.
        side: The column that says which side: `side` (before, after) or `kind` (loser, gainer).
        theme: `light` or `dark`.
    """
    colours = palette(theme)
    norms = sorted(found["norm"].unique().tolist()) if "norm" in found else [None]
    layers = sorted(found["layer"].unique().tolist())
    given = found[side].unique().tolist()
    kinds = [one for one in _SIDES if one in given] + sorted({*given} - {*_SIDES})
    columns = [(layer, kind) for layer in layers[:_LAYERS] for kind in kinds]
    sizes = Sizes(
        width=_COLUMN * len(columns), height=_ROW * ROWS, columns=1, left=44, below=44, right=110
    )
    left_out = ", ".join(map(str, layers[_LAYERS:]))
    said = [f"layers {left_out} are in summary()"] if left_out else []
    made = panels(run, study, [""] * len(norms), colours, sizes, said)
    for i, norm in enumerate(norms):
        own = found if norm is None else found[found["norm"] == norm]
        at = place(i, sizes, len(norms))
        table = [_column(own, layer, side, kind) for layer, kind in columns]
        made.add_trace(
            go.Heatmap(
                z=_turned([[share for share, _, _ in one] for one in table]),
                customdata=_turned([[hover for _, _, hover in one] for one in table]),
                hovertemplate="%{customdata}<extra></extra>", xgap=2, ygap=1, zmin=0, zmax=1,
                # Text can be read on the middle of the scale of maps.
                colorscale=[[0, colours.background],
                            [1, colour_scale(colours, signed=False)[1][1]]],
                showscale=i == 0,
                colorbar={"title": {"text": "share of prompts", "side": "right"}, "thickness": 12,
                          "outlinewidth": 0, "tickformat": ".0%", "lenmode": "pixels",
                          "len": _ROW * ROWS, "y": 1, "yanchor": "top", "ypad": 0,
                          "tickfont": {"size": FONT_SIZE, "color": colours.text}},
            ),
            **at,
        )  # fmt: skip
        for x, one in enumerate(table):
            for y, (_, text, _) in enumerate(one):
                made.add_annotation(
                    text=text, x=x, y=y, showarrow=False,
                    font={"size": FONT_SIZE, "color": colours.text}, **at,
                )  # fmt: skip
        before = "" if norm is None else f"{for_plotly(str(norm))} of "
        made.update_xaxes(
            tickvals=list(range(len(columns))),
            ticktext=[f"{before}layer {layer}<br>{for_plotly(str(k))}" for layer, k in columns],
            **at,
        )
    made.update_xaxes(side="top", showgrid=False, showline=False, zeroline=False)
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


def _column(
    found: pd.DataFrame, layer: int, side: str, kind: str
) -> list[tuple[float | None, str, str]]:
    """Share, text and hover of the tokens of a column; empty where there are fewer."""
    own = found[(found["layer"] == layer) & (found[side] == kind)]
    first = own.sort_values(["share", "token_id"], ascending=[False, True]).head(ROWS)
    told: list[tuple[float | None, str, str]] = []
    for row in first.itertuples(index=False):
        word = visible(str(row.token))
        told.append((
            float(row.share),
            for_plotly(clip(word, 14)),
            f"<b>{for_plotly(word)}</b> in {row.share:.0%} of the prompts<br>layer {layer}, "
            f"{for_plotly(kind)}",
        ))  # fmt: skip
    return told + [(None, "", "")] * (ROWS - len(told))


def _turned(columns: list[list[Any]]) -> list[list[Any]]:
    """Columns as rows."""
    return [list(row) for row in zip(*columns, strict=True)]
