"""A graph as SVG, without a browser: the picture of `sankey`, drawn from the layout.

It uses only elements that every SVG program supports (rectangles, paths, text, `use`), so that
Inkscape, LaTeX's converters and word processors show what a browser shows. Hovering shows the facts
of a node or an edge. A halo keeps labels readable over edges: it is a second, stroked copy of them
underneath, because not every program supports `paint-order`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.escaping import clip, for_xml
from visit_tl.files import MARK
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS, NodeId
from visit_tl.graph.node_descriptions import (
    edge_fact,
    edge_from_later,
    node_facts,
    node_title,
    short_label,
)
from visit_tl.graph.subgraphs import to_position
from visit_tl.view import legend
from visit_tl.view.caption import caption
from visit_tl.view.layout import NODE_WIDTH, Layout, layout
from visit_tl.view.ribbons import Ribbon, ribbons
from visit_tl.view.style import (
    FEATURE_COLOUR,
    FONT,
    FONT_SIZE,
    edge_colour,
    entropy_colour,
    node_colour,
    palette,
    rank_colour,
    rank_place,
    sign_colour,
)
from visit_tl.view.window import choose

_TITLE: Final = 92
"""Height in px of the lines over the picture."""

_COLUMN: Final = 6.4
"""Width in px of a character of the lines over the picture, at 13 px."""

_LABEL_GAP: Final = 5
_DROP: Final = 0.35
"""How far, in font sizes, the baseline is below the middle of a line."""


def svg(
    graph: GraphData,
    *,
    layers: Layers | None = None,
    theme: str = "light",
    position: int | None = None,
    ringed: Collection[NodeId] = (),
    title: bool = True,
) -> str:
    """The graph as an SVG document; colours and widths are those of `view/figures/sankey.py`.

    Args:
        graph: The graph.
        layers: Consecutive blocks to show; None for all of up to four, or the last two of more,
            with a line in the title on how to see the rest.
        theme: `light` or `dark`.
        position: Which position to show of a graph whose memories were followed back; None is the
            graph's own.
        ringed: Nodes to mark with a ring.
        title: Whether to write the lines of `caption` over the picture.

    Returns:
        Well-formed XML for any tokens, without scripts and without anything that is loaded.

    Raises:
        InputError: a layer is not in the graph, the layers have a gap, or there is no such theme.
        GraphError: no block is shown at that position.
    """
    colours = palette(theme)
    whole = graph
    graph = to_position(graph, graph.position if position is None else position)
    shown = choose(graph, layers)
    place = layout(shown)
    width = max(place.width, legend.WIDTH)
    top = (_TITLE if title else 8) + legend.HEADINGS
    height = top + place.height + legend.LEGEND
    lines = caption(whole, graph, shown, len(place.orphans))
    labels = _labels(shown, place)
    name = "labels-" + hashlib.sha256(labels.encode()).hexdigest()[:8]
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f"<!-- {MARK} -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="{FONT}" font-size="{FONT_SIZE}" fill="{colours.text}">',
        f"<title>{for_xml(' · '.join(lines[:2]))}</title>",
        _box(0, 0, width, height, colours.background),
        *(_lines(lines, width) if title else []),
        f'<g transform="translate(0 {top})">',
        *_headings(place, theme),
        f"<g>{''.join(_edges(shown, place, theme))}</g>",
        *_feature_rims(place, theme),
        f"<g>{''.join(_nodes(shown, place, theme, ringed))}</g>",
        f'<use xlink:href="#{name}" fill="{colours.background}" stroke="{colours.background}" '
        f'stroke-width="3" stroke-linejoin="round"/>',
        f'<g id="{name}">{labels}</g>',
        *([] if place.boxes else [_text("no edges to draw", 12, 24, colours.quiet)]),
        "</g>",
        f'<g transform="translate(0 {top + place.height})">',
        *_legend(shown, theme),
        "</g>",
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _lines(lines: Iterable[str], width: int) -> list[str]:
    drawn = []
    for i, (line, size, weight) in enumerate(
        zip(lines, (16, 13, 13), ("bold", "normal", "normal"), strict=True)
    ):
        most = int((width - 24) / (_COLUMN * size / 13))
        drawn.append(
            f'<text x="12" y="{32 + 21 * i}" font-size="{size}" font-weight="{weight}">'
            f"{for_xml(clip(line, most))}</text>"
        )
    return drawn


def _headings(place: Layout, theme: str) -> list[str]:
    """The names of blocks and columns, and a band behind every other block."""
    colours = palette(theme)
    drawn = []
    for i, (layer, left, right) in enumerate(legend.blocks(place)):
        if i % 2 == 0:
            edge = max(left - 8, 0)
            size = (right - 8 - edge, place.height + legend.HEADINGS)
            drawn.append(_box(edge, -legend.HEADINGS, *size, colours.band))
        if layer is not None:
            drawn.append(
                f'<text x="{_px(left)}" y="-26" font-size="14" font-weight="bold">block '
                f"{layer}</text>"
            )
    drawn += [_text(c.words, c.left, -8, colours.quiet) for c in place.columns]
    return drawn


def _edges(graph: GraphData, place: Layout, theme: str) -> list[str]:
    """The edges as ribbons; those of later tokens' memories have a dashed outline."""
    drawn = []
    for one in ribbons(graph, place):
        edge = graph.edges[one.edge]
        colour, opacity = _paint(edge_colour(edge, graph[edge.source], graph.d_vocab, theme))
        says = f"{edge.source} → {edge.target}\n{edge_fact(edge, graph)}"
        rim = ""
        if edge_from_later(edge, graph):
            rim = f' stroke="{palette(theme).text}" stroke-dasharray="4 3"'
        drawn.append(
            f'<path d="{_outline(one)}" fill="{colour}" fill-opacity="{opacity}"{rim}>'
            f"<title>{for_xml(says)}</title></path>"
        )
    return drawn


