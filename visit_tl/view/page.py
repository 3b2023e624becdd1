"""One self-contained HTML page: the figure, what it is of, how to read it, and its text twin.

The page holds plotly.js and all of its data and asks the network for nothing; a content security
policy says so to the browser. Text from prompts and vocabularies gets in through `labels.for_html`,
or as JSON in which `<` is escaped, so none of it can become markup or script.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from plotly.offline import get_plotlyjs

from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.records import Node
from visit_tl.view import legend, window
from visit_tl.view.labels import for_html, visible
from visit_tl.view.layout import layout
from visit_tl.view.pack import pack, to_json
from visit_tl.view.page_assets import SCRIPT, stylesheet
from visit_tl.view.sankey import spec
from visit_tl.view.style import (
    entropy_colour,
    node_colour,
    rank_colour,
    sign_colour,
)
from visit_tl.view.text import text
from visit_tl.view.words import heading, number

POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

_COLUMN_BLOCKS: Final = 4
"""Blocks a view of another position shows: they hold a tenth of the nodes of the graph's own."""


def page(
    graph: FlowGraph,
    *,
    theme: str = "light",
    layers: Iterable[int] | None = None,
) -> str:
    """The graph as one HTML file that needs nothing else.

    Args:
        graph: The graph.
        theme: `light` or `dark`.
        layers: Consecutive blocks to open on; None for all of up to four, or the last two of more.
            All blocks of the graph can be reached from the page.

    Returns:
        The text of the file, some 5 MB, most of it plotly.js. Write it as UTF-8.

    Raises:
        InputError: a layer is not in the graph, the layers have a gap, or there is no such theme.
    """
    own = graph.at(graph.position)
    opening = window.choose(own, layers).layers
    views = [opening] if opening == own.layers else window.windows(own)
    if opening not in views:
        views.append(opening)
    pictures = [(own, view) for view in views]
    for column in (graph.at(column.position) for column in graph.columns if column.layers):
        pictures += [(column, view) for view in window.windows(column, _COLUMN_BLOCKS)]
    figures = [_figure(picture, view, theme) for picture, view in pictures]
    words = heading(graph)
    parts = {
        "TITLE": for_html(f"{words['model']} · {words['prompt']}"),
        "POLICY": for_html(POLICY),
        "STYLE": stylesheet(theme),
        "PLOTLY": get_plotlyjs().replace("</script", r"<\/script"),
        "HEAD": _header(graph, words),
        "CONTROL": _control(pictures, opening, graph),
        "LEGEND": _legend(graph.d_vocab, theme),
        "HEADS": _heads(own, theme),
        "TEXT": for_html(text(graph, layers=graph.layers or None)),
        "DATA": _data(figures, graph),
        "SCRIPT": SCRIPT,
    }
    # Split once, so that a token that spells a place holder is not taken for one.
    pieces = _PAGE.split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _figure(graph: FlowGraph, layers: tuple[int, ...], theme: str) -> dict[str, Any]:
    shown = graph if layers == graph.layers else graph.subgraph(layers)
    place = layout(shown)
    starts = [left for layer, left, _ in legend.blocks(place) if layer is not None]
    # Open on the last block, its left edge at the left of the window.
    return {**spec(shown, place, theme), "scroll": round(starts[-1] - 16) if starts else 0}


def _data(figures: list[dict[str, Any]], graph: FlowGraph) -> str:
    texts, phrases = pack(figures, graph)
    blocks = [("phrases", to_json(phrases)), *(("view", text) for text in texts)]
    return "\n".join(
        f'<script type="application/json" class="{name}">{content}</script>'
        for name, content in blocks
    )


def _header(graph: FlowGraph, words: dict[str, str]) -> str:
    chips = []
    followed = {column.position for column in graph.columns}
    for i, token in enumerate(graph.tokens):
        marks = ["token"]
        note = f"position {i}"
        if i == 0 and graph.prepend_bos:
            marks.append("bos")
            note += ", a BOS put before the prompt"
        if i in followed:
            marks.append("followed")
            note += ", followed back to"
        if i == graph.position:
            marks.append("here")
            note += ", the position that this graph is of"
        chips.append(
            f'<span class="{" ".join(marks)}" title="{note}">'
            f"<bdi>{for_html(visible(token))}</bdi><sub>{i}</sub></span>"
        )
    facts = {name: f"<bdi>{for_html(words[name])}</bdi>" for name in ("position", "target")}
    if "logits" in graph:
        facts["prediction"] = "".join(
            f"<span class=read><bdi>{for_html(visible(r.token))}</bdi> {number(r.prob)}</span>"
            for r in graph["logits"].top
        )
    facts["pruning"] = for_html(words["hidden"])
    if "patched" in words:
        facts["patched run"] = f"<bdi>{for_html(words['patched'])}</bdi>"
    if "followed" in words:
        facts["followed back"] = for_html(words["followed"])
    pairs = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    return (
        f"<h1>{for_html(words['model'])}</h1>\n"
        f'<p class="tokens">{"".join(chips)}</p>\n<dl>{pairs}</dl>'
    )


