"""The mask of segments as a map: which query sees which key, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Int

from visit_tl.errors import InputError
from visit_tl.escaping import clip, clip_start, columns, for_html, for_plotly, visible
from visit_tl.graph.descriptions import readable
from visit_tl.segments.spans import Segments
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

HIDDEN, CAUSAL, LATER = 0, 1, 2
"""What a cell is: not seen; seen, and not a later key; a later key, seen within a segment."""

WORDS: Final = {
    CAUSAL: "seen: the key is not later than the query",
    LATER: "seen: a later key, of the query's own segment",
    HIDDEN: "hidden: a later key",
}

CELLS: Final = 160
"""Up to this many tokens, each cell is drawn and has a hover; longer prompts are drawn as areas."""

_MAP: Final = 560
_CELL: Final = 26
"""The largest cell in px."""
_SMALLEST_MAP: Final = 130
_GAP_FROM: Final = 9
"""From this size in px on there are gaps between cells."""
_LINE: Final = 14
"""The least distance in px between the middles of two labels."""
_LABEL: Final = 12
_NAME: Final = 20
"""The most columns of a token's label, and of a segment's name."""
_CHARACTER: Final = 7.2
"""Width in px of a character of a label."""
_SIDE, _TITLE, _ENTRY, _UNDER, _BELOW = 16, 66, 20, 10, 16
"""In px: at both sides, the title, a line of the legend, the gap under it, below the labels."""
_BRACKET: Final = 8
"""From the map to the brackets of the segments, in px."""
_NARROWEST: Final = 480


def figure(segments: Segments, *, theme: str = "light") -> go.Figure:
    """Draw the mask of segments: queries from top to bottom, keys from left to right.

    Each segment is framed, and named at the right. Labels of tokens are thinned out where they
    would overlap.

    Args:
        segments: The segments. Without tokens, positions up to the last segment are drawn.
        theme: `light` or `dark`.

    Raises:
        InputError: there is no token to draw, or no such theme.
    """
    colours = palette(theme)
    n = len(segments.token_ids) or len(segments.tokens) or segments.end
    if n == 0:
        raise InputError(
            "there is no token to draw: no segment, and the prompt is unknown; with_tokens gives it"
        )
    side = max(min(_MAP, _CELL * n), _SMALLEST_MAP)
    step = _step(side / n)
    shown = list(range(0, n, step))
    names = [_token(segments, i) for i in shown]
    label = round(max(map(columns, names)) * _CHARACTER) + 14
    spans = _span_labels(segments, side / n)
    right = round(max((columns(words) for _, words in spans), default=0) * _CHARACTER) + 26
    cells = kinds(segments, n)
    if n <= CELLS:
        traces = [_cells(segments, cells, side / n, colours)]
    else:
        traces = _areas(segments, n, colours)
    entries = _legend(np.unique(cells).tolist(), segments, label, colours)
    top = _TITLE + _ENTRY * len(entries) + _UNDER
    width = max(_SIDE + label + side + right + _SIDE, _NARROWEST)
    drawn = go.Figure(traces)
    drawn.update_layout(
        **ground(colours),
        width=width,
        height=top + side + label + _BELOW,
        margin={
            "l": _SIDE + label,
            "r": width - _SIDE - label - side,
            "t": top,
            "b": label + _BELOW,
        },
        hovermode="closest",
        showlegend=False,
        shapes=[
            *(box for box, _ in entries),
            *_frames(segments, colours),
            *_brackets(segments, (y for y, _ in spans), side, colours),
        ],
        annotations=[
            *(note for _, note in entries),
            *(_name(y, words, side, colours) for y, words in spans),
        ],
        title=_title(segments, n, width),
        xaxis=_axis(shown, names, n, colours) | {"tickangle": -90},
        yaxis=_axis(shown, names, n, colours) | {"range": [n - 0.5, -0.5]},
    )
    drawn.update_layout(plot_bgcolor=_paint(colours)[HIDDEN])
    return drawn


def html(segments: Segments) -> str:
    """The segments as text, for the output cell of a notebook."""
    return f"<pre>{for_html(str(segments))}</pre>"


def kinds(segments: Segments, n: int) -> Int[np.ndarray, "query key"]:
    """`HIDDEN`, `CAUSAL` or `LATER` for each query and key of a prompt of n tokens."""
    found = np.where(np.tri(n, dtype=bool), CAUSAL, HIDDEN)
    for start, end in segments.spans:
        inside = found[start:end, start:end]
        inside[inside == HIDDEN] = LATER
    return found


def _cells(
    segments: Segments, cells: Int[np.ndarray, "query key"], size: float, colours: Palette
) -> go.Heatmap:
    paint, n = _paint(colours), len(cells)
    gap = 1 if size >= _GAP_FROM else 0
    return go.Heatmap(
        z=cells.tolist(),
        zmin=-0.5,
        zmax=2.5,
        colorscale=[[edge / 3, paint[kind]] for kind in sorted(paint) for edge in (kind, kind + 1)],
        xgap=gap,
        ygap=gap,
        showscale=False,
        customdata=[[_hover(segments, q, k, int(cells[q, k])) for k in range(n)] for q in range(n)],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _areas(segments: Segments, n: int, colours: Palette) -> list[go.Scatter]:
    """The same as staircases, which have as many points as there are tokens, not cells."""
    stairs = [at for i in range(n) for at in ((i + 0.5, i - 0.5), (i + 0.5, i + 0.5))]
    found = {CAUSAL: [(-0.5, -0.5), *stairs, (-0.5, n - 0.5)]}
    later: list[tuple[float | None, float | None]] = []
    for start, end in segments.spans:
        if end - start > 1:
            later += [*stairs[2 * start : 2 * end - 1], (end - 0.5, start - 0.5), (None, None)]
    found |= {LATER: later} if later else {}
    return [
        go.Scatter(
            x=[x for x, _ in outline],
            y=[y for _, y in outline],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=_paint(colours)[kind],
            hoveron="fills",
            hoverinfo="text",
            text=WORDS[kind],
        )
        for kind, outline in found.items()
    ]


def _hover(segments: Segments, query: int, key: int, kind: int) -> str:
    lines = [f"query {_named(segments, query)}", f"key {_named(segments, key)}"]
    for i, (start, end) in enumerate(segments.spans):
        if start <= query < end and start <= key < end:
            lines.append(f"both in the segment {_span_words(segments, i)}")
    return f"<b>{WORDS[kind]}</b><br>" + "<br>".join(map(for_plotly, lines))


def _named(segments: Segments, position: int) -> str:
    if not segments.tokens:
        return f"at {position}"
    return f"{visible(segments.tokens[position])} at {position}"


def _span_words(segments: Segments, i: int) -> str:
    """The name of a segment, clipped, and its range."""
    start, end = segments.spans[i]
    where = f"{start}..{end - 1}" if end - start > 1 else str(start)
    name = segments.names[i]
    return f"{clip(readable(name), _NAME)} {where}" if name else where


def _span_labels(segments: Segments, size: float) -> list[tuple[float, str]]:
    """The middle row and the words of the segments that have room for them, longer ones first."""
    found: list[tuple[float, str]] = []
    spans = segments.spans
    for i in sorted(range(len(spans)), key=lambda i: spans[i][0] - spans[i][1]):
        middle = (sum(spans[i]) - 1) / 2
        if all(abs(middle - other) * size >= _LINE for other, _ in found):
            found.append((middle, _span_words(segments, i)))
    return sorted(found)


def _legend(
    cells: Iterable[int], segments: Segments, left: int, colours: Palette
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A swatch and its words for each kind of cell that there is, and for the frame of a segment.

    They are placed in px from the top left corner of the map, since Plotly's own legend would move
    the map.
    """
    paint = _paint(colours)
    marks = [(paint[kind], colours.rule, 1.0, WORDS[kind]) for kind in WORDS if kind in cells]
    if segments.spans:
        marks.append(("rgba(0,0,0,0)", colours.text, 1.5, "a segment"))
    found = []
    for i, (fill, line, width, words) in enumerate(marks):
        y = _ENTRY * (len(marks) - i) - 2
        box = {
            "type": "rect",
            **{f"{axis}ref": "paper" for axis in "xy"},
            **{f"{axis}sizemode": "pixel" for axis in "xy"},
            "xanchor": 0,
            "yanchor": 1,
            "x0": -left,
            "x1": 12 - left,
            "y0": y - 6,
            "y1": y + 6,
            "fillcolor": fill,
            "line": {"width": width, "color": line},
        }
        note = {
            "text": words,
            **{f"{axis}ref": "paper" for axis in "xy"},
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "middle",
            "xshift": 20 - left,
            "yshift": y,
            "showarrow": False,
            "font": {"size": FONT_SIZE, "color": colours.text},
        }
        found.append((box, note))
    return found


