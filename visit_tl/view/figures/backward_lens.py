"""Backward Lens as a table: layers x positions, each cell what a gradient reads as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.errors import InputError
from visit_tl.escaping import for_html, for_plotly, visible
from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
from visit_tl.graph.descriptions import number
from visit_tl.graph.node_descriptions import token_list
from visit_tl.graph.records import TokenProb
from visit_tl.view import save_figures
from visit_tl.view.figures.backward_lens_curves import curves
from visit_tl.view.figures.backward_lens_text import text
from visit_tl.view.figures.gradient_caption import title, title_height
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.figures.lens_table import axis, ink
from visit_tl.view.figures.norm_scale import NormScale
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

__all__ = ["figure", "html", "save", "text"]

KINDS: Final = ("table", "norms", "ranks")

_WIDE: Final = 92
_TALL: Final = {"inputs": 22, "deltas": 36}
"""Height of a cell in px: one line for inputs, two for VJPs."""
_LABEL: Final = 11
"""The most columns of a token in a cell of `_WIDE` px."""
_LEFT, _RIGHT, _BOTTOM = 62, 100, 16
_HEADINGS: Final = 42
"""Height in px of the tokens and positions above the columns."""
_NARROWEST: Final = 700
_MIDDLE: Final = 0.75
"""The place of the middle colour on a logarithmic scale."""
_SCALE: Final = 150
"""The least height of the scale in px."""


def figure(
    lens: BackwardLens, kind: str = "table", *, matrix: str, theme: str = "light"
) -> go.Figure:
    """Draw the gradients of one matrix.

    `table` has layers from top to bottom, as `lens_table`, and positions from left to right. The
    colour of a cell is the norm of the VJP. A cell of W_O or W_out shows the top token of the VJP
    and under it, in italics, the bottom token; the other matrices are read by their inputs, and a
    cell shows the top token. The target is bold. Cells whose vector is 0 are blank. The hover has
    all of it.

    `norms` and `ranks` have a curve for each position over the layers.

    Args:
        lens: The gradients.
        kind: `table`, `norms` or `ranks`.
        matrix: Which matrix.
        theme: `light` or `dark`.

    Raises:
        InputError: the kind or theme is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"a Backward Lens is drawn as {', '.join(KINDS)}; got {kind!r}")
    if kind != "table":
        return curves(lens, kind, matrix, theme)
    return _table(lens, matrix, theme)


def html(lens: BackwardLens) -> str:
    """The table of the usual matrix as text, for the output cell of a notebook."""
    return f"<pre>{for_html(text(lens, lens.chosen(None)))}</pre>"


def save(
    lens: BackwardLens,
    path: str | Path,
    *,
    overwrite: bool = False,
    kind: str = "table",
    matrix: str | None = None,
    theme: str = "light",
) -> Path:
    """Write the gradients in the format that the suffix of the path names.

    Args:
        lens: The gradients.
        path: Where. An `.html` file has a figure of each matrix, or of the one that is named; a
            `.csv` file has all matrices; the other formats have one.
        overwrite: Replace an existing file even if visit_tl did not write it.
        kind: As for `figure`.
        matrix: Which matrix; None as above.
        theme: As for `figure`.

    Raises:
        FileError: as `save_figures.save`.
        InputError: as `figure`.
    """
    one = lens.chosen(matrix)
    names = list(lens.matrices) if matrix is None else [one]
    return save_figures.save(
        path,
        save_figures.Content(
            figure=lambda: figure(lens, kind, matrix=one, theme=theme),
            text=lambda: text(lens, one),
            table=lens.to_dataframe,
            sections=lambda: [
                save_figures.Section(
                    name, [figure(lens, kind, matrix=name, theme=theme)], text(lens, name)
                )
                for name in names
            ],
            title=f"Backward Lens · {lens.model} · {lens.prompt}",
            theme=theme,
        ),
        overwrite=overwrite,
    )


def _table(lens: BackwardLens, matrix: str, theme: str) -> go.Figure:
    found, colours = lens.matrices[matrix], palette(theme)
    scale = NormScale.of(found.norms)
    tall = _TALL[found.reads]
    high, wide = tall * len(lens.layers), _WIDE * len(lens.positions)
    height = max(high, _SCALE)
    width = max(wide + _LEFT + _RIGHT, _NARROWEST)
    said = [f"{matrix} · {_words(found)}", f"colour: norm of the VJP{scale.words}"]
    if wide > _NARROWEST:
        said = [" · ".join(said)]
    top = title_height(lens, said) + _HEADINGS
    drawn = go.Figure(
        [_map(lens, matrix, scale, height, colours), *_tokens(lens, found, scale, colours)]
    )
    drawn.update_layout(
        **ground(colours),
        width=width,
        height=height + top + _BOTTOM,
        margin={
            "l": _LEFT,
            "r": width - wide - _LEFT,
            "t": top,
            "b": _BOTTOM + height - high,
        },
        hovermode="closest",
        showlegend=False,
        title=title(lens, said, width),
        xaxis=axis([_heading(lens, position) for position in lens.positions]) | {"side": "top"},
        yaxis=axis([str(layer) for layer in lens.layers])
        | {
            "title": {"text": "layer", "standoff": 8},
            "autorange": False,
            "range": [len(lens.layers) - 0.5, -0.5],
        },
    )
    return drawn


