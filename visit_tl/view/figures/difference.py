"""The difference of two graphs: as text, as HTML, and as a map of the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from visit_tl.escaping import for_html, table, visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import number, promoted_label, readable
from visit_tl.graph.difference import GraphDiff
from visit_tl.graph.records import Node

if TYPE_CHECKING:
    import plotly.graph_objects as go

_TOKEN: Final = 14
_PROMPT: Final = 60


def text(difference: GraphDiff, most: int = 20) -> str:
    """The differences as text, at most `most` nodes of each kind; ends in a newline."""
    d = difference
    lines = [
        f"before      {_name(d.before)}",
        f"after       {_name(d.after)}",
        f"target      {visible(d.before.target)}",
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
    return head_map(scores, title=title, score="log10 fall", theme=theme)


def _name(graph: GraphData) -> str:
    prompt = readable(graph.prompt)
    cut = prompt if len(prompt) <= _PROMPT else f"…{prompt[1 - _PROMPT :]}"
    patched = f", patched at {', '.join(map(readable, graph.patched))}" if graph.patched else ""
    return f'{readable(graph.model)} "{cut}" at position {graph.position}{patched}'


def _row(node: Node) -> list[str]:
    return [str(node.id), promoted_label(node, _TOKEN), str(node.rank), number(node.norm)]


def _more(count: int, most: int) -> list[str]:
    return [f"  and {count - most} more"] if count > most else []