def _paint(colours: Palette) -> dict[int, str]:
    """The colour of each kind of cell: blue, paler than in other figures, and orange."""
    blue, orange = colours.ranks[1], colours.ranks[3]
    behind = [int(colours.background[i : i + 2], 16) for i in (1, 3, 5)]
    pale = (round(0.5 * a + 0.5 * b) for a, b in zip(blue, behind, strict=True))
    css = (f"#{''.join(f'{part:02x}' for part in rgb)}" for rgb in (pale, orange))
    return {HIDDEN: colours.band, **dict(zip((CAUSAL, LATER), css, strict=True))}


def _frames(segments: Segments, colours: Palette) -> list[dict[str, Any]]:
    return [
        {
            "type": "rect",
            **{f"{axis}0": start - 0.5 for axis in "xy"},
            **{f"{axis}1": end - 0.5 for axis in "xy"},
            "line": {"width": 1.5, "color": colours.text},
        }
        for start, end in segments.spans
    ]


def _brackets(
    segments: Segments, rows: Iterable[float], side: int, colours: Palette
) -> list[dict[str, Any]]:
    """A line beside the rows of each segment that is named."""
    x, named = 1 + _BRACKET / side, set(rows)
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": x,
            "x1": x,
            "y0": start - 0.4,
            "y1": end - 0.6,
            "line": {"width": 2, "color": colours.quiet},
        }
        for start, end in segments.spans
        if (start + end - 1) / 2 in named
    ]


