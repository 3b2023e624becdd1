"""Build a graph: trace + weights + lens -> GraphData (paper, Appendix A).

First, each block chooses the nodes to keep, by scores that need no readout; this gives a `Plan`.
Then one call of the lens reads all kept activations of all blocks; this gives a `HalfGraph`. It
still lacks the readouts of rows of weights, which are read for several half graphs together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.lens_record import LensRecord
from visit_tl.graph.records import FeatureSet, Hook, Node
from visit_tl.lens.readout import read as read_vectors
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import budget as prune
from visit_tl.xray.block import Block
from visit_tl.xray.conservation import check_logits
from visit_tl.xray.feature_nodes import ShownFeatures
from visit_tl.xray.garbage_collection import uncollected
from visit_tl.xray.memories import Read
from visit_tl.xray.node_reader import Half, Reader
from visit_tl.xray.other_positions import BUDGET as COLUMN
from visit_tl.xray.other_positions import Follow, add_columns
from visit_tl.xray.source_model import Source
from visit_tl.xray.unread_nodes import Draft


@dataclass(frozen=True)
class Plan:
    """A graph without readouts: the kept nodes, and all else that the graph will hold.

    Attributes:
        draft: Nodes without readouts, and edges.
        target_id: Token id whose rank and probability each node gets.
        facts: The other attributes of the graph.
    """

    draft: Draft
    target_id: int
    facts: Mapping[str, Any]


@uncollected()
def plan(
    view: ModelView,
    trace: Trace,
    *,
    target: int | None = None,
    budget: prune.Budget | None = None,
    follow: Follow | None = None,
    features: ShownFeatures | None = None,
) -> Plan:
    """Choose which nodes of a trace to keep.

    Args:
        view: The model.
        trace: What the model computed.
        target: Token id whose rank and probability each node gets; None is the model's own
            prediction.
        budget: What to keep; None is `prune.Budget()`.
        follow: How far to follow memories back; None is not at all.
        features: Feature modules whose features are shown; None is none.

    Raises:
        DecompositionError: the parts of a block do not sum to its whole.
    """
    budget = budget or prune.Budget()
    draft = Draft()
    errors, hidden = {}, {}
    reads: list[Read] = []
    sets: list[FeatureSet] = []
    for layer, traced in trace.layers.items():
        block = Block(draft, view, trace, layer, budget, None, reads)
        errors[layer] = block.check()
        hidden[layer] = block.add()
        if features is not None and features.sites.of_layer(layer):
            found, left, error = features.add(block)
            sets += found
            hidden[layer] = replace(hidden[layer], features=left)
            errors[layer] = max(errors[layer], error)
        if layer - 1 in trace.layers:
            ends = NodeId("resid_post", layer - 1), NodeId("resid_pre", layer)
            draft.link(*ends, "flow", _norm(traced.resid_pre))
    last = max(trace.layers)
    if last == view.n_layers - 1:
        check_logits(view, trace, trace.layers[last].resid_post)
        _add_final(draft, view, trace, last)
    columns = () if follow is None else add_columns(draft, view, trace, reads, follow)
    chosen = prediction(view, trace) if target is None else target
    text = view.tokens.text
    pruning = budget.as_dict() | ({} if follow is None else _following(follow))
    facts = {
        "model": view.name,
        "prompt": trace.prompt.text,
        "tokens": tuple(text(i) for i in trace.prompt.ids),
        "token_ids": trace.prompt.ids,
        "prepend_bos": trace.prompt.prepend_bos,
        "bos_in_prompt": trace.prompt.bos_in_prompt,
        "position": trace.position,
        "target": text(chosen),
        "target_given": target is not None,
        "layers": tuple(trace.layers),
        "n_layers": view.n_layers,
        "d_vocab": view.d_vocab,
        "pruning": pruning | ({} if features is None else {"features": features.count}),
        "hidden": hidden,
        "residual_error": errors,
        "columns": columns,
        "patched": trace.patched,
        "adapters": view.adapters.names,
        "segments": trace.prompt.spans,
        "feature_sets": tuple(sets),
        "source": Source(view.model, trace.standing, () if features is None else features.modules),
    }
    return Plan(draft, chosen, facts)


@dataclass(frozen=True)
class HalfGraph:
    """A graph whose rows of weights are not read yet, but together with those of other graphs.

    Attributes:
        half: Its nodes, with the readouts of activations, and its edges.
        facts: The other attributes of the graph.
    """

    half: Half
    facts: Mapping[str, Any]


@uncollected()
def read(reader: Reader, one: Plan) -> HalfGraph:
    """Read the activations of a plan; its vectors are dropped."""
    return HalfGraph(reader.read(one.draft, one.target_id), one.facts)


@uncollected()
def finish(reader: Reader, halves: Sequence[HalfGraph]) -> list[GraphData]:
    """Read the rows of weights of several half graphs together, and complete the graphs."""
    nodes = reader.nodes([one.half for one in halves])
    record = None if reader.lens is None else reader.lens.record
    return [_graph(one, own, record) for one, own in zip(halves, nodes, strict=True)]


def _graph(one: HalfGraph, nodes: tuple[Node, ...], lens: LensRecord | None) -> GraphData:
    order = {node.id: i for i, node in enumerate(nodes)}
    edges = sorted(one.half.draft.edges, key=lambda e: (order[e.target], order[e.source]))
    found = {"nodes": nodes, "edges": tuple(edges), "lens": lens}
    return GraphData(target_id=one.half.target, **found, **one.facts)


def _add_final(draft: Draft, view: ModelView, trace: Trace, last: int) -> None:
    """Add final norm and logits; the readout of both is the model's own prediction."""
    resid_post = trace.layers[last].resid_post
    normalised = view.final_norm(resid_post)
    norm, logits = NodeId("final_norm"), NodeId("logits")
    position = trace.position
    hooks = ("ln_final.hook_normalized", "unembed.hook_out")
    named = [Hook(h, (0, position)) if view.has_hook(h) else None for h in hooks]
    draft.one(norm, normalised, named[0])
    draft.one(logits, normalised, named[1])
    draft.link(NodeId("resid_post", last), norm, "flow", _norm(resid_post))
    draft.link(norm, logits, "flow", _norm(normalised))


def _following(follow: Follow) -> dict[str, str | int | None]:
    """How memories were followed back, as a graph records it."""
    column = {f"column_{name}": number for name, number in COLUMN.as_dict().items()}
    return {"expand": follow.hops, "max_nodes": follow.max_nodes} | column


def prediction(view: ModelView, trace: Trace) -> int:
    """The model's predicted token; without logits, the top token of the last block's readout."""
    if trace.logits is not None:
        return int(trace.logits.argmax())
    last = max(trace.layers)
    return int(read_vectors(view, trace.layers[last].resid_post[None], k=1).top_ids[0, 0])


def _norm(vector: Tensor) -> float:
    return float(vector.norm())
