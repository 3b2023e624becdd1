"""A channel between two heads: its directions, their words, and what goes through in a prompt."""

from __future__ import annotations

import html as html_text
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.escaping import clip, for_plotly, table, visible
from visit_tl.graph.descriptions import number
from visit_tl.view.figures.head_map import visible_words
from visit_tl.view.style import CLASS_COLOURS, FONT_SIZE, ground, palette

if TYPE_CHECKING:
    from visit_tl.circuits.channels.channel_result import Channel, Words
    from visit_tl.circuits.channels.channel_use import ChannelUse

_RIGHT_SIDE: Final = {
    "q": "keys that are then sought",
    "k": "queries that then seek it",
    "v": "the reader writes",
}
_ROW, _TOP, _BOTTOM = 46, 92, 52
_SHOWN: Final = 24
"""The most directions that are drawn of a use."""
_TOKENS: Final = 3


def figure(found: Channel, theme: str = "light") -> go.Figure:
    """Bars of the shares of the first directions; beside each, the words of its sides."""
    colours, n = palette(theme), len(found.words)
    made = go.Figure(
        go.Bar(
            x=[100 * share for share in found.shares[:n]],
            y=[f"{i}" for i in range(n)],
            orientation="h",
            marker={"color": CLASS_COLOURS[theme][1]},
            width=0.5,
            customdata=[number(value) for value in found.singular_values[:n]],
            hovertemplate="direction %{y}: %{x:.1f} %, singular value %{customdata}<extra></extra>",
        )
    )
    places = (0.24, 0.5, 0.76)
    heads = ("the writer reads", "it writes", _RIGHT_SIDE[found.edge.input or "q"])
    notes = [
        _note(f"<b>{head}</b>", x, 1.0, "bottom") for x, head in zip(places, heads, strict=True)
    ]
    for i, words in enumerate(found.words):
        for x, plus, minus in zip(places, _sides(words), _opposites(words), strict=True):
            told = f"+ {for_plotly(_tokens(plus))}<br>− {for_plotly(_tokens(minus))}"
            notes.append(_note(told, x, 1 - (i + 0.5) / n, "middle"))
    made.update_layout(
        **ground(colours),
        width=1120,
        height=n * _ROW + _TOP + _BOTTOM,
        margin={"l": 64, "r": 20, "t": _TOP, "b": _BOTTOM},
        showlegend=False,
        title=_title(_heading(found)),
        annotations=notes,
        xaxis={
            "domain": [0, 0.2],
            "title": {"text": "% of the squared score", "standoff": 4},
            "rangemode": "tozero",
            "gridcolor": colours.rule,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis=_direction_axis(),
    )
    return made


def use_figure(found: ChannelUse, theme: str = "light") -> go.Figure:
    """For the directions with the largest terms, the term and the share of the weights."""
    colours = palette(theme)
    order = np.argsort(-np.abs(found.terms), kind="stable")[:_SHOWN]
    names = [str(i) for i in order]
    shares = found.channel.shares
    made = go.Figure(
        [
            go.Bar(
                x=names,
                y=found.terms[order],
                marker={"color": CLASS_COLOURS[theme][1]},
                hovertemplate=f"direction %{{x}}: %{{y:.4g}} {found.unit}<extra></extra>",
            ),
            go.Bar(
                x=names,
                y=100 * shares[order],
                marker={"color": CLASS_COLOURS[theme][0]},
                hovertemplate="direction %{x}: %{y:.1f} %<extra></extra>",
                yaxis="y2",
            ),
        ]
    )
    plain = {"gridcolor": colours.rule, "zerolinecolor": colours.quiet, "fixedrange": True}
    made.update_layout(
        **ground(colours),
        width=860,
        height=460,
        margin={"l": 76, "r": 20, "t": 96, "b": 54},
        showlegend=False,
        title=_title(_use_heading(found)),
        xaxis={
            "title": {"text": "direction, the largest term first", "standoff": 4},
            "type": "category",
            "anchor": "y2",
            "showgrid": False,
        },
        yaxis=plain | {"domain": [0.48, 1], "title": {"text": f"term ({found.unit})"}},
        yaxis2=plain | {"domain": [0, 0.38], "title": {"text": "% of the weights"}},
    )
    return made


def text(found: Channel) -> str:
    """One line for each direction that was read, and one for its opposite."""
    rows = [["", "share", "the writer reads", "it writes", _RIGHT_SIDE[found.edge.input or "q"]]]
    for i, words in enumerate(found.words):
        rows.append([f"{i} +", f"{found.shares[i]:.3f}", *map(_tokens, _sides(words))])
        rows.append(["−", "", *map(_tokens, _opposites(words))])
    lines = [_heading(found), *table(rows, right=(0, 1))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def use_text(found: ChannelUse, n: int = 8) -> str:
    """The directions with the largest terms; what the others and none carry."""
    order = np.argsort(-np.abs(found.terms), kind="stable")
    rows = [["direction", f"term ({found.unit})", "share", "of the weights"]]
    for i in order[:n]:
        share = f"{found.shares[i]:+.3f}"
        rows.append([str(i), f"{found.terms[i]:+.4g}", share, f"{found.channel.shares[i]:.3f}"])
    if len(order) > n:
        more = float(found.terms[order[n:]].sum())
        share = f"{more / (found.whole or np.nan):+.3f}"
        rows.append([f"{len(order) - n} others", f"{more:+.4g}", share, ""])
    lines = [_use_heading(found), *table(rows, right=(1, 2, 3))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def html(found: Channel) -> str:
    """The text, for a notebook."""
    return f"<pre>{html_text.escape(text(found))}</pre>"


def use_html(found: ChannelUse) -> str:
    """The text, for a notebook."""
    return f"<pre>{html_text.escape(use_text(found))}</pre>"


def _heading(found: Channel) -> str:
    edge = found.edge
    return (
        f"{visible_words(found.model)} · {edge.source} → {edge.target}, {edge.input}-composition "
        f"{found.score:.3f}"
    )


def _use_heading(found: ChannelUse) -> str:
    edge, tokens = found.channel.edge, found.tokens
    places = [f"{visible(tokens[i], 14)}@{i}" for i in (found.query, found.key)]
    return (
        f"{edge.source} → {edge.target} ({edge.input}) · query {places[0]}, key {places[1]} · "
        f"{found.whole:.4g} of {found.total:.4g} ({found.unit})"
    )


def _sides(words: Words) -> tuple[tuple[str, ...], ...]:
    return words.left, words.written, words.right


def _opposites(words: Words) -> tuple[tuple[str, ...], ...]:
    return words.minus_left, words.minus_written, words.minus_right


def _tokens(tokens: tuple[str, ...]) -> str:
    return "  ".join(clip(visible(token), 12) for token in tokens[:_TOKENS])


def _direction_axis() -> dict[str, Any]:
    return {
        "title": {"text": "direction", "standoff": 4},
        "autorange": "reversed",
        "showgrid": False,
        "type": "category",
        "fixedrange": True,
    }


def _note(words: str, x: float, y: float, anchor: str) -> dict[str, Any]:
    return {
        "text": words,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": anchor,
        "align": "left",
        "yshift": 6 if anchor == "bottom" else 0,
        "showarrow": False,
        "font": {"size": FONT_SIZE},
    }


def _title(words: str) -> dict[str, Any]:
    return {
        "text": for_plotly(words),
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 14},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