def _words(found: MatrixReadout) -> str:
    if found.reads == "inputs":
        return "input of the matrix: top token (bold: the target)"
    return "VJP: top token, under it the bottom token (bold: the target)"


def _map(
    lens: BackwardLens, matrix: str, scale: NormScale, height: int, colours: Palette
) -> go.Heatmap:
    found = lens.matrices[matrix]
    rows, columns = range(len(lens.layers)), range(len(lens.positions))
    blank = found.top_ids[..., 0] < 0
    low, high = scale.ends
    return go.Heatmap(
        z=[
            [None if blank[i, j] else scale.number(float(found.norms[i, j])) for j in columns]
            for i in rows
        ],
        zmin=low,
        zmax=high,
        colorscale=_stops(scale, colours),
        xgap=1,
        ygap=1,
        hoverongaps=False,
        customdata=[[_hover(lens, matrix, i, j) for j in columns] for i in rows],
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={
            "title": {"text": "norm of the VJP", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "lenmode": "pixels",
            "len": min(height, 420),
            "y": 1,
            "yanchor": "top",
            "ypad": 0,
            "tickfont": {"size": FONT_SIZE, "color": colours.text},
            **scale.marks(),
        },
    )


def _tokens(
    lens: BackwardLens, found: MatrixReadout, scale: NormScale, colours: Palette
) -> list[go.Scatter]:
    """The tokens of the cells in black or white, whichever can be read on the cell's colour."""
    paint = _paint(scale, colours)
    spots: dict[str, list[tuple[int, int, str]]] = {}
    for i, j in np.argwhere(found.top_ids[..., 0] >= 0).tolist():
        colour = ink(paint(scale.share(float(found.norms[i, j]))))
        spots.setdefault(colour, []).append((j, i, _cell(lens, found, i, j)))
    return [
        go.Scatter(
            x=[x for x, _, _ in places],
            y=[y for _, y, _ in places],
            text=[words for _, _, words in places],
            mode="text",
            textfont={"size": FONT_SIZE, "color": colour},
            # The map underneath shows the hovers.
            hoverinfo="skip",
        )
        for colour, places in spots.items()
    ]


def _cell(lens: BackwardLens, found: MatrixReadout, i: int, j: int) -> str:
    top = _token(lens, found.words(i, j, "top")[0])
    if found.reads == "inputs":
        return top
    return f"{top}<br><i>{_token(lens, found.words(i, j, 'bottom')[0])}</i>"


def _token(lens: BackwardLens, word: TokenProb) -> str:
    shown = for_plotly(visible(word.token, _LABEL))
    return f"<b>{shown}</b>" if word.id == lens.target_id else shown


def _stops(scale: NormScale, colours: Palette) -> list[list[Any]]:
    """The scale of `head_map`; a logarithmic one is lighter, since most places are near its end."""
    low, middle, high = colour_scale(colours, signed=False)
    return [low, [_MIDDLE if scale.logarithmic else middle[0], middle[1]], high]


def _paint(scale: NormScale, colours: Palette) -> Callable[[float], str]:
    """A function from a place on the scale to its colour `#rrggbb`, as Plotly mixes it."""
    stops = [
        (place, [int(css[i : i + 2], 16) for i in (1, 3, 5)])
        for place, css in _stops(scale, colours)
    ]

    def mixed(place: float) -> str:
        after = next(i for i in range(1, len(stops)) if place <= stops[i][0] or i == len(stops) - 1)
        (low, a), (high, b) = stops[after - 1], stops[after]
        share = (place - low) / (high - low)
        parts = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
        return "#" + "".join(f"{part:02x}" for part in parts)

    return mixed


def _hover(lens: BackwardLens, matrix: str, i: int, j: int) -> str:
    found, position = lens.matrices[matrix], lens.positions[j]
    what = "input" if found.reads == "inputs" else "VJP"
    lines = [
        f"top of the {what}: {token_list(found.words(i, j, 'top'))}",
        f"bottom of the {what}: {token_list(found.words(i, j, 'bottom'))}",
        f"target {visible(lens.target)}: rank {found.ranks[i, j]} of 0..{lens.d_vocab - 1}",
        f"norm of the VJP {number(float(found.norms[i, j]))} · "
        f"norm of the input {number(float(found.input_norms[i, j]))}",
    ]
    name = f"{matrix} · layer {lens.layers[i]} · {visible(lens.tokens[position])} at {position}"
    return f"<b>{for_plotly(name)}</b><br>" + "<br>".join(map(for_plotly, lines))


def _heading(lens: BackwardLens, position: int) -> str:
    name = f"{for_plotly(visible(lens.tokens[position], _LABEL))}<br>{position}"
    return f"<b>{name}</b>" if position == lens.position else name
