"""A graph as plain text: for terminals, and for tests that compare it letter by letter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Layers
from visit_tl.escaping import clip, columns, table, visible
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.descriptions import (
    bos_words,
    from_later,
    heading,
    hidden_words,
    number,
    readable,
)
from visit_tl.graph.ids import Kind
from visit_tl.graph.node_descriptions import promoted_label, promoted_words
from visit_tl.graph.records import Effect, Hidden, Node, total
from visit_tl.view.style import promoted_rank
from visit_tl.view.window import choose, notice

WIDTH: Final = 110
"""Maximum number of terminal columns of a line."""

NEURONS: Final = 8
"""How many neurons of a block are listed; the rest are counted."""

_STATES: Final = (
    "resid_pre",
    "attn_in",
    "query",
    "z",
    "b_O",
    "attn_out",
    "opaque",
    "resid_mid",
    "mlp_in",
    "router",
    "b_out",
    "mlp_out",
    "resid_post",
)
_TOKEN: Final = 14
_EXPLANATION: Final = 36
_NARROW: Final = 9


@checked
def text(graph: Graph, *, layers: Layers | None = None) -> str:
    """The graph as text, at most 110 columns wide; the same graph gives the same text.

    Args:
        graph: The graph.
        layers: Consecutive blocks to show; None for all of up to four, or the last two of more,
            with a line on how to see the rest.

    Returns:
        A header, then block by block: the states with their top tokens, the heads with their top
        tokens and what they attend to, the strongest rows of W_O and MLP neurons, the positions
        that memories were followed back to, and how much pruning hid; then the final norm and the
        logits. Ends in a newline.

    Raises:
        InputError: a layer is not in the graph, or the layers have a gap.
    """
    shown = choose(graph, layers)
    lines = _header(graph, shown)
    blocks: dict[int | None, list[Node]] = defaultdict(list)
    for node in shown.nodes:
        blocks[node.layer].append(node)
    for layer in shown.layers:
        lines += ["", *_block(shown, layer, blocks[layer])]
    if ends := shown.of_kind("final_norm", "logits"):
        lines += ["", "end", *_state_table(ends)]
    return "\n".join(clip(line.rstrip(), WIDTH) for line in lines) + "\n"


def _header(graph: GraphData, shown: GraphData) -> list[str]:
    words = heading(shown)
    words["prompt"] = f'"{words["prompt"]}"'
    here = "the graph's position in [ ]"
    words["tokens"] = f"{_tokens(graph)}  ({bos_words(graph)}; {here})"
    words["layers"] = notice(graph, shown, "text")
    order = ("model", "prompt", "tokens", "position", "target", "prediction")
    order = (
        *order,
        "not opened",
        "layers",
        "hidden",
        "features",
        "followed",
        "patched",
        "adapters",
    )
    order = (*order, "lens", "segments")
    lines = []
    for name in (n for n in order if n in words):
        first, *rest = _wrap(words[name], WIDTH - 12)
        lines += [f"{name:<12}{first}", *(" " * 12 + line for line in rest)]
    return lines


def _tokens(graph: GraphData) -> str:
    shown = []
    for i, token in enumerate(graph.tokens):
        words = f"{i} {visible(token, 40)}"
        shown.append(f"[{words}]" if i == graph.position else words)
    return "  ".join(shown)


def _block(graph: GraphData, layer: int, here: list[Node]) -> list[str]:
    nodes = [node for node in here if node.id.position is None]
    lines = [f"block {layer} ".ljust(WIDTH, "─")]
    lines += _state_table([node for node in nodes if node.kind in _STATES])
    if heads := [node for node in nodes if node.kind == "head"]:
        lines += ["", *_head_table(graph, heads)]
    if experts := [node for node in nodes if node.kind == "expert"]:
        lines += ["", *_neuron_table(experts, "experts", graph.d_vocab, "router weight")]
    for kind, words in (("attn_neuron", "W_O rows"), ("neuron", "neurons")):
        if neurons := [node for node in nodes if node.kind == kind]:
            lines += ["", *_neuron_table(neurons, words, graph.d_vocab)]
    for site in dict.fromkeys(node.id.site for node in nodes if node.id.site is not None):
        own = [node for node in nodes if node.id.site == site]
        lines += ["", *_feature_table(graph, own)]
    if elsewhere := [node for node in here if node.id.position is not None]:
        lines += ["", *_column_table(graph, layer, elsewhere)]
    return [*lines, "", f"  hidden: {hidden_words(_hidden(graph, layer))}"]


def _hidden(graph: GraphData, layer: int) -> Hidden:
    columns = (column.hidden.get(layer) for column in graph.columns)
    return total([graph.hidden[layer], *(part for part in columns if part is not None)])


def _column_table(graph: GraphData, layer: int, nodes: list[Node]) -> list[str]:
    """The block at the other positions: what enters, what its heads say and read, what leaves."""
    rows = [
        [
            "followed",
            "enters as",
            "rank",
            "leaves as",
            "rank",
            "heads: what they say ← where they look",
        ]
    ]
    by_position: dict[int, dict[Kind, Node]] = {}
    for node in nodes:
        by_position.setdefault(node.id.position or 0, {})[node.kind] = node
    for position, by_kind in by_position.items():
        heads = [n for n in nodes if n.kind == "head" and n.id.position == position]
        later = " (later)" if position > graph.position else ""
        row = [f"{_token(graph, position)}@{position}{later}"]
        for kind in ("resid_pre", "resid_post"):
            state = by_kind.get(kind)
            row += ["", ""] if state is None else [promoted_label(state, _NARROW), str(state.rank)]
        says = "  ".join(
            f"{head.id.at(None)} ‹{promoted_label(head, _NARROW)}› ← {_looks_at(graph, head)}"
            for head in heads
        )
        rows.append([*row, says or "(read by this block)"])
    return table(rows, right=(2, 4))


def _state_table(nodes: Iterable[Node]) -> list[str]:
    """States with their top token; gradients and what descent adds, if any."""
    nodes = tuple(nodes)
    gradients = any(node.gradient is not None for node in nodes)
    more = ["gradient", "descent adds"] if gradients else []
    rows = [["state", "says", "rank", "p", "entropy", "norm", *more]]
    rows += [
        [
            node.kind,
            promoted_label(node, _TOKEN),
            str(node.rank),
            number(node.prob),
            number(node.entropy),
            number(node.norm),
            *(_descent(node) if gradients else ()),
        ]
        for node in nodes
    ]
    right = (2, 3, 4, 5, 6) if gradients else (2, 3, 4, 5)
    return table(rows, right=right) if len(rows) > 1 else []


def _descent(node: Node) -> list[str]:
    if node.gradient is None:
        return ["", ""]
    adds = " ".join(visible(read.token, _TOKEN) for read in node.gradient.bottom[:3])
    return [number(node.gradient.norm), adds]


def _head_table(graph: GraphData, heads: list[Node]) -> list[str]:
    """Heads with their top tokens and what they attend to; what was measured of them, if anything.

    Measured are attributions, effects, norms of gradients, norms of reversed attention, and
    roles.
    """
    measured = [
        (name, found)
        for name, of in _MEASURED.items()
        if any(found := [of(head) for head in heads])
    ]
    looks = "looks at: token@position attention ‹what its value says›"
    rows = [["head", "says", "rank", "p", "norm", *(name for name, _ in measured), looks]]
    for i, head in enumerate(heads):
        says = promoted_words(head, 2, _NARROW)
        numbers = [str(head.rank), number(head.prob), number(head.norm)]
        numbers += [found[i] for _, found in measured]
        rows.append([str(head.id), says, *numbers, _memories(graph, head)])
    return table(rows, right=tuple(range(2, 5 + len(measured))))


def _effect(effect: Effect) -> str:
    return f"{effect.value:+.3g}" if effect.exact else f"~{effect.value:+.3g}"


_MEASURED: Final[dict[str, Callable[[Node], str]]] = {
    "adds": lambda node: "" if node.attribution is None else f"{node.attribution:+.3g}",
    "effect": lambda node: "" if node.effect is None else _effect(node.effect),
    "gradient": lambda node: "" if node.gradient is None else number(node.gradient.norm),
    "reversed": lambda node: "" if node.reversed is None else number(node.reversed.norm),
    "roles": lambda node: " ".join(node.roles),
}
"""What may have been measured of a head, by the name of its column; empty where it was not."""


def _memories(graph: GraphData, head: Node) -> str:
    return "  ".join(
        f"{_memory(node, graph)} ‹{promoted_label(node, _NARROW)}›"
        for node in graph.values_of(head.id)
    )


def _looks_at(graph: GraphData, head: Node) -> str:
    return ", ".join(_memory(node, graph) for node in graph.values_of(head.id))


def _memory(node: Node, graph: GraphData) -> str:
    later = " (later)" if from_later(node, graph) else ""
    attention = "?" if node.coefficient is None else f"{node.coefficient:.2f}"
    return f"{visible(node.token or '', _NARROW)}@{node.id.key_position}{later} {attention}"


def _token(graph: GraphData, position: int) -> str:
    return visible(graph.tokens[position], _NARROW) if position < len(graph.tokens) else "?"


def _neuron_table(
    neurons: list[Node], words: str, d_vocab: int, number_words: str = "coefficient"
) -> list[str]:
    neurons = sorted(neurons, key=lambda n: (-abs(n.coefficient or 0.0), str(n.id)))
    rows = [[words, "promotes", "rank", number_words, "norm"]]
    rows += [
        [
            str(node.id),
            promoted_words(node, 3, _TOKEN),
            str(promoted_rank(node, d_vocab)),
            "?" if node.coefficient is None else f"{node.coefficient:+.3g}",
            number(node.norm),
        ]
        for node in neurons[:NEURONS]
    ]
    lines = table(rows, right=(2, 3, 4))
    more = len(neurons) - NEURONS
    return [*lines, f"  and {more} more in the graph"] if more > 0 else lines


def _feature_table(graph: GraphData, nodes: list[Node]) -> list[str]:
    """The features of one site, the largest first, then what they miss and the bias."""
    features = [node for node in nodes if node.kind == "feature"]
    features.sort(key=lambda n: (-_adds(n), str(n.id)))
    rest = [node for node in nodes if node.kind != "feature"]
    more = len(features) - NEURONS
    shown = [*features[:NEURONS], *rest]
    effects = any(node.effect is not None for node in shown)
    named = any(node.explanation is not None for node in shown)
    rows = [["features", "promotes", "rank", "activation", "adds"]]
    rows[0] += ["effect"] * effects + ["said to be"] * named
    for node in shown:
        says = promoted_words(node, 3, _NARROW)
        activation = "" if node.coefficient is None else f"{node.coefficient:+.3g}"
        row = [str(node.id), says, str(promoted_rank(node, graph.d_vocab)), activation]
        row.append(number(_adds(node)))
        row += [_MEASURED["effect"](node)] * effects
        said = "" if node.explanation is None else readable(node.explanation)
        row += [clip(said, _EXPLANATION)] * named
        rows.append(row)
    lines = table(rows, right=(2, 3, 4, 5)[: 3 + effects])
    return [*lines, f"  and {more} more in the graph"] if more > 0 else lines


def _adds(node: Node) -> float:
    """L2 norm of what a feature, an error or a bias adds to the residual stream."""
    return node.norm * (1.0 if node.coefficient is None else abs(node.coefficient))


def _wrap(words: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` columns, at double spaces where possible."""
    lines = [""]
    for part in words.split("  "):
        if lines[-1] and columns(lines[-1]) + 2 + columns(part) > width:
            lines.append("")
        lines[-1] += ("  " if lines[-1] else "") + part
        while columns(lines[-1]) > width:
            head = clip(lines[-1], width)[:-1]
            lines[-1:] = [head, lines[-1][len(head) :]]
    return lines