def _outline(one: Ribbon) -> str:
    middle = _px((one.x0 + one.x1) / 2)
    left, right = _px(one.x0), _px(one.x1)
    ends = (one.y0, one.y1, one.y1 + one.width, one.y0 + one.width)
    a, b, c, d = (_px(y) for y in ends)
    there = f"M{left} {a}C{middle} {a} {middle} {b} {right} {b}"
    return f"{there}V{c}C{middle} {c} {middle} {d} {left} {d}Z"


def _nodes(graph: GraphData, place: Layout, theme: str, ringed: Collection[NodeId]) -> list[str]:
    drawn = []
    for node in graph.nodes:
        if (box := place.boxes.get(node.id)) is None:
            continue
        says = "\n".join([node_title(node), *node_facts(node, graph)])
        drawn.append(
            f'<rect x="{_px(box.left)}" y="{_px(box.top)}" width="{NODE_WIDTH}" '
            f'height="{_px(box.height)}" fill="{node_colour(node, graph.d_vocab, theme)}"'
            f"><title>{for_xml(says)}</title></rect>"
        )
    for name in ringed:
        # The ring is outside the node: inside, it would cover the colour of a thin node.
        if (box := place.boxes.get(name)) is not None:
            x, y, tall = box.left - 2.5, box.top - 2.5, box.height + 5
            drawn.append(
                f'<rect class="ring" x="{_px(x)}" y="{_px(y)}" width="{NODE_WIDTH + 5}" '
                f'height="{_px(tall)}" fill="none" stroke="{palette(theme).text}" '
                f'stroke-width="1.5"/>'
            )
    return drawn


def _feature_rims(place: Layout, theme: str) -> list[str]:
    """Larger boxes under the features: an outline would cover the colour of a thin node."""
    return [
        _box(b.left - 2, b.top - 2, NODE_WIDTH + 4, b.height + 4, FEATURE_COLOUR[theme])
        for name, b in place.boxes.items()
        if name.kind in FEATURE_KINDS
    ]


def _labels(graph: GraphData, place: Layout) -> str:
    drop = FONT_SIZE * _DROP
    return "".join(
        f'<text x="{_px(box.left + NODE_WIDTH + _LABEL_GAP)}" y="{_px(box.middle + drop)}">'
        f"{for_xml(short_label(node, graph))}</text>"
        for node in graph.nodes
        if (box := place.boxes.get(node.id)) is not None
    )


def _legend(shown: GraphData, theme: str) -> list[str]:
    """The scale of ranks, the two signs and the greys, as `legend.legend` has them."""
    text, d_vocab = palette(theme).text, shown.d_vocab
    drawn = [_text(legend.RANK_LEGEND, 12, 22, text), _text(legend.EDGE_LEGEND, 400, 22, text)]
    steps = 32
    for i in range(steps):
        drawn.append(_box(12 + 8 * i, 30, 8.3, 10, rank_colour((i + 0.5) / steps, theme)))
    for rank in sorted({0, *(r for r in (10, 1000) if r < d_vocab / 4), d_vocab - 1}):
        name = f"{rank:,}" if rank < d_vocab - 1 or rank == 0 else "last"
        x = 12 + rank_place(rank, d_vocab) * steps * 8
        drawn.append(
            f'<text x="{_px(x)}" y="54" text-anchor="{"start" if rank == 0 else "middle"}">'
            f"{name}</text>"
        )
    for x, negative, words in ((400, False, "coefficient > 0"), (540, True, "coefficient < 0")):
        colour, opacity = _paint(sign_colour(negative, theme))
        drawn += [_box(x, 30, 22, 10, colour, opacity), _text(words, x + 28, 40, text)]
    if any(edge_from_later(edge, shown) for edge in shown.edges):
        drawn += [
            f'<rect x="680.5" y="30.5" width="21" height="9" fill="none" '
            f'stroke="{text}" stroke-dasharray="4 3"/>',
            _text(legend.LATER_LEGEND, 708, 40, text),
        ]
    if shown.of_kind(*FEATURE_KINDS):
        drawn += [
            f'<rect x="13" y="62" width="8" height="8" fill="none" '
            f'stroke="{FEATURE_COLOUR[theme]}" stroke-width="2"/>',
            _text(legend.FEATURE_LEGEND, 30, 70, text),
        ]
    for i in range(12):
        colour, opacity = _paint(entropy_colour((i + 0.5) / 12, theme))
        drawn.append(_box(400 + 6 * i, 50, 6, 10, colour, opacity))
    drawn.append(_text(legend.GREY_LEGEND, 478, 60, text))
    return drawn


def _text(words: str, x: legend.Px, y: legend.Px, colour: str) -> str:
    return f'<text x="{_px(x)}" y="{_px(y)}" fill="{colour}">{for_xml(words)}</text>'


def _box(
    x: legend.Px,
    y: legend.Px,
    width: legend.Px,
    height: legend.Px,
    colour: str,
    opacity: str = "1",
) -> str:
    seen = "" if opacity == "1" else f' fill-opacity="{opacity}"'
    return (
        f'<rect x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}" '
        f'fill="{colour}"{seen}/>'
    )


def _paint(css: str) -> tuple[str, str]:
    """`rgba(0,158,115,0.55)` as a colour and an opacity: SVG 1.1 has no rgba."""
    *rgb, opacity = css.removeprefix("rgba(").removesuffix(")").split(",")
    return f"#{''.join(f'{int(part):02x}' for part in rgb)}", opacity


def _px(length: legend.Px) -> str:
    return f"{length:.2f}".rstrip("0").rstrip(".")
