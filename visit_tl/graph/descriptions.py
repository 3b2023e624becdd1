"""Descriptions of nodes and edges in words: the lines that hovers and tables show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from visit_tl.escaping import clip, visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_KINDS, Kind, NodeId
from visit_tl.graph.lens_record import EMBEDDING, LensRecord, block_of
from visit_tl.graph.records import (
    Edge,
    Effect,
    FeatureSet,
    Gradient,
    Hidden,
    Node,
    TokenProb,
)

KIND_WORDS: Final[dict[Kind, str]] = {
    "resid_pre": "residual stream entering block {layer}",
    "attn_in": "input of attention {layer}, after ln1",
    "query": "all queries of block {layer}, read through W_K",
    "head_query": "query of head {head}, read through W_K",
    "key": "memory key at position {key_position}, read through W_Q",
    "value": "memory value of position {key_position}, after W_O",
    "head": "output of head {head}, after W_O",
    "z": "concatenated heads of block {layer}, after W_O",
    "attn_neuron": "row {neuron} of W_O",
    "b_O": "output bias of attention {layer}",
    "attn_out": "what attention {layer} adds to the residual stream",
    "opaque": "what a part of block {layer} that was not opened adds to the residual stream",
    "resid_mid": "residual stream between attention and MLP {layer}",
    "mlp_in": "input of MLP {layer}, after ln2",
    "router": "router of block {layer}: its rows by the weights of the chosen experts",
    "neuron_key": "column {neuron} of W_in",
    "neuron": "row {neuron} of W_out",
    "b_out": "output bias of MLP {layer}",
    "expert": "what {expert} of block {layer} adds, by its weight",
    "mlp_out": "what MLP {layer} adds to the residual stream",
    "resid_post": "residual stream leaving block {layer}",
    "final_norm": "last residual stream after the final norm",
    "logits": "the model's prediction",
    "feature": "feature {neuron} of {site} in block {layer}",
    "feature_error": "what the features of {site} in block {layer} miss",
    "feature_bias": "what the reconstruction of {site} in block {layer} has besides features",
}

COLUMN_WORDS: Final[dict[Kind, str]] = {
    "resid_pre": "resid_pre",
    "attn_in": "attn_in",
    "query": "query",
    "head_query": "queries",
    "key": "keys",
    "value": "values",
    "head": "heads",
    "z": "z",
    "attn_neuron": "W_O rows",
    "b_O": "W_O rows",
    "attn_out": "attn_out",
    "opaque": "not opened",
    "resid_mid": "resid_mid",
    "mlp_in": "mlp_in",
    "router": "router",
    "neuron_key": "W_in cols",
    "neuron": "neurons",
    "b_out": "neurons",
    "expert": "experts",
    "mlp_out": "mlp_out",
    "resid_post": "resid_post",
    "final_norm": "ln_final",
    "logits": "logits",
    "feature": "features",
    "feature_error": "features",
    "feature_bias": "features",
}

SCORE_WORDS: Final[dict[str, str]] = {
    "coefficient": "coefficient",
    "sum": "norm of what is added",
    "flow": "norm of the source",
}

COEFFICIENT_WORDS: Final[dict[str, str]] = {
    "key": "attention",
    "value": "attention",
    "head": "attention",
    "attn_neuron": "entry of z",
    "neuron_key": "pre-activation",
    "neuron": "activation",
    "feature": "activation",
    "expert": "router weight",
}

LATER: Final = ", a later token of the same segment"
"""What is added to the words about a memory of a later token."""

SHORT: Final = 12
"""Maximum columns of a token in a node's label; the hover shows the whole token."""


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def readable(text: str) -> str:
    """A name or a prompt as `escaping.visible` shows it, but with plain spaces."""
    return " ".join(visible(part) if part else "" for part in text.split(" ")) or visible(text)


def promoted_label(node: Node, limit: int | None = None) -> str:
    """The token that a node promotes, in readable form."""
    return visible(node.promoted[0].token, limit) if node.promoted else "⟨unread⟩"


def from_later(node: Node, graph: GraphData) -> bool:
    """Whether a node is the key or the value of a later token, seen because of a segment."""
    if node.id.key_position is None:
        return False
    return node.id.key_position > (graph.position if node.id.position is None else node.id.position)


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


def feature_set_words(one: FeatureSet) -> str:
    """Which SAE or transcoder it is, how many features are active, and what its error is."""
    name = clip(readable(one.name), 3 * SHORT)
    return (
        f"L{one.layer}.{one.site}: {name} ({one.architecture}), {one.active} of {one.n_features} "
        f"active, {error_words(one)}"
    )


def error_words(one: FeatureSet) -> str:
    """The norm of the error as a share of the norm of the whole."""
    return f"error {number(100 * one.error_share)}% of the norm"


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


_PATCHED: Final = 4
"""How many patched hooks are named; the rest are counted."""

_SEGMENTS: Final = 8
"""How many segments are named; the rest are counted."""


