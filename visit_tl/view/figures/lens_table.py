"""The logit lens as a table: layers x positions, each cell the token that its state promotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import plotly.graph_objects as go

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import NumberName, Positions, Theme
from visit_tl.errors import InputError
from visit_tl.escaping import clip, clip_start, for_html, for_plotly, table, visible
from visit_tl.graph.descriptions import (
    number,
    patched_words,
    readable,
    segments_words,
    state_lens_words,
)
from visit_tl.graph.node_descriptions import node_title, promoted_label, token_list
from visit_tl.graph.records import Node
from visit_tl.graph.state_table import LensTable
from visit_tl.view.style import (
    FONT_SIZE,
    Palette,
    ground,
    palette,
    promoted_rank,
    rank_colour,
    rank_place,
)

NUMBERS: Final = ("rank", "prob", "top_prob", "entropy")

_WORDS: Final = {
    "rank": "rank of target",
    "prob": "probability of target",
    "top_prob": "probability of the token shown",
    "entropy": "entropy in nats",
}
_WIDE: Final = 86
_TALL: Final = 22
_LABEL: Final = 11
"""The most columns of a token in a cell of `_WIDE` px."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 112, 120, 106, 16
_NARROWEST: Final = 640
_STOPS: Final = 33
_TEXT_WIDTH: Final = 110
_SCALE: Final = 150
"""The least height of the scale in px."""


