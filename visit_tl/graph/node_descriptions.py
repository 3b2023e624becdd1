"""What a node or an edge is called and knows, in words: the lines that hovers and tables show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from visit_tl.escaping import clip, visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import (
    COEFFICIENT_WORDS,
    KIND_WORDS,
    SCORE_WORDS,
    SHORT,
    error_words,
    from_later,
    number,
    readable,
)
from visit_tl.graph.ids import FEATURE_KINDS, NodeId
from visit_tl.graph.lens_record import EMBEDDING, LensRecord, block_of
from visit_tl.graph.records import Edge, Effect, Gradient, Node, TokenProb

LATER: Final = ", a later token of the same segment"
"""What is added to the words about a memory of a later token."""

ZERO: Final = "a vector of zeros: it says nothing, and its tokens and rank are those of no vector"
"""What is said of a node whose vector is zero, such as a head that was set to zero."""


def promoted_label(node: Node, limit: int | None = None) -> str:
    """The token that a node promotes, in readable form; a vector of zeros promotes none."""
    if node.is_zero:
        return "⟨zero⟩"
    return visible(node.promoted[0].token, limit) if node.promoted else "⟨unread⟩"


def promoted_words(node: Node, count: int, limit: int | None = None, between: str = " ") -> str:
    """The first tokens that a node promotes, in readable form; none for a vector of zeros."""
    if node.is_zero:
        return promoted_label(node)
    return between.join(visible(read.token, limit) for read in node.promoted[:count])


def edge_from_later(edge: Edge, graph: GraphData) -> bool:
    """Whether an edge runs into or out of the key or the value of a later token."""
    return any(from_later(graph[end], graph) for end in (edge.source, edge.target))


def short_label(node: Node, graph: GraphData) -> str:
    """The label of a node in a figure: its token, and what distinguishes it from its neighbours."""
    says = promoted_label(node, SHORT)
    if node.kind == "head":
        return f"H{node.id.head} {says}"
    if node.kind == "expert":
        return f"{short_expert(node.id)} {says}"
    if node.unopened is not None:
        return f"{readable(node.unopened).partition(' ')[0]} {says}"
    if node.kind == "value":
        came_from = visible(node.token, SHORT) if node.token is not None else "?"
        later = "later " if from_later(node, graph) else ""
        return f"{later}{came_from} → {says}"
    if node.kind in ("b_O", "b_out"):
        return f"{node.kind} {says}"
    if node.kind in FEATURE_KINDS:
        return feature_label(node)
    return f"− {says}" if node.negative else says


def feature_label(node: Node, limit: int = 2 * SHORT) -> str:
    """The label of a feature: its index and explanation, else the token that it promotes."""
    says = promoted_label(node, SHORT)
    if node.kind != "feature":
        return f"{'error' if node.kind == 'feature_error' else 'b_dec'} {says}"
    known = node.explanation
    what = f"{'− ' * node.negative}{says}" if known is None else clip(readable(known), limit)
    return f"F{node.id.neuron} {what}"


def node_title(node: Node) -> str:
    """The id of a node and what it is."""
    words = KIND_WORDS[node.kind].format(
        layer=node.id.layer,
        head=node.id.head,
        key_position=node.id.key_position,
        neuron=node.id.neuron,
        site=node.id.site,
        expert=expert_words(node.id),
    )
    if node.id.expert is not None and node.kind != "expert":
        words += f", {expert_words(node.id)}"
    return f"{node.id} · {words}"


def expert_words(name: NodeId) -> str:
    """The expert of a node in words; shared experts are numbered by themselves."""
    if name.expert is None:
        return "no expert"
    if name.expert >= 0:
        return f"expert {name.expert}"
    return f"shared expert {-1 - name.expert}"


def short_expert(name: NodeId) -> str:
    """The expert of a node as ids have it: `E3`, or `ES0` for the first shared one."""
    expert = name.expert or 0
    return f"E{expert}" if expert >= 0 else f"ES{-1 - expert}"


def token_list(reads: Iterable[TokenProb]) -> str:
    """Tokens with their probabilities, in one line."""
    return "  ".join(f"{visible(r.token)} {r.prob:.2g}" for r in reads)


def looks_at(node: Node, graph: GraphData, count: int = 5) -> list[tuple[int, str, float]]:
    """What a head attends to most: position, token and attention, the largest first."""
    if not node.attention:
        return []
    order = sorted(range(len(node.attention)), key=lambda i: (-node.attention[i], i))  # type: ignore[index]
    return [
        (i, visible(graph.tokens[i]) if i < len(graph.tokens) else "?", node.attention[i])
        for i in order[:count]
    ]


def node_facts(node: Node, graph: GraphData) -> list[str]:
    """All other facts of a node, one per line."""
    facts = _origin_facts(node, graph)
    if node.is_zero:
        facts.append(ZERO)
    if node.negative:
        facts.append("subtracted: it promotes its bottom tokens")
    facts.append(f"top: {token_list(node.top)}")
    facts.append(f"bottom: {token_list(node.bottom)}")
    facts.append(
        f"target {visible(graph.target)}: rank {node.rank} of 0..{graph.d_vocab - 1}, "
        f"p = {number(node.prob)}"
    )
    numbers = f"norm {number(node.norm)} · entropy {number(node.entropy)} nats"
    if node.coefficient is not None:
        numbers += f" · coefficient {number(node.coefficient)}"
    facts.append(numbers)
    facts += measured_facts(node)
    if graph.lens is not None:
        facts.append(f"read by {reading_words(node, graph, graph.lens)}")
    if node.roles:
        facts.append(f"roles: {', '.join(node.roles)}")
    if places := looks_at(node, graph):
        here = graph.position if node.id.position is None else node.id.position
        told = (f"{t} @{i}{' (later)' * (i > here)} {number(a)}" for i, t, a in places)
        facts.append("looks at: " + "  ".join(told))
    if node.kind == "feature_error":
        own = (s for s in graph.feature_sets if (s.layer, s.site) == (node.layer, node.id.site))
        facts += [
            f"{error_words(one)} of {one.site}; {number(100 * one.explained)}% explained"
            for one in own
        ]
    if node.hook is not None:
        facts.append(f"{node.hook.name}[{', '.join(map(str, node.hook.index))}]")
    return facts


def measured_facts(node: Node) -> list[str]:
    """What was measured of a node, one per line."""
    facts = []
    if node.attribution is not None:
        facts.append(f"direct logit attribution {node.attribution:+.3g}")
    if node.effect is not None:
        facts.append(effect_words(node.effect))
    if node.gradient is not None:
        facts.append(gradient_words(node.gradient))
        if node.gradient.bottom:
            facts.append(f"a step down the gradient adds: {token_list(node.gradient.bottom)}")
    if node.reversed is not None:
        facts.append(f"reversed attention: norm {number(node.reversed.norm)}")
    return facts


def _origin_facts(node: Node, graph: GraphData) -> list[str]:
    """What a feature is said to be, what was not opened, and which token made a memory."""
    facts = []
    if node.explanation is not None:
        facts.append(f"said to be: {readable(node.explanation)}")
    if node.unopened is not None:
        facts.append(f"not opened: {readable(node.unopened)}")
    if node.token is not None:
        later = LATER if from_later(node, graph) else ""
        facts.append(f"made by {visible(node.token)} at position {node.id.key_position}{later}")
    return facts


def edge_fact(edge: Edge, graph: GraphData) -> str:
    """The meaning and the value of an edge's score."""
    target = graph[edge.target]
    what = SCORE_WORDS[edge.kind]
    if edge.kind == "coefficient":
        what = COEFFICIENT_WORDS.get(target.kind, what)
    fact = f"{what} {number(edge.score)}"
    if edge_from_later(edge, graph):
        fact += LATER
    return fact if edge.effect is None else f"{fact} · {effect_words(edge.effect)}"


def effect_words(effect: Effect) -> str:
    """What patching did to the metric, and whether that was measured or estimated."""
    how = "measured" if effect.exact else "estimated"
    return f"effect {effect.value:+.3g} ({how})"


def gradient_words(gradient: Gradient) -> str:
    """The norm of a gradient and the target's rank in it; a gradient that is 0 has no rank."""
    if gradient.rank is None:
        return f"gradient norm {number(gradient.norm)}"
    return f"gradient norm {number(gradient.norm)}, target rank {gradient.rank} in it"


def reading_words(node: Node, graph: GraphData, lens: LensRecord) -> str:
    """The lens that read a node, and which of its maps carried the node to the last block."""
    name, block = readable(lens.name), lens.block_of(node.id)
    if block is not None:
        of = "the embedding" if block == EMBEDDING else f"block {block}"
        return f"{name}, by the map of {of}"
    if node.layer is None or block_of(node.id) == graph.n_layers - 1:
        return f"{name}, as it is: it is at the last block's output"
    return "the logit lens: no map carries it"
