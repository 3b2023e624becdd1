"""Put gradients and reversed attention on the nodes of a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visit_tl.errors import GraphError
from visit_tl.graph.container import G, GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Gradient, Reversed, TokenProbs
from visit_tl.lens.readout import read
from visit_tl.model.components import head_outputs
from visit_tl.model.view import ModelView
from visit_tl.xray.source_model import model_of

if TYPE_CHECKING:
    from visit_tl.gradients.backward_lens_result import BackwardLens
    from visit_tl.gradients.reversed_attention_result import ReversedAttention

_K = 5


def gradients_onto(lens: BackwardLens, graph: G, model: Any) -> G:
    """The graph with the gradients of a lens on its nodes; see `BackwardLens.onto`.

    The final norm and the logits, which are no hooks of a block, get none.
    """
    _require_same_prompt(lens, graph)
    view = ModelView(model_of(lens, model))
    ids: list[NodeId] = []
    own: list[Tensor] = []
    readable: list[Tensor] = []
    heads: dict[tuple[int, int], Tensor] = {}
    for node in graph:
        where = node.id
        states = lens.by_state.get(-1 if where.layer is None else where.layer)
        position = graph.position if where.position is None else where.position
        if states is None or where.layer is None:
            continue
        if where.kind == "head" and where.head is not None:
            at = where.layer, position
            if at not in heads:
                z = view.by_head(where.layer, states["z"][position])
                heads[at] = head_outputs(z, view.weights(where.layer).W_O)
            z = view.by_head(where.layer, states["z"][position])
            found = z[where.head], heads[at][where.head]
        elif where.kind in states and where.kind != "z":
            found = states[where.kind][position], states[where.kind][position]
        else:
            continue
        ids.append(where)
        own.append(found[0].norm())
        readable.append(found[1])
    read_as = dict(zip(ids, _gradients(view, graph, own, readable, lens.normalised), strict=True))
    return replace(graph, nodes=tuple(replace(n, gradient=read_as.get(n.id)) for n in graph.nodes))


def _gradients(
    view: ModelView,
    graph: GraphData,
    norms: list[Tensor],
    vectors: list[Tensor],
    normalised: bool,
) -> list[Gradient]:
    if not vectors:
        return []
    stack = torch.stack(vectors)
    lengths = torch.linalg.vector_norm(stack, dim=-1)
    scale = torch.where(lengths > 0, lengths, 1.0)[:, None] if normalised else 1.0
    out = read(view, stack / scale, [graph.target_id], k=min(_K, view.d_vocab))
    texts = view.tokens.texts({*out.top_ids.flatten().tolist(), *out.bottom_ids.flatten().tolist()})
    top, bottom = (
        [TokenProbs(i, p, texts) for i, p in zip(ids.tolist(), probs.tolist(), strict=True)]
        for ids, probs in (
            (out.top_ids, out.top_probs),
            (out.bottom_ids, out.bottom_probs),
        )
    )
    ranks = out.target_ranks[:, 0].tolist()
    return [
        Gradient(float(norm), ranks[i], top[i], bottom[i])
        if lengths[i] > 0
        else Gradient(float(norm), None)
        for i, norm in enumerate(norms)
    ]


def reversed_onto(found: ReversedAttention, graph: G) -> G:
    """The graph with reversed attention on its heads; see `ReversedAttention.onto`."""
    _require_same_prompt(found, graph)
    put: dict[NodeId, Reversed] = {}
    heads = [n.id for n in graph if n.kind == "head" and n.layer in found.layers]
    for where in sorted(heads, key=lambda one: one.layer or 0):
        layer, head = where.layer, where.head
        assert layer is not None and head is not None
        position = graph.position if where.position is None else where.position
        norm = float(found.norms[found.layers.index(layer), head])
        put[where] = Reversed(norm, tuple(found.map(layer, head)[position].tolist()))
    return replace(graph, nodes=tuple(replace(n, reversed=put.get(n.id)) for n in graph.nodes))


def _require_same_prompt(found: BackwardLens | ReversedAttention, graph: GraphData) -> None:
    if graph.token_ids != found.token_ids:
        raise GraphError(
            f"the gradients are of {len(found.token_ids)} other tokens than the graph's "
            f"{len(graph.token_ids)}: {graph.prompt!r}; take them of the graph's prompt"
        )
    if graph.segments != found.segments:
        raise GraphError(
            f"the gradients are of a run with the segments {list(found.segments)}, the graph's has "
            f"{list(graph.segments)}; take them under the graph's"
        )
