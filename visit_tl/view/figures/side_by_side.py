"""Two graphs side by side: pictures in which the differences are ringed, and a list of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers
from visit_tl.arguments.vocabulary import File, Flag, Layers, Theme, Whole
from visit_tl.errors import GraphError
from visit_tl.escaping import for_html, visible
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.descriptions import number
from visit_tl.graph.difference import GraphDiff, diff
from visit_tl.graph.ids import NodeId
from visit_tl.graph.node_descriptions import promoted_label
from visit_tl.graph.records import Node
from visit_tl.graph.subgraphs import to_position
from visit_tl.view.layout import layout
from visit_tl.view.style import FONT, palette
from visit_tl.view.svg import caption, svg
from visit_tl.view.text import text as graph_text
from visit_tl.view.window import choose

MOST: Final = 40
"""How many differences of each kind the list names."""

_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_HEIGHT: Final = 900
_FALL: Final = 1.0
"""Powers of ten by which the target's rank must differ for a ring; most ranks differ by less."""


@dataclass(frozen=True)
class SideBySide:
    """Two graphs to look at together: it draws itself in a notebook.

    Attributes:
        before: The first graph.
        after: The second graph.
        difference: What differs between them; None if they cannot be compared.
        html: The whole page.
    """

    before: GraphData = field(repr=False)
    after: GraphData = field(repr=False)
    difference: GraphDiff | None = field(repr=False)
    html: str = field(repr=False)

    @checked
    def text(self, most: Whole = 20) -> str:
        """The differences as text; if the graphs cannot be compared, both graphs as text."""
        if self.difference is not None:
            return self.difference.text(most)
        return f"{graph_text(self.before)}\n{graph_text(self.after)}"

    @checked
    def save(self, path: File, *, overwrite: Flag = False) -> Path:
        """Write the page to an `.html` file; see `FlowGraph.save` for what is refused.

        Raises:
            FileError: another suffix, or a path that cannot be written.
        """
        from visit_tl.files import write_page

        return write_page(path, self.html, overwrite=overwrite)

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="two flow graphs" sandbox="allow-scripts" '
            f'style="width:100%;height:{_HEIGHT}px;border:0" srcdoc="{for_html(self.html)}">'
            f"</iframe>"
        )


@checked
def compare(
    before: Graph,
    after: Graph,
    *,
    layers: Layers | None = None,
    theme: Theme = "light",
) -> SideBySide:
    """Show two graphs side by side, such as those of a clean and of a patched run.

    Rings mark the nodes that only one graph shows, and those in which the target's rank changed by
    a power of ten or more. Graphs of models of different shapes, or with different targets, are
    drawn without rings and without the list of differences, and the page says why.

    Args:
        before: The first graph.
        after: The second graph.
        layers: Consecutive blocks to show of both; None as in `FlowGraph.figure`.
        theme: `light` or `dark`.

    Raises:
        InputError: a layer is not in one of the graphs, the layers have a gap, or there is no such
            theme.
    """
    wanted = layers if layers is None or layers == "all" else tuple(integers(layers))
    difference, why = None, ""
    try:
        difference = diff(before, after)
    except GraphError as error:
        why = str(error)
    ringed: tuple[frozenset[NodeId], ...] = (frozenset(), frozenset())
    if difference is not None:
        changed = {change.id for change in difference.changed if abs(change.fall) >= _FALL}
        ringed = (
            frozenset(changed | {node.id for node in difference.vanished}),
            frozenset(changed | {node.id for node in difference.appeared}),
        )
    pictures = [
        svg(graph, layers=wanted, theme=theme, ringed=sorted(ids, key=str), title=False)
        for graph, ids in zip((before, after), ringed, strict=True)
    ]
    captions = [_caption(graph, wanted) for graph in (before, after)]
    html = _page(captions, pictures, difference, why, theme)
    return SideBySide(before, after, difference, html)


