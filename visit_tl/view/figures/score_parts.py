"""Why a head looked where it looked: parts at the query x parts at the key; as text and as HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.causal.qk.attribution_result import OTHERS, AttentionAttribution
from visit_tl.errors import InputError
from visit_tl.escaping import for_plotly, table, visible
from visit_tl.graph.descriptions import number, readable
from visit_tl.view.figures import map_with_bars
from visit_tl.view.figures.map_with_bars import GAP, NAMED_AXIS, SIDE, TOP, line, share, short
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

_ROWS: Final = 12
_CELL: Final = (50, 26)
"""Width and height of a cell in px; its number needs 44."""
_BARS: Final = 140
"""Length in px of the axis of the bars."""
_NUMBER: Final = (40, 18)
"""Room in px for the number of a bar that lies, and of one that stands."""
_CHARACTER: Final = 7.0
_MARGINALS: Final = 8


def text(found: AttentionAttribution) -> str:
    """The score, its largest pairs and the largest parts of both sides, as text."""
    rows = [["query part", "key part", "adds", "share"]]
    rows += [
        [pair.query, pair.key, number(pair.value), share(pair.value, found.score)]
        for pair in found.parts
    ]
    lines = [
        line("model", readable(found.model)),
        map_with_bars.prompt_line(found.prompt),
        line("head", _looks(found)),
        line("score", _score(found)),
        line("parts", f"{len(found.query_parts)} at the query x {len(found.key_parts)} at the "
                       f"key; their sum is off by {found.error:.1g}"),
        *(line(name, fact) for name, fact in _changed(found)),
        "",
        *(row.rstrip() for row in table(rows, right=(2, 3))),
        "",
    ]  # fmt: skip
    both = [["at the query", "adds", "share", "", "at the key", "adds", "share"]]
    for left, right in zip(*(_largest(found, side) for side in ("query", "key")), strict=True):
        both.append([*left, "", *right])
    lines += [row.rstrip() for row in table(both, right=(1, 2, 5, 6))]
    return "\n".join(lines) + "\n"


def _largest(found: AttentionAttribution, side: str) -> list[list[str]]:
    """The largest parts of one side and the sum of the others, as rows; padded to one length."""
    names = found.query_parts if side == "query" else found.key_parts
    sums = found.matrix.sum(1 if side == "query" else 0)
    chosen = np.argsort(-np.abs(sums), kind="stable")[:_MARGINALS].tolist()
    rows = [[names[i], number(sums[i]), share(sums[i], found.score)] for i in chosen]
    if len(names) > len(chosen):
        rest = float(sums.sum() - sums[chosen].sum())
        rows.append([OTHERS, number(rest), share(rest, found.score)])
    return rows + [["", "", ""]] * (_MARGINALS + 1 - len(rows))


def _looks(found: AttentionAttribution) -> str:
    query, key = (f"{visible(found.tokens[at], 20)} at {at}" for at in (found.query, found.key))
    return f"{found.head} looks from {query} to {key}"


def _score(found: AttentionAttribution) -> str:
    capped = "" if found.capped is None else f", {number(found.capped)} after the softcap"
    return f"{number(found.score)} before the softmax{capped}; attention {number(found.attention)}"


def _changed(found: AttentionAttribution) -> list[tuple[str, str]]:
    return map_with_bars.changed(found.patched, found.segments, found.adapters)


def html(found: AttentionAttribution) -> str:
    """The text, escaped, for the output cell of a notebook."""
    return map_with_bars.preformatted(text(found))


@dataclass(frozen=True)
class _Shown:
    """What is drawn of one side.

    Attributes:
        names: Names of the rows or columns, the last one for all others, if there are any.
        groups: For each, the indices of its parts.
    """

    names: list[str]
    groups: list[list[int]]


def figure(found: AttentionAttribution, theme: str = "light", rows: int = _ROWS) -> go.Figure:
    """A heat map of pairs: parts at the query from top to bottom, parts at the key as columns.

    The parts of each side with the largest sums over the other side have a row or column of their
    own, in the order of the forward pass; all others share the last one, so that all cells sum to
    the score. Bars are the sums of rows and of columns. Colours are scaled to the cells of single
    parts; a larger sum of others has the colour of the largest.

    Args:
        found: The attribution.
        theme: `light` or `dark`.
        rows: The most parts of each side with a row or column of their own.

    Raises:
        InputError: there is no such theme, or rows is below 1.
    """
    colours = palette(theme)
    if type(rows) is not int or rows < 1:
        raise InputError(f"rows is {rows!r}; it must be an integer of at least 1")
    query, key = (_shown(found, side, rows) for side in ("query", "key"))
    cells = np.array([[found.matrix[np.ix_(a, b)].sum() for b in key.groups] for a in query.groups])
    single = [[len(a) == len(b) == 1 for b in key.groups] for a in query.groups]
    most = float(np.abs(cells[np.array(single)]).max()) or 1.0
    label = round(max(map(len, query.names)) * _CHARACTER) + 24
    below = round(max(map(len, key.names)) * _CHARACTER) + 20
    wide, high = _CELL[0] * len(key.names), _CELL[1] * len(query.names)
    width = max(SIDE + label + wide + GAP + _BARS + SIDE, 640)
    height = TOP + _BARS + GAP + high + below
    box = _Box(width, height, SIDE + label, TOP + _BARS + GAP, wide, high)
    drawn = go.Figure(
        [
            _map(cells, query, key, most, colours),
            _bars(cells.sum(1), "y", colours),
            _bars(cells.sum(0), "x", colours),
        ]
    )
    drawn.update_layout(
        **ground(colours),
        **_axes(query, key, box, colours),
        xaxis2=_sums(cells.sum(1), box, colours, "x"),
        yaxis2=_sums(cells.sum(0), box, colours, "y"),
        **map_with_bars.frame(width, height),
        title=_title(found, width),
    )
    return drawn


def _shown(found: AttentionAttribution, side: str, rows: int) -> _Shown:
    """The parts of one side that get a place of their own, and the others."""
    names = found.query_parts if side == "query" else found.key_parts
    token = found.tokens[found.query if side == "query" else found.key]
    sums = np.abs(found.matrix.sum(1 if side == "query" else 0))
    chosen = sorted(np.argsort(-sums, kind="stable")[:rows].tolist())
    rest = [i for i in range(len(names)) if i not in chosen]
    shown = [f"{names[i]} {visible(token, 12)}" if names[i] == "embed" else names[i].replace(
        " without ", " − ") for i in chosen]  # fmt: skip
    if rest:
        return _Shown([*shown, f"{len(rest)} others"], [*([i] for i in chosen), rest])
    return _Shown(shown, [[i] for i in chosen])


@dataclass(frozen=True)
class _Box:
    """Where the map stands in px, and the size of the figure."""

    width: int
    height: int
    left: int
    top: int
    wide: int
    high: int

    def across(self, start: int, end: int) -> tuple[float, float]:
        """A range of px from the left as shares of the width."""
        return start / self.width, end / self.width

    def down(self, start: int, end: int) -> tuple[float, float]:
        """A range of px from the top as shares of the height, from below."""
        return 1 - end / self.height, 1 - start / self.height


def _map(
    cells: Float[np.ndarray, "row column"],
    query: _Shown,
    key: _Shown,
    most: float,
    colours: Palette,
) -> go.Heatmap:
    hovers = [
        [
            f"<b>{for_plotly(a)}</b> at the query<br><b>{for_plotly(b)}</b> at the key<br>"
            f"adds {number(float(cells[i, j]))}"
            for j, b in enumerate(key.names)
        ]
        for i, a in enumerate(query.names)
    ]
    return map_with_bars.heat_map(
        np.clip(cells, -most, most),
        most,
        hovers,
        colours,
        text=[[short(x) for x in row] for row in cells.tolist()],
        texttemplate="%{text}",
        textfont={"size": FONT_SIZE},
    )


def _bars(sums: Float[np.ndarray, " part"], along: str, colours: Palette) -> go.Bar:
    text = [short(x) for x in sums.tolist()]
    return map_with_bars.bars(sums, along, colours, text=text, textangle=0, hoverinfo="skip")


def _axes(query: _Shown, key: _Shown, box: _Box, colours: Palette) -> dict[str, Any]:
    right, bottom = box.left + box.wide, box.top + box.high
    return {
        "xaxis": NAMED_AXIS
        | {
            "domain": box.across(box.left, right),
            "range": [-0.5, len(key.names) - 0.5],
            "tickvals": list(range(len(key.names))),
            "ticktext": [for_plotly(name) for name in key.names],
            "tickangle": -90,
            "anchor": "y",
        },
        "yaxis": NAMED_AXIS
        | {
            "domain": box.down(box.top, bottom),
            "range": [len(query.names) - 0.5, -0.5],
            "tickvals": list(range(len(query.names))),
            "ticktext": [for_plotly(name) for name in query.names],
            "anchor": "x",
        },
    }


def _sums(
    sums: Float[np.ndarray, " part"], box: _Box, colours: Palette, along: str
) -> dict[str, Any]:
    """The axis of the bars, with room for their numbers at both ends."""
    right = box.left + box.wide + GAP
    where = (
        {"domain": box.across(right, right + _BARS), "anchor": "y"}
        if along == "x"
        else {"domain": box.down(box.top - GAP - _BARS, box.top - GAP), "anchor": "x"}
    )
    return map_with_bars.bar_axis(sums, _BARS, _NUMBER[along == "y"], colours) | where


def _title(found: AttentionAttribution, width: int) -> dict[str, Any]:
    last = "rows: written at the query · columns: written at the key · bars: their sums"
    last += "".join(f" · {name} {fact}" for name, fact in _changed(found))
    small = [_looks(found), f"score {_score(found)}", last]
    return map_with_bars.title(found.model, found.prompt, small, width)
