"""A graph as the attribution-graph JSON that the viewers of Neuronpedia and circuit-tracer open.

Their format, as both publish it, has nodes at (layer, token) and weighted links. A flow graph is
converted as follows:

- a node is in the row of its block and the column of its position; a memory key or value is in the
  column of the token that made it, which shows that a head reads other tokens;
- the state that enters block 0 is the embedding of its token; tokens without one in the graph get
  an embedding without links, because the viewers write the prompt under the embeddings;
- the final norm and the logits are two rows above the last block; the one logit is the target's;
- a link's weight is the score of the edge. Scores of different kinds have different units
  (docs/maths.md); the viewers compare the links into one node.

There, `feature` is the index of a feature in a dictionary. Heads and states are in no dictionary,
so here it is a negative number, different for each node: the viewers then find no feature instead
of a wrong one.

Features of SAEs and transcoders are in one. Their ids are those of circuit-tracer: `node_id` is
layer_index_position, `feature` is Cantor's number of layer and index. Where the modules are on
Neuronpedia, the metadata names their source set, from which it fetches what it knows of a feature.
A block has one dictionary there; the features of a second site of a block are treated like heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import lens_words, number, readable
from visit_tl.graph.ids import Kind, NodeId
from visit_tl.graph.node_descriptions import effect_words, gradient_words, promoted_label
from visit_tl.graph.records import FeatureSet, Node
from visit_tl.version import __version__

TYPES: Final[dict[Kind, str]] = {
    "head_query": "query of a head",
    "key": "memory key",
    "value": "memory value",
    "head": "attention head",
    "attn_neuron": "row of W_O",
    "neuron_key": "column of W_in",
    "neuron": "MLP neuron",
    "b_O": "bias",
    "b_out": "bias",
    "expert": "expert",
    "opaque": "part that was not opened",
    "logits": "logit",
    "feature": "cross layer transcoder",
    "feature_error": "mlp reconstruction error",
    "feature_bias": "bias",
}
"""The names of our kinds of nodes in the viewers; all others are called `state`."""

# Look-alikes for two characters: circuit-tracer's viewer inserts labels as HTML, and both viewers
# take the logit's token from between quotes in its label.
_TWINS: Final = str.maketrans({"<": "‹", '"': "”"})


def to_neuronpedia(graph: GraphData, slug: str) -> dict[str, Any]:
    """The graph as plain JSON types, in the graph schema 1.0.0 of Neuronpedia.

    Args:
        graph: The graph.
        slug: Name of the graph in the viewer; circuit-tracer expects a file of that name.
    """
    embedded = {node.id.position for node in graph.nodes if _is_embedding(node.id)}
    own = range(len(graph.tokens))
    dictionaries = _dictionaries(graph)
    named = {node.id: _name(node.id, graph, dictionaries) for node in graph.nodes}
    bare = [i for i in own if (None if i == graph.position else i) not in embedded]
    return {
        "metadata": _metadata(graph, slug),
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "logits" if "logits" in graph else "",
            "sg_pos": "",
        },
        "nodes": [
            *(_embedding(f"E_{graph.token_ids[i]}_{i}", i, graph) for i in bare),
            *(
                _node(number, node, graph) | _dictionary_entry(node, graph, dictionaries)
                for number, node in enumerate(graph.nodes, 1)
            ),
        ],
        "links": [
            {
                "source": named[edge.source],
                "target": named[edge.target],
                "weight": edge.score,
                "kind": edge.kind,
                **({} if edge.effect is None else {"effect": edge.effect.value}),
            }
            for edge in graph.edges
        ],
    }


def _dictionaries(graph: GraphData) -> dict[int, FeatureSet]:
    """By block, the set of features that is its dictionary in the viewers."""
    found: dict[int, FeatureSet] = {}
    # Those on Neuronpedia first, then those of an MLP, which is what the viewers are made for.
    order = sorted(graph.feature_sets, key=lambda s: (s.neuronpedia is None, s.site != "mlp_out"))
    for one in order:
        found.setdefault(one.layer, one)
    return found


def _name(node: NodeId, graph: GraphData, dictionaries: Mapping[int, FeatureSet]) -> str:
    own = None if node.layer is None else dictionaries.get(node.layer)
    if node.kind != "feature" or own is None or own.site != node.site:
        return str(node)
    at = graph.position if node.position is None else node.position
    return f"{node.layer}_{node.neuron}_{at}"


def _dictionary_entry(
    node: Node, graph: GraphData, dictionaries: Mapping[int, FeatureSet]
) -> dict[str, Any]:
    """What a feature has instead of the fields of a node that is in no dictionary."""
    name, layer, index = _name(node.id, graph, dictionaries), node.layer, node.id.neuron
    if node.kind == "feature_error" and node.id.site != "mlp_out":
        attention = node.id.site in ("z", "attn_out")
        return {"feature_type": "lorsa error" if attention else "residual reconstruction error"}
    if name == str(node.id) or layer is None or index is None:
        return {}
    pair = (layer + index) * (layer + index + 1) // 2 + index
    known = dictionaries[layer].neuronpedia
    return {
        "node_id": name,
        "jsNodeId": name,
        "feature": pair,
        **({} if known is None else {"neuronpedia": f"{known}/{index}"}),
    }


def _of_neuronpedia(graph: GraphData) -> dict[str, Any]:
    """Model and source set at Neuronpedia, if all sets of features there are of the same."""
    parts = set()
    for one in graph.feature_sets:
        model, _, source = (one.neuronpedia or "").partition("/")
        layer, _, source_set = source.partition("-")
        if layer == str(one.layer) and source_set:
            parts.add((model, source_set))
    if len(parts) != 1:
        return {"schema_version": 1} if graph.feature_sets else {}
    ((model, source_set),) = parts
    details = {"feature_details": {"neuronpedia_source_set": source_set}}
    return {"schema_version": 1, "scan": model} | details


def _metadata(graph: GraphData, slug: str) -> dict[str, Any]:
    lens = "the logit lens" if graph.lens is None else lens_words(graph.lens).translate(_TWINS)
    about = (
        "A flow graph, not an attribution graph: heads, memory values, neurons and states of one "
        f"forward pass at position {graph.position}, read by {lens}. A link's weight is an "
        "attention, an activation or a norm."
    )
    return {
        "info": {"generator": {"name": "visit_tl", "version": __version__}, "description": about},
        "slug": slug,
        "scan": graph.model,
        "transcoder_list": [],
        "prompt": graph.prompt,
        "prompt_tokens": [_safe(token) for token in graph.tokens],
        "pruning_settings": dict(graph.pruning),
        "generation_settings": {"target": graph.target, "position": graph.position},
        **_of_neuronpedia(graph),
    }


def _node(place: int, node: Node, graph: GraphData) -> dict[str, Any]:
    at = graph.position if node.id.position is None else node.id.position
    if _is_embedding(node.id):
        return _embedding(str(node.id), at, graph)
    above = {"final_norm": 0, "logits": 1}
    layer = graph.n_layers + above[node.kind] if node.layer is None else node.layer
    logit = node.kind == "logits"
    return {
        "node_id": str(node.id),
        "feature": graph.target_id if logit else -place,
        "layer": str(layer),
        "ctx_idx": at if node.id.key_position is None else node.id.key_position,
        "feature_type": TYPES.get(node.kind, "state"),
        "token_prob": node.prob if logit else 0.0,
        "is_target_logit": logit,
        "jsNodeId": str(node.id),
        "clerp": _logit_label(node, graph) if logit else _label(node),
        "influence": None,
        "activation": node.coefficient,
    }


def _embedding(name: str, position: int, graph: GraphData) -> dict[str, Any]:
    return {
        "node_id": name,
        "feature": position,
        "layer": "E",
        "ctx_idx": position,
        "feature_type": "embedding",
        "token_prob": 0.0,
        "is_target_logit": False,
        "jsNodeId": name,
        "clerp": f"Emb: {_safe(graph.tokens[position])}",
        "influence": None,
        "activation": None,
    }


def _is_embedding(node: NodeId) -> bool:
    return node.kind == "resid_pre" and node.layer == 0


def _label(node: Node) -> str:
    reads = () if node.is_zero else node.promoted[:3]
    says = "  ".join(f"“{_safe(read.token)}”" for read in reads) or promoted_label(node)
    if node.explanation is not None:
        says = f"{_safe(node.explanation)} · {says}"
    facts = [f"{node.id} {says}", f"rank of target {node.rank}"]
    if node.attribution is not None:
        facts.append(f"attribution {number(node.attribution)}")
    if node.effect is not None:
        facts.append(effect_words(node.effect))
    if node.gradient is not None:
        facts.append(gradient_words(node.gradient))
    if node.reversed is not None:
        facts.append(f"reversed attention {number(node.reversed.norm)}")
    if node.roles:
        facts.append(_safe(f"roles {', '.join(node.roles)}"))
    return " · ".join(facts)


def _logit_label(node: Node, graph: GraphData) -> str:
    token = _safe(graph.target).replace("(p=", "( p=")
    return f'Output "{token}" (p={node.prob:.3f})'


def _safe(text: str) -> str:
    return readable(text).translate(_TWINS)