def _name(y: float, words: str, side: int, colours: Palette) -> dict[str, Any]:
    return {
        "text": for_plotly(words),
        "x": 1 + (_BRACKET + 7) / side,
        "xref": "paper",
        "xanchor": "left",
        "y": y,
        "yanchor": "middle",
        "showarrow": False,
        "font": {"size": FONT_SIZE, "color": colours.text},
    }


def _step(size: float) -> int:
    """How many tokens there are from one label to the next: 1, 2, 5, 10, 20, 50 and so on."""
    steps = (base * 10**power for power in range(9) for base in (1, 2, 5))
    return next(step for step in steps if step * size >= _LINE)


def _token(segments: Segments, position: int) -> str:
    if not segments.tokens:
        return str(position)
    return f"{visible(segments.tokens[position], _LABEL)} {position}"


def _axis(shown: list[int], names: list[str], n: int, colours: Palette) -> dict[str, Any]:
    return {
        "type": "linear",
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [for_plotly(name) for name in names],
        "range": [-0.5, n - 0.5],
        "autorange": False,
        "showgrid": False,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "rgba(0,0,0,0)" if len(shown) == n else colours.quiet,
        "showline": True,
        "mirror": True,
        "linecolor": colours.rule,
        "fixedrange": True,
    }


def _title(segments: Segments, n: int, width: int) -> dict[str, Any]:
    inside = sum(end - start for start, end in segments.spans)
    one = len(segments.spans) == 1
    said = f"{len(segments.spans)} segment{'' if one else 's'}"
    said += f"; {n - inside} of {n} tokens are causal; rows: queries, columns: keys"
    first = "<b>Which query sees which key</b>"
    if segments.tokens:
        prompt = clip_start(readable("".join(segments.tokens)), max(12, (width - 300) // 8))
        first += f" · “{for_plotly(prompt)}”"
    return {
        "text": f'{first}<br><span style="font-size:13px">{said}</span>',
        "x": 0,
        "xref": "container",
        "pad": {"l": _SIDE, "t": 26},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
