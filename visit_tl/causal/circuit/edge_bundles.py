"""Which edges between parts one edge of a FlowGraph stands for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from visit_tl.graph.circuit_edges import INPUT, LOGITS, Shape, model_edges
from visit_tl.graph.circuit_parts import Edge, Part
from visit_tl.graph.ids import NodeId


def bundle(shape: Shape, source: NodeId, target: NodeId) -> frozenset[Edge]:
    """The edges between parts that one edge of a graph stands for; empty if it is finer than them.

    Args:
        shape: The heads and MLPs of the model.
        source: Where the graph's edge begins.
        target: Where it ends.
    """
    if source.position is not None or target.position is not None:
        return frozenset()
    into, out_of = _into(shape), _out_of(shape)
    kinds = source.kind, target.kind
    if kinds in (("resid_post", "final_norm"), ("final_norm", "logits")):
        return into[LOGITS]
    if source.layer is None:
        return frozenset()
    layer, mlp = source.layer, Part("mlp", source.layer)
    heads = [Part("head", layer, h) for h in range(shape.n_heads)]
    if kinds == ("resid_pre", "attn_in"):
        return _all(into[head] for head in heads)
    if kinds in (("attn_in", "query"), ("query", "head_query")):
        read = heads if target.head is None else [heads[target.head]]
        return frozenset(edge for head in read for edge in into[head] if edge.input == "q")
    if kinds == ("head", "z"):
        return out_of[Part("head", layer, source.head)]
    if kinds in (("z", "attn_out"), ("attn_out", "resid_mid"), ("attn_out", "resid_post")):
        return _all(out_of[head] for head in heads)
    if target.kind == "mlp_in":
        return into[mlp]
    if kinds == ("mlp_out", "resid_post"):
        return out_of[mlp]
    return _passing(shape, source, target)


def _passing(shape: Shape, source: NodeId, target: NodeId) -> frozenset[Edge]:
    """The edges that pass a sub-block, or the border of two blocks, in the residual stream."""
    kinds, layer = (source.kind, target.kind), source.layer or 0
    before, within = (layer, 0), (layer, 1)  # heads come first in a block, then the MLP
    ends = {
        ("resid_pre", "resid_mid"): (before, within),
        ("resid_pre", "resid_post"): (before, (layer + 1, 0)),
        ("resid_mid", "resid_post"): (within, (layer + 1, 0)),
        ("resid_post", "resid_pre"): ((layer + 1, 0), (layer + 1, 0)),
    }
    if kinds not in ends:
        return frozenset()
    written_before, read_from = ends[kinds]
    return frozenset(
        edge
        for edge in model_edges(shape)
        if (edge.source == INPUT or edge.source.order < written_before)
        and (edge.target == LOGITS or edge.target.order >= read_from)
    )


def _all(groups: Iterable[frozenset[Edge]]) -> frozenset[Edge]:
    return frozenset().union(*groups)


@lru_cache(maxsize=4)
def _into(shape: Shape) -> dict[Part, frozenset[Edge]]:
    return _grouped(shape, "target")


@lru_cache(maxsize=4)
def _out_of(shape: Shape) -> dict[Part, frozenset[Edge]]:
    return _grouped(shape, "source")


def _grouped(shape: Shape, end: str) -> dict[Part, frozenset[Edge]]:
    groups: dict[Part, list[Edge]] = {}
    for edge in model_edges(shape):
        groups.setdefault(getattr(edge, end), []).append(edge)
    return {part: frozenset(edges) for part, edges in groups.items()}
