"""Means of a study by layer and head, as maps one under another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.escaping import for_plotly
from visit_tl.graph.descriptions import readable
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.figures.studies.panels import Sizes, css, panels, place
from visit_tl.view.style import FONT_SIZE, Palette, palette

if TYPE_CHECKING:
    import pandas as pd

MOST: Final = 3
"""Maps of one study."""


def figure(
    run: SweepRun,
    study: str,
    found: pd.DataFrame,
    rows: str,
    numbers: Sequence[str],
    theme: str,
) -> go.Figure:
    """A map for each number: layers from left to right, heads from top to bottom.

    Args:
        run: The run.
        study: The study.
        found: Its summary by layer and another column.
        rows: The other column, such as `head`.
        numbers: The columns that are drawn; at most three are.
        theme: `light` or `dark`.
    """
    colours, numbers = palette(theme), list(numbers)[:MOST]
    grids = [found.pivot(index=rows, columns="layer", values=name) for name in numbers]
    n_rows, n_columns = grids[0].shape
    sizes = Sizes(
        width=max(330, min(1100, 18 * n_columns)),
        height=max(120, min(640, 16 * n_rows)),
        columns=1,
        right=110,
    )
    headings = [readable(name) for name in numbers]
    made = panels(run, study, headings, colours, sizes)
    shares = [name for name, grid in zip(numbers, grids, strict=True) if _share(name, grid)]
    highest = max(
        (float(np.nanmax(grid.to_numpy())) for name, grid in zip(numbers, grids, strict=True)
         if name in shares),
        default=1.0,
    )  # fmt: skip
    for i, (name, grid) in enumerate(zip(numbers, grids, strict=True)):
        at = place(i, sizes, len(numbers))
        layout: Any = made.layout
        domain = layout[f"yaxis{i + 1 if i else ''}"].domain
        scale = _scale(name, grid, highest if name in shares else None, colours)
        scale["colorbar"] |= {
            "thickness": 12,
            "outlinewidth": 0,
            "lenmode": "fraction",
            "len": domain[1] - domain[0],
            "y": sum(domain) / 2,
            "ypad": 0,
            "tickfont": {"size": FONT_SIZE, "color": colours.text},
        }
        values = grid.to_numpy()
        hover = [
            [f"<b>L{layer}{'H' if rows == 'head' else f' {readable(rows)} '}{row}</b> "
             f"{for_plotly(readable(name))} {_number(values[y, x])}"
             for x, layer in enumerate(grid.columns)]
            for y, row in enumerate(grid.index)
        ]  # fmt: skip
        z = np.log10(1 + values) if name == "rank" else values
        made.add_trace(
            go.Heatmap(
                z=z, x=list(grid.columns), y=[str(one) for one in grid.index], xgap=1, ygap=1,
                customdata=hover, hovertemplate="%{customdata}<extra></extra>", **scale,
            ),
            **at,
        )  # fmt: skip
        made.update_xaxes(title_text="layer", showgrid=False, zeroline=False, **at)
        made.update_yaxes(
            title_text=readable(rows), autorange="reversed", showgrid=False, type="category", **at
        )
    return made


def _share(name: str, grid: pd.DataFrame) -> bool:
    values = grid.to_numpy()
    finite = values[np.isfinite(values)]
    return name != "rank" and bool(finite.size) and bool(((finite >= 0) & (finite <= 1)).all())


def _scale(
    name: str, grid: pd.DataFrame, highest: float | None, colours: Palette
) -> dict[str, Any]:
    """Colours of a map: ranks from good to bad, signed numbers round 0, others from low to high."""
    values = grid.to_numpy()
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 1.0
    low = float(finite.min()) if finite.size else 0.0
    if name == "rank":
        steps = range(math.ceil(math.log10(1 + top)) + 1)
        stops = [css(one) for one in colours.ranks]
        return {
            "zmin": 0,
            "zmax": max(1.0, math.log10(1 + top)),
            "colorscale": [[i / (len(stops) - 1), one] for i, one in enumerate(stops)],
            "colorbar": {
                "tickvals": [math.log10(1 + (10**i if i else 0)) for i in steps],
                "ticktext": [f"{10**i:,}" if i else "0" for i in steps],
            },
        }
    if low < 0:
        most = max(abs(low), abs(top)) or 1.0
        return {
            "zmin": -most,
            "zmax": most,
            "colorscale": colour_scale(colours, signed=True),
            "colorbar": {},
        }
    return {
        "zmin": 0,
        "zmax": (highest if highest is not None else top) or 1.0,
        "colorscale": colour_scale(colours, signed=False),
        "colorbar": {},
    }


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4g}"