def heading(graph: GraphData) -> dict[str, str]:
    """The facts at the top of every view: model, prompt, position, target, prediction, pruning.

    Returns:
        Plain text by name, in the order to show it. Some are there only if they apply:
        `prediction` if the graph has the logits, `not opened` if a part of a block was not taken
        apart, `features` if it shows those of SAEs, `followed` if it was expanded, `patched` if the
        run was patched, `adapters` if the model had active ones, `lens` if it was not the logit
        lens, `segments` if attention was not causal.
    """
    inside = 0 <= graph.position < len(graph.tokens)
    here = visible(graph.tokens[graph.position]) if inside else "?"
    whose = "given" if graph.target_given else "the model's own prediction"
    words = {
        "model": readable(graph.model),
        "prompt": readable(graph.prompt),
        "position": f"{graph.position} ({here})",
        "target": f"{visible(graph.target)} ({whose})",
    }
    if "logits" in graph:
        words["prediction"] = "  ".join(
            f"{visible(r.token)} {number(r.prob)}" for r in graph["logits"].top[:3]
        )
    if closed := unopened_words(graph):
        words["not opened"] = closed
    words["hidden"] = hidden_words(graph.hidden_in_all)
    if graph.feature_sets:
        words["features"] = "  ".join(map(feature_set_words, graph.feature_sets))
    if graph.pruning.get("expand"):
        words["followed"] = followed_words(graph)
    if graph.patched:
        words["patched"] = patched_words(graph.patched)
    if graph.adapters:
        words["adapters"] = ", ".join(readable(name) for name in graph.adapters)
    if graph.lens is not None:
        words["lens"] = lens_words(graph.lens)
    if graph.segments:
        words["segments"] = segments_words(graph.segments)
    return words


def unopened_words(graph: GraphData) -> str:
    """The parts of blocks that were not opened, each with its blocks; empty if there are none."""
    found: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.unopened is not None and node.id.position is None and node.layer is not None:
            found.setdefault(node.unopened, []).append(node.layer)
    return "; ".join(f"{readable(what)} in {blocks_words(at)}" for what, at in found.items())


def blocks_words(layers: Iterable[int]) -> str:
    """Blocks in words, runs of them as ranges: `blocks 0..3, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    told = ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"block{'s' if len(runs) > 1 or len(runs[0]) > 1 else ''} {told}"


def patched_words(patched: tuple[str, ...]) -> str:
    """The hooks at which a run was patched."""
    more = len(patched) - _PATCHED
    names = ", ".join(readable(name) for name in patched[:_PATCHED])
    return f"{names} and {more} more" if more > 0 else names


def reading_words(node: Node, graph: GraphData, lens: LensRecord) -> str:
    """The lens that read a node, and which of its maps carried the node to the last block."""
    name, block = readable(lens.name), lens.block_of(node.id)
    if block is not None:
        of = "the embedding" if block == EMBEDDING else f"block {block}"
        return f"{name}, by the map of {of}"
    if node.layer is None or block_of(node.id) == graph.n_layers - 1:
        return f"{name}, as it is: it is at the last block's output"
    return "the logit lens: no map carries it"


def state_lens_words(lens: LensRecord) -> str:
    """The lens that read states, and whether the embedding is one of them."""
    with_map = EMBEDDING in lens.blocks
    return readable(lens.name) + ("" if with_map else "; the embedding by the logit lens")


def lens_words(lens: LensRecord) -> str:
    """The lens that read the nodes, and which nodes it has no map for."""
    embedding = "" if EMBEDDING in lens.blocks else "the embedding, "
    return (
        f"{readable(lens.name)}; {embedding}queries, keys and inputs of sub-blocks by the logit "
        f"lens"
    )


def segments_words(segments: tuple[tuple[int, int], ...]) -> str:
    """The ranges of tokens that see each other in both directions."""
    more = len(segments) - _SEGMENTS
    ranges = (f"{a}..{b - 1}" if b - a > 1 else str(a) for a, b in segments[:_SEGMENTS])
    told = ", ".join(ranges) + (f" and {more} more" if more > 0 else "")
    return f"{told} see all of themselves"


def bos_words(graph: GraphData) -> str:
    """Whether a BOS was put before the prompt, and whether the prompt begins with its own."""
    if graph.prepend_bos:
        more = ", which begins with another itself" if graph.bos_in_prompt else ""
        return f"the first is a BOS put before the prompt{more}"
    if graph.bos_in_prompt:
        return "no BOS put before: the prompt begins with one itself"
    return "no BOS put before"


def followed_words(graph: GraphData) -> str:
    """How far memories were followed back, and how many were not followed."""
    hops = max((column.hops for column in graph.columns), default=0)
    return (
        f"{len(graph.columns)} other positions, {hops} of at most {graph.pruning['expand']} "
        f"memories back; {len(graph.unfollowed)} shown memory values not followed"
    )


def hidden_words(hidden: Hidden) -> str:
    """How much pruning hid."""
    parts = (
        (hidden.heads, "heads"),
        (hidden.values, "memory values of shown heads"),
        (hidden.attn_neurons, "W_O rows"),
        (hidden.neurons, "MLP neurons"),
    )
    if hidden.features:
        parts = (*parts, (hidden.features, "active features"))
    return ", ".join(f"{count} {name}" for count, name in parts) + " not shown"