def _page(
    captions: list[tuple[str, str, str]],
    pictures: list[str],
    difference: GraphDiff | None,
    why: str,
    theme: str,
) -> str:
    colours = palette(theme)
    parts = {
        "POLICY": for_html(_POLICY),
        "TITLE": for_html(" and ".join(caption[0] for caption in captions)),
        "STYLE": _STYLE.format(
            font=FONT,
            scheme=theme,
            background=colours.background,
            surface=colours.band,
            text=colours.text,
            quiet=colours.quiet,
            rule=colours.rule,
        ),
        "PANES": "".join(
            _pane(name, lines, picture)
            for name, lines, picture in zip(("before", "after"), captions, pictures, strict=True)
        ),
        "LIST": _list(difference) if difference is not None else f"<p>{for_html(why)}</p>",
        "SCRIPT": _SCRIPT,
    }
    # Split only once, so that a token that looks like a placeholder is not replaced.
    pieces = _PAGE.split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _caption(graph: GraphData, layers: Layers | None) -> tuple[str, str, str]:
    own = to_position(graph, graph.position)
    shown = choose(own, layers)
    return caption(graph, own, shown, len(layout(shown).orphans))


def _pane(name: str, lines: tuple[str, str, str], picture: str) -> str:
    told = "".join(f"<p><bdi>{for_html(line)}</bdi></p>" for line in lines)
    # What comes before the svg element is only for separate files.
    drawn = picture[picture.index("<svg") :]
    return (
        f'<section><h2>{name}</h2>{told}<div class="pane" tabindex="0" '
        f'aria-label="flow graph {name}">{drawn}</div></section>'
    )


def _list(difference: GraphDiff) -> str:
    d = difference
    counts = (
        f"{len(d.changed)} nodes in which the target has another rank, {len(d.vanished)} that only "
        f"the first graph shows, {len(d.appeared)} that only the second shows, {d.same} as before"
    )
    listed = [
        *(("changed", change.before, change.after) for change in d.changed[:MOST]),
        *(("vanished", node, None) for node in d.vanished[:MOST]),
        *(("appeared", None, node) for node in d.appeared[:MOST]),
    ]
    rows = [
        [what, str((old or new).id), *_facts(old), *_facts(new)]  # type: ignore[union-attr]
        for what, old, new in listed
    ]
    numbers = (3, 4, 6, 7)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if i in numbers else ''}><bdi>{for_html(cell)}</bdi></td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    names = ("what", "node", "said", "rank", "norm", "says", "rank", "norm")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    ringed = "; ringed where it moved by a power of ten, or where only one shows the node"
    most = f"; of each kind at most {MOST} are listed" if len(rows) < _all(d) else ""
    target = f"target <bdi>{for_html(visible(d.before.target))}</bdi>: "
    return (
        f"<p>{target}{counts}{ringed}{most}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _facts(node: Node | None) -> tuple[str, str, str]:
    return (
        ("", "", "") if node is None else (promoted_label(node), str(node.rank), number(node.norm))
    )


def _all(difference: GraphDiff) -> int:
    return len(difference.changed) + len(difference.vanished) + len(difference.appeared)


_STYLE: Final = """
:root {{ color-scheme: {scheme}; }}
body {{ margin: 0; padding: 12px 16px; background: {background}; color: {text};
  font: 14px/1.45 {font}; }}
main {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }}
@media (max-width: 900px) {{ main {{ grid-template-columns: minmax(0, 1fr); }} }}
h2 {{ font-size: 15px; margin: 0; }}
p {{ margin: 2px 0; font-size: 13px; overflow-wrap: anywhere; }}
.pane {{ overflow: auto; border: 1px solid {rule}; margin-top: 8px; }}
.pane svg {{ display: block; }}
.wide {{ overflow-x: auto; margin-top: 16px; }}
table {{ border-collapse: collapse; font-size: 13px; margin-top: 8px; }}
th, td {{ text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid {rule}; }}
th {{ color: {quiet}; font-weight: normal; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
"""

# Scrolling one pane scrolls the other in proportion, because the pictures differ in width.
_SCRIPT: Final = """
"use strict";
const panes = [...document.querySelectorAll(".pane")];
let leader = panes[0];
for (const pane of panes) {
  for (const event of ["pointerenter", "focus", "wheel", "touchstart"])
    pane.addEventListener(event, () => { leader = pane; }, { passive: true });
  pane.addEventListener("scroll", () => {
    if (pane !== leader) return;
    const share = pane.scrollLeft / Math.max(1, pane.scrollWidth - pane.clientWidth);
    for (const other of panes)
      if (other !== pane) other.scrollLeft = share * (other.scrollWidth - other.clientWidth);
  });
}
"""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="@@POLICY@@">
<meta name="generator" content="visit_tl">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@TITLE@@</title>
<style>@@STYLE@@</style>
</head>
<body>
<main>@@PANES@@</main>
<div class="wide">@@LIST@@</div>
<script>@@SCRIPT@@</script>
</body>
</html>
"""