def _control(
    pictures: list[tuple[FlowGraph, tuple[int, ...]]], opening: tuple[int, ...], graph: FlowGraph
) -> str:
    options = ""
    for i, (picture, view) in enumerate(pictures):
        name = window.name(view) if view else "no blocks"
        own = picture.position == graph.position
        if not own:
            name += f" at {visible(graph.tokens[picture.position], 20)}@{picture.position}"
        chosen = " selected" if own and view == opening else ""
        options += f'<option value="{i}"{chosen}>{for_html(name)}</option>'
    alone = " disabled" if len(pictures) == 1 else ""
    return (
        f'<button id="earlier" type="button" aria-label="earlier layers"{alone}>◀</button>'
        f'<select id="layers" aria-label="layers shown"{alone}>{options}</select>'
        f'<button id="later" type="button" aria-label="later layers"{alone}>▶</button>'
        f"<span>of 0..{graph.n_layers - 1}; time runs from left to right, scroll sideways "
        f"to follow it</span>"
    )


def _legend(d_vocab: int, theme: str) -> str:
    ranks = ",".join(rank_colour(i / 16, theme) for i in range(17))
    greys = ",".join(entropy_colour(i / 8, theme) for i in range(9))
    return (
        f'<div><span class="bar" style="background:linear-gradient(to right,{ranks})"></span>'
        f"{legend.RANK_LEGEND}: first (0) to last ({d_vocab - 1})</div>"
        f'<div><span class="swatch" style="background:{sign_colour(False, theme)}"></span>'
        f"coefficient &gt; 0"
        f'<span class="swatch" style="background:{sign_colour(True, theme)}"></span>'
        f"coefficient &lt; 0</div>"
        f'<div><span class="bar" style="background:linear-gradient(to right,{greys})"></span>'
        f"{legend.GREY_LEGEND}</div><div>{legend.EDGE_LEGEND}</div>"
        f"<div>␣ is a space; − before a token: the neuron is subtracted and promotes its bottom "
        f"token; a → b: the memory value that token a made, which reads b</div>"
    )


def _heads(graph: FlowGraph, theme: str) -> str:
    rows = "".join(_head_row(graph, node, theme) for node in graph.of_kind("head"))
    names = ("head", "promotes", "suppresses", "rank of target", "p", "norm", "entropy", "looks at")
    return (
        f"<table><thead><tr>{''.join(f'<th>{n}</th>' for n in names)}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _head_row(graph: FlowGraph, head: Node, theme: str) -> str:
    memories = [
        f"<bdi>{for_html(visible(node.token or ''))}</bdi>@{node.id.key_position} "
        f"{'?' if node.coefficient is None else number(node.coefficient)}"
        for edge in graph.edges_into(head.id)
        if (node := graph[edge.source]).kind == "value"
    ]
    tokens = [
        " ".join(f"<bdi>{for_html(visible(read.token))}</bdi>" for read in reads[:3])
        for reads in (head.promoted, head.suppressed)
    ]
    colour = node_colour(head, graph.d_vocab, theme)
    numbers = (number(head.prob), number(head.norm), number(head.entropy))
    cells = [
        f"<td>{head.id}</td><td>{tokens[0]}</td><td>{tokens[1]}</td>",
        f'<td class=n><span class="dot" style="background:{colour}"></span>{head.rank}</td>',
        *(f"<td class=n>{n}</td>" for n in numbers),
        f"<td>{', '.join(memories)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="@@POLICY@@">
<meta name="generator" content="visit_tl">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>@@STYLE@@</style>
<script>@@PLOTLY@@</script>
</head>
<body>
<header>@@HEAD@@</header>
<nav>@@CONTROL@@</nav>
<main id="frame" tabindex="0" aria-label="flow graph"><div id="figure"></div></main>
<div id="tip" role="tooltip" hidden><b></b><span></span></div>
<noscript><p>The figure needs JavaScript; the tables below do not.</p></noscript>
<section class="legend">@@LEGEND@@</section>
<details id="heads"><summary>Heads as a table</summary><div class="wide">@@HEADS@@</div></details>
<details id="text"><summary>The graph as text</summary><pre class="wide">@@TEXT@@</pre></details>
@@DATA@@
<script>@@SCRIPT@@</script>
</body>
</html>
"""