@checked
def figure(
    states: LensTable,
    by: NumberName = "rank",
    *,
    positions: Positions | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Draw states as a figure: layers from top to bottom, positions from left to right.

    A cell shows the token that its state promotes most. Its background colour shows one number: the
    rank of the target, its probability, the probability of the token shown, or the entropy. The
    hover has all of them. Missing states are left blank.

    Args:
        states: The table.
        by: `rank`, `prob`, `top_prob` or `entropy`.
        positions: Which to show (negative ones count from the end); None for all with a state.
        theme: `light` or `dark`.

    Raises:
        InputError: the number, position or theme is unknown.
    """
    if by not in NUMBERS:
        raise InputError(f"a lens table is coloured by {', '.join(NUMBERS)}; got {by!r}")
    colours, shown = palette(theme), states.columns(positions)
    paint = _paint(by, theme, colours)
    cells = [[row[i] for i in shown] for row in states.cells]
    places = [[None if c is None else _place(c, by, states.d_vocab) for c in row] for row in cells]
    wide, tall = _WIDE * len(shown), _TALL * len(cells)
    height = max(tall, _SCALE)
    width = max(wide + _LEFT + _RIGHT, _NARROWEST)
    drawn = go.Figure(
        [
            go.Heatmap(
                z=places,
                zmin=0,
                zmax=1,
                colorscale=[[i / (_STOPS - 1), paint(i / (_STOPS - 1))] for i in range(_STOPS)],
                xgap=1,
                ygap=1,
                hoverongaps=False,
                customdata=[[_hover(c, states) for c in row] for row in cells],
                hovertemplate="%{customdata}<extra></extra>",
                colorbar=_scale(by, states.d_vocab, height, colours),
            ),
            *_words(cells, places, paint),
        ]
    )
    drawn.update_layout(
        **ground(colours),
        width=width,
        height=height + _TOP + _BOTTOM,
        margin={
            "l": _LEFT,
            "r": width - wide - _LEFT,
            "t": _TOP,
            "b": _BOTTOM + height - tall,
        },
        hovermode="closest",
        showlegend=False,
        title=_title(states, by, width),
        xaxis=axis([_heading(states, i) for i in shown]) | {"side": "top"},
        yaxis=axis([str(row) for row in states.rows])
        | {"autorange": False, "range": [len(cells) - 0.5, -0.5]},
    )
    return drawn


@checked
def text(states: LensTable, positions: Positions | None = None) -> str:
    """The table as text, at most 110 columns wide; ends in a newline.

    As many positions as fit are side by side, the others below; `·` marks a missing state.

    Args:
        states: The table.
        positions: As for `figure`.

    Raises:
        InputError: as `figure`.
    """
    shown = states.columns(positions)
    whose = "given" if states.target_given else "the model's own prediction"
    lines = [
        f"model       {readable(states.model)}",
        f'prompt      "{clip_start(readable(states.prompt), _TEXT_WIDTH - 14)}"',
        f"target      {visible(states.target)} ({whose})",
        "cells       what the state promotes most, and the rank of the target in it",
    ]
    if states.lens is not None:
        lines.append(clip(f"lens        {state_lens_words(states.lens)}", _TEXT_WIDTH))
    if states.patched:
        lines.append(f"patched     {patched_words(states.patched)}")
    if states.segments:
        lines.append(clip(f"segments    {segments_words(states.segments)}", _TEXT_WIDTH))
    side_by_side = (_TEXT_WIDTH - 2 - 16) // 20
    for start in range(0, len(shown), side_by_side):
        part = shown[start : start + side_by_side]
        rows = [["state", *(f for i in part for f in (_heading(states, i, " "), ""))]]
        for name, row in zip(states.rows, states.cells, strict=True):
            facts = (_cell(row[i]) for i in part)
            rows.append([str(name), *(f for pair in facts for f in pair)])
        ranks = tuple(range(2, 2 * len(part) + 1, 2))
        lines += ["", *(line.rstrip() for line in table(rows, right=ranks))]
    return "\n".join(lines) + "\n"


def html(states: LensTable) -> str:
    """The table as text, for the output cell of a notebook."""
    return f"<pre>{for_html(text(states))}</pre>"


def _cell(cell: Node | None) -> tuple[str, str]:
    return ("·", "") if cell is None else (promoted_label(cell, 10), str(cell.rank))


def _heading(states: LensTable, position: int, between: str = "<br>") -> str:
    name = visible(states.tokens[position], _LABEL if between != " " else 9)
    return f"{for_plotly(name) if between != ' ' else name}{between}{position}"


def _place(cell: Node, by: str, d_vocab: int) -> float:
    """The place of a cell on the scale, from 0 to 1."""
    if by == "rank":
        # Rank 0 is at the top of the scale.
        return 1 - rank_place(promoted_rank(cell, d_vocab), d_vocab)
    if by == "entropy":
        share = cell.entropy / math.log(max(d_vocab, 2))
    else:
        share = cell.prob if by == "prob" else max((t.prob for t in cell.top), default=0.0)
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 1.0


def _paint(by: str, theme: str, colours: Palette) -> Callable[[float], str]:
    """A function from a place on the scale to its colour `#rrggbb`."""
    if by == "rank":
        return lambda place: rank_colour(1 - place, theme)
    blue = colours.ranks[0]
    ground = tuple(int(colours.band[i : i + 2], 16) for i in (1, 3, 5))
    low, high = (blue, ground) if by == "entropy" else (ground, blue)

    def mixed(place: float) -> str:
        parts = (round(a + (b - a) * place) for a, b in zip(low, high, strict=True))
        return "#" + "".join(f"{part:02x}" for part in parts)

    return mixed


def _words(
    cells: list[list[Node | None]],
    places: list[list[float | None]],
    paint: Callable[[float], str],
) -> list[go.Scatter]:
    """The tokens in black or white: one of the two has a contrast of at least 4.5 on any colour."""
    found: dict[str, list[tuple[int, int, str]]] = {"#000000": [], "#ffffff": []}
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            place = places[y][x]
            if cell is not None and place is not None:
                words = for_plotly(promoted_label(cell, _LABEL))
                found[ink(paint(place))].append((x, y, words))
    return [
        go.Scatter(
            x=[x for x, _, _ in spots],
            y=[y for _, y, _ in spots],
            text=[words for _, _, words in spots],
            mode="text",
            textfont={"size": FONT_SIZE, "color": colour},
            # The map underneath shows the hovers.
            hoverinfo="skip",
        )
        for colour, spots in found.items()
        if spots
    ]


def ink(ground: str) -> str:
    """Black or white, whichever has more contrast with a background `#rrggbb`."""
    parts = [int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    luminance = sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    # WCAG 2: at a luminance of 0.179, white and black have the same contrast.
    return "#000000" if luminance > math.sqrt(1.05 * 0.05) - 0.05 else "#ffffff"


def _hover(cell: Node | None, states: LensTable) -> str:
    if cell is None:
        return ""
    lines = [
        f"top: {token_list(cell.top)}",
        f"bottom: {token_list(cell.bottom)}",
        f"target {visible(states.target)}: rank {cell.rank} of 0..{states.d_vocab - 1}, "
        f"p = {number(cell.prob)}",
        f"norm {number(cell.norm)} · entropy {number(cell.entropy)} nats",
    ]
    return f"<b>{for_plotly(node_title(cell))}</b><br>" + "<br>".join(map(for_plotly, lines))


def _scale(by: str, d_vocab: int, height: int, colours: Palette) -> dict[str, Any]:
    if by == "rank":
        ranks = sorted({0, *(r for r in (10, 1000) if r < d_vocab / 4), d_vocab - 1})
        marks = [1 - rank_place(rank, d_vocab) for rank in ranks]
        names = [f"{r:,}" if r < d_vocab - 1 or r == 0 else "last" for r in ranks]
    elif by == "entropy":
        most = math.log(max(d_vocab, 2))
        marks, names = [0.0, 0.5, 1.0], [number(most * share) for share in (0, 0.5, 1)]
    else:
        marks, names = [0.0, 0.5, 1.0], ["0", "0.5", "1"]
    return {
        "title": {"text": _WORDS[by], "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
        "lenmode": "pixels",
        "len": height,
        "y": 1,
        "yanchor": "top",
        "ypad": 0,
        "tickvals": marks,
        "ticktext": names,
        "tickfont": {"size": FONT_SIZE, "color": colours.text},
    }


def axis(names: list[str]) -> dict[str, Any]:
    """An axis of cells with a name each."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [-0.5, len(names) - 0.5],
        "showgrid": False,
        "zeroline": False,
        # Room between the names and the cells.
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": "rgba(0,0,0,0)",
        "fixedrange": True,
        "tickangle": 0,
    }


def _title(states: LensTable, by: str, width: int) -> dict[str, Any]:
    whose = "given" if states.target_given else "the model's own prediction"
    prompt = clip_start(readable(states.prompt), max(20, (width - 220) // 9))
    first = f"<b>{for_plotly(readable(states.model))}</b> · “{for_plotly(prompt)}”"
    second = f"target {visible(states.target)} ({whose}) · colour: {_WORDS[by]}"
    lines = [second]
    if states.lens is not None:
        lines.append(clip(f"lens: {state_lens_words(states.lens)}", (width - 28) // 7))
    if states.segments:
        lines.append(clip(f"segments: {segments_words(states.segments)}", (width - 28) // 7))
    small = "<br>".join(map(for_plotly, lines))
    return {
        "text": f'{first}<br><span style="font-size:13px">{small}</span>',
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 14},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
