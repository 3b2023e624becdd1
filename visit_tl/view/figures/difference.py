"""The difference of two graphs: as text, as HTML, and as a map of the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from visit_tl.escaping import clip, for_html, for_plotly, table, visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import number, readable, segments_words
from visit_tl.graph.difference import GraphDiff
from visit_tl.graph.node_descriptions import promoted_label
from visit_tl.graph.records import Node

if TYPE_CHECKING:
    import plotly.graph_objects as go

_TOKEN: Final = 14
_PROMPT: Final = 60
_LINE: Final = 19
"""Height in px of a line under the title."""


def text(difference: GraphDiff, most: int = 20) -> str:
    """The differences as text, at most `most` nodes of each kind; ends in a newline."""
    d = difference
    lines = [
        f"before      {_name(d.before)}",
        f"after       {_name(d.after)}",
        f"target      {visible(d.before.target)}",
        *(f"{'masks' if i == 0 else '':<12}{mask}" for i, mask in enumerate(_masks(d))),
        f"nodes       {len(d.changed)} changed rank, {len(d.vanished)} vanished, "
        f"{len(d.appeared)} appeared, {d.same} as before",
    ]
    if d.changed:
        rows = [["changed", "said", "rank", "says", "rank", "norm before", "after"]]
        rows += [
            [
                str(c.id),
                promoted_label(c.before, _TOKEN),
                str(c.before.rank),
                promoted_label(c.after, _TOKEN),
                str(c.after.rank),
                number(c.before.norm),
                number(c.after.norm),
            ]
            for c in d.changed[:most]
        ]
        lines += ["", *table(rows, right=(2, 4, 5, 6)), *_more(len(d.changed), most)]
    for what, nodes in (("vanished", d.vanished), ("appeared", d.appeared)):
        if nodes:
            rows = [[what, "says", "rank", "norm"], *(_row(node) for node in nodes[:most])]
            lines += ["", *table(rows, right=(2, 3)), *_more(len(nodes), most)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def html(difference: GraphDiff) -> str:
    """The differences as escaped text, for the output cell of a notebook."""
    return f"<pre>{for_html(text(difference))}</pre>"


def figure(difference: GraphDiff, theme: str = "light") -> go.Figure:
    """Layers x heads: how many powers of ten the target fell (above 0) or rose in each head.

    A head that one of the graphs does not show is drawn without a score.

    Raises:
        InputError: there is no such theme.
    """
    from visit_tl.view.figures.head_map import head_map

    both = [node for graph in (difference.before, difference.after) for node in graph]
    heads = [node.id.head for node in both if node.id.head is not None]
    scores = np.full((difference.before.n_layers, max(heads, default=0) + 1), np.nan)
    for node in difference.before.of_kind("head"):
        if node.id.position is None and node.id in difference.after:
            scores[node.id.layer, node.id.head] = 0.0
    for change in difference.changed:
        if change.id.kind == "head" and change.id.position is None:
            scores[change.id.layer, change.id.head] = change.fall
    title = f"rank of {visible(difference.before.target)} in each head, after against before"
    drawn = head_map(scores, title=title, score="log10 fall", theme=theme)
    if masks := _masks(difference):
        _under_title(drawn, masks)
    return drawn


def _masks(difference: GraphDiff) -> list[str]:
    """The masks of both runs, in a line each; none if they are the same."""
    both = {"before": difference.before.segments, "after": difference.after.segments}
    if both["before"] == both["after"]:
        return []
    return [
        f"{name}: {segments_words(spans) if spans else 'causal'}" for name, spans in both.items()
    ]


def _under_title(drawn: go.Figure, lines: list[str]) -> None:
    """Put further lines under the title of a map, and move the map down by their height."""
    layout, more = drawn.layout, _LINE * len(lines)
    most = (layout.width - 2 * layout.title.pad.l) // 7
    small = "<br>".join(for_plotly(clip(line, most)) for line in lines)
    layout.title.text += f'<br><span style="font-size:13px">{small}</span>'
    layout.margin.t += more
    layout.height += more


def _name(graph: GraphData) -> str:
    prompt = readable(graph.prompt)
    cut = prompt if len(prompt) <= _PROMPT else f"…{prompt[1 - _PROMPT :]}"
    patched = f", patched at {', '.join(map(readable, graph.patched))}" if graph.patched else ""
    return f'{readable(graph.model)} "{cut}" at position {graph.position}{patched}'


def _row(node: Node) -> list[str]:
    return [str(node.id), promoted_label(node, _TOKEN), str(node.rank), number(node.norm)]


def _more(count: int, most: int) -> list[str]:
    return [f"  and {count - most} more"] if count > most else []
