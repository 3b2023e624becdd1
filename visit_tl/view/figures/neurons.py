"""The strongest neurons of a block as bars, each with the tokens that it promotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import plotly.graph_objects as go

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Layer, Name, NumberName, Theme, Whole
from visit_tl.errors import InputError
from visit_tl.escaping import clip, columns, for_plotly, table, visible
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.descriptions import heading
from visit_tl.graph.ids import Kind, NodeId
from visit_tl.graph.node_descriptions import node_facts, node_title, promoted_words
from visit_tl.graph.records import Node
from visit_tl.view.style import FONT_SIZE, ground, node_colour, palette, promoted_rank

KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "mlp": ("neuron", "MLP neurons"),
    "attention": ("attn_neuron", "rows of W_O"),
}

_NUMBERS: Final[dict[str, tuple[str, Callable[[Node], float | None]]]] = {
    "coefficient": ("coefficient", lambda node: node.coefficient),
    "adds": (
        "coefficient × norm of the row",
        lambda node: None if node.coefficient is None else node.coefficient * node.norm,
    ),
    "attribution": ("direct logit attribution", lambda node: node.attribution),
    "effect": ("effect", lambda node: None if node.effect is None else node.effect.value),
}
_BAR: Final = 22
_TOP, _BOTTOM = 92, 46
_PLOT: Final = 420
_RIGHT: Final = 30
_WORDS: Final = 3
_LABEL: Final = 46
_CHARACTER: Final = 6.8


@checked
def neurons(
    graph: Graph,
    layer: Layer | None = None,
    *,
    part: Name = "mlp",
    by: NumberName = "coefficient",
    most: Whole = 25,
    theme: Theme = "light",
) -> go.Figure:
    """Draw neurons as bars, from the highest number to the lowest; colour: rank of the target.

    Args:
        graph: The graph; only neurons that pruning kept can be drawn.
        layer: The block; None for the last one that has such neurons.
        part: `mlp`, or `attention` for the rows of W_O.
        by: `coefficient`, `adds` (coefficient times norm: the length of what the neuron adds to
            the stream), `attribution` or `effect`.
        most: How many to show: those with the largest absolute numbers.
        theme: `light` or `dark`.

    Raises:
        InputError: the part, number or theme is unknown, the block has no such neurons, or the
            number was not measured.
    """
    shown, layer, left_out = chosen(graph, layer, part=part, by=by, most=most)
    words, value = _NUMBERS[by]
    colours = palette(theme)
    labels = [_label(node) for node in shown]
    left = round(max(columns(label) for label in labels) * _CHARACTER) + 24
    numbers = [value(node) for node in shown]
    figure = go.Figure(
        go.Bar(
            x=numbers,
            y=list(range(len(shown))),
            orientation="h",
            width=0.72,
            marker={
                "color": [node_colour(node, graph.d_vocab, theme) for node in shown],
                "line": {"width": 0},
            },
            customdata=[_hover(node, graph) for node in shown],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    figure.update_layout(
        **ground(colours),
        width=left + _PLOT + _RIGHT,
        height=_BAR * len(shown) + _TOP + _BOTTOM,
        margin={"l": left, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        title=_title(graph, layer, part, left_out, left + _PLOT),
        xaxis={
            "title": {"text": words, "standoff": 8},
            "gridcolor": colours.rule,
            "zerolinecolor": colours.quiet,
            "ticks": "",
            "fixedrange": True,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(shown))),
            "ticktext": [for_plotly(label) for label in labels],
            "range": [len(shown) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "ticks": "",
            "fixedrange": True,
        },
    )
    return figure


@checked
def text(
    graph: GraphData,
    layer: Layer | None = None,
    *,
    part: Name = "mlp",
    by: NumberName = "coefficient",
    most: Whole = 25,
) -> str:
    """The bars of `neurons` as text; ends in a newline."""
    shown, layer, left_out = chosen(graph, layer, part=part, by=by, most=most)
    words, value = _NUMBERS[by]
    rows = [[KINDS[part][1], "promotes", "rank", words]]
    rows += [
        [
            str(node.id),
            promoted_words(node, _WORDS, 14, "  "),
            str(promoted_rank(node, graph.d_vocab)),
            f"{value(node):+.3g}",
        ]
        for node in shown
    ]
    lines = [f"block {layer}, target {visible(graph.target)}", *table(rows, right=(2, 3))]
    lines += [f"  {left_out}"] if left_out else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def chosen(
    graph: GraphData, layer: int | None, *, part: str, by: str, most: int
) -> tuple[list[Node], int, str]:
    """The neurons to show, highest number first; their block; and what is left out, in words.

    Raises:
        InputError: as `neurons`.
    """
    for asked, known, what in ((part, KINDS, "part"), (by, _NUMBERS, "by")):
        if asked not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}; got {asked!r}")
    if type(most) is not int or most < 1:
        raise InputError(f"most must be an integer of at least 1, got {most!r}")
    kind, words = KINDS[part]
    own = [node for node in graph.of_kind(kind) if node.id.position is None]
    having = sorted({node.layer for node in own if node.layer is not None})
    if not having or (layer is not None and layer not in having):
        where = f"the blocks {', '.join(map(str, having))} have some" if having else "it has none"
        raise InputError(
            f"this graph of {graph.model} keeps no {words}"
            f"{'' if layer is None else f' of block {layer}'}; {where}"
        )
    layer = having[-1] if layer is None else layer
    value = _NUMBERS[by][1]
    known = [(value(node), node) for node in own if node.layer == layer]
    measured = [(v, n) for v, n in known if v is not None and math.isfinite(v)]
    if not measured:
        how = {"attribution": "g.attribution().onto(g)", "effect": "g.effects(metric).onto(g)"}
        raise InputError(
            f"no neuron of block {layer} has a measured {by}"
            f"{f'; {how[by]} measures it' if by in how else ''}"
        )
    largest = sorted(measured, key=lambda pair: (-abs(pair[0]), str(pair[1].id)))[:most]
    shown = [node for _, node in sorted(largest, key=lambda pair: -pair[0])]
    return shown, layer, _left_out(graph, layer, part, len(known) - len(shown))


def _left_out(graph: GraphData, layer: int, part: str, more: int) -> str:
    hidden = graph.hidden.get(layer)
    pruned = 0
    if hidden is not None:
        pruned = hidden.neurons if part == "mlp" else hidden.attn_neurons
    counts = [f"{more} more in the graph"] * (more > 0) + [f"{pruned} pruned"] * (pruned > 0)
    return " and ".join(counts)


def _label(node: Node) -> str:
    said = promoted_words(node, _WORDS, 14) or "⟨unread⟩"
    name = NodeId(node.kind, node.layer, neuron=node.id.neuron)
    return clip(f"{name}  {said}", _LABEL)


def _hover(node: Node, graph: GraphData) -> str:
    facts = "<br>".join(map(for_plotly, node_facts(node, graph)))
    return f"<b>{for_plotly(node_title(node))}</b><br>{facts}"


def _title(graph: GraphData, layer: int, part: str, left_out: str, width: int) -> dict[str, Any]:
    first = f"{KINDS[part][1]} of block {layer} of {heading(graph)['model']}"
    colours = "colour: its rank among what the neuron promotes, blue first, orange last"
    second = f"target {visible(graph.target, 24)} · {colours}"
    third = f"not shown: {left_out}" if left_out else "all of the block"
    small = f'<span style="font-size:{FONT_SIZE + 1}px">'
    return {
        "text": f"<b>{for_plotly(clip(first, width // 9))}</b><br>"
        f"{small}{for_plotly(clip(second, width // 7))}</span><br>{small}{third}</span>",
        "x": 0,
        "xref": "container",
        "pad": {"l": 14, "t": 14},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
