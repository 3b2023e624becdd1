"""Panels of equal size under one title: what all figures of studies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from visit_tl.escaping import clip, for_plotly
from visit_tl.graph.descriptions import readable
from visit_tl.sweeps.results import SweepRun
from visit_tl.view.style import FONT_SIZE, Palette, ground

_TITLE, _BOTTOM, _LABEL = 56, 54, 26
"""Room in px for the title, for the lowest axis, and for the heading of a panel."""


@dataclass(frozen=True)
class Sizes:
    """Room of a panel, in px.

    Attributes:
        width: Of the panel.
        height: Of the panel.
        columns: Most panels beside each other.
        left: Left of each panel, for its axis.
        below: Under each panel, for its axis.
        right: Right of all panels, for the legend.
    """

    width: int = 300
    height: int = 230
    columns: int = 3
    left: int = 62
    below: int = 52
    right: int = 150


SIZES: Final = Sizes()


def panels(
    run: SweepRun,
    study: str,
    headings: Sequence[str],
    colours: Palette,
    sizes: Sizes = SIZES,
    said: Sequence[str] = (),
) -> go.Figure:
    """Empty panels with headings, under a title that says what was measured.

    Args:
        run: The run.
        study: The study.
        headings: One a panel; empty for none.
        colours: Of the theme.
        sizes: Of a panel.
        said: More lines under the title.
    """
    n = len(headings)
    columns = min(n, sizes.columns)
    rows = -(-n // columns)
    label = _LABEL if any(headings) else 6
    width = columns * (sizes.left + sizes.width) + sizes.right
    inner = width - sizes.left - sizes.right
    tall = rows * sizes.height + (rows - 1) * (sizes.below + label)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"<b>{for_plotly(one)}</b>" if one else "" for one in headings],
        horizontal_spacing=sizes.left / inner if columns > 1 else 0,
        vertical_spacing=(sizes.below + label) / tall if rows > 1 else 0,
    )
    figure.update_annotations(
        font={"size": FONT_SIZE + 1, "color": colours.text}, yshift=4, xanchor="center"
    )
    top = _TITLE + 18 * len(said) + label
    figure.update_layout(
        **ground(colours),
        width=width,
        height=top + tall + _BOTTOM,
        margin={"l": sizes.left, "r": sizes.right, "t": top, "b": _BOTTOM},
        title=_title(run, study, said, width),
        legend={"x": 1.0, "y": 1.0, "xanchor": "left", "font": {"color": colours.text}},
        hovermode="closest",
    )
    line = {
        "gridcolor": grey(colours, 0.22),
        "zerolinecolor": grey(colours, 0.5),
        "linecolor": grey(colours, 0.7),
        "title": {"standoff": 6},
        "showline": True,
    }
    figure.update_xaxes(**line, zeroline=False)
    figure.update_yaxes(**line)
    return figure


def place(i: int, sizes: Sizes, n: int) -> dict[str, Any]:
    """The row and column of a panel, counted from 1."""
    columns = min(n, sizes.columns)
    return {"row": i // columns + 1, "col": i % columns + 1}


def grey(colours: Palette, opacity: float) -> str:
    """A neutral colour that lets the ground through."""
    return "rgba({},{},{},{})".format(*colours.neutral, opacity)


def css(rgb: tuple[int, int, int], opacity: float = 1.0) -> str:
    """A colour of the palette."""
    return "rgba({},{},{},{})".format(*rgb, opacity)


def _title(run: SweepRun, study: str, said: Sequence[str], width: int) -> dict[str, Any]:
    about = run.about["studies"][study]
    n = run.measured
    source = f" · {about['source']}" if about.get("source") else ""
    options = ", ".join(f"{k}={v}" for k, v in about["options"].items() if v is not None)
    second = f"{n:,} prompt{'' if n == 1 else 's'}{source}{f' · {options}' if options else ''}"
    first = f"<b>{for_plotly(readable(study))}</b> · {for_plotly(readable(run.about['model']))}"
    lines = [
        first,
        *(
            f'<span style="font-size:13px">{for_plotly(clip(one, width // 7))}</span>'
            for one in [second, *said]
        ),
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
