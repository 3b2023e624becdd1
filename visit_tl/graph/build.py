"""Trace + weights + lens -> FlowGraph, block by block (paper, Appendix A).

Scores first: each block chooses its survivors without a vocabulary. Then one call of the lens reads
all survivors of all blocks, and the readouts are laid into the nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from torch import Tensor

from visit_tl import components, lens
from visit_tl.graph import prune
from visit_tl.graph.conserve import check_layer, check_logits
from visit_tl.graph.draft import Draft, read_draft
from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.ids import Kind, NodeId
from visit_tl.graph.records import Hidden, Hook
from visit_tl.model.view import LayerWeights, ModelView
from visit_tl.trace import LayerTrace, Trace

_STATES: Final[tuple[Kind, ...]] = (
    "resid_pre",
    "attn_in",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_out",
    "resid_post",
)


def build(
    view: ModelView,
    trace: Trace,
    *,
    target: int | None = None,
    budget: prune.Budget | None = None,
    k: int = 5,
) -> FlowGraph:
    """Build the graph of a trace.

    Args:
        view: The model.
        trace: What it computed.
        target: Token id whose rank and probability the nodes carry; None is the model's own
            prediction.
        budget: What to keep; None is `prune.Budget()`.
        k: How many top and bottom tokens each node keeps.

    Raises:
        DecompositionError: the parts of a block do not sum to its whole.
    """
    budget = budget or prune.Budget()
    draft = Draft()
    errors, hidden = {}, {}
    for layer, traced in trace.layers.items():
        weights = components.stream_weights(view, layer, traced)
        errors[layer] = check_layer(view, layer, traced, weights)
        hidden[layer] = _block(draft, view, trace, layer, traced, weights, budget)
        if layer - 1 in trace.layers:
            ends = NodeId("resid_post", layer - 1), NodeId("resid_pre", layer)
            draft.link(*ends, "flow", _norm(traced.resid_pre))
    last = max(trace.layers)
    if last == view.n_layers - 1:
        check_logits(view, trace, trace.layers[last].resid_post)
        _end(draft, view, trace, last)
    chosen = prediction(view, trace) if target is None else target
    nodes = read_draft(view, draft, chosen, k)
    order = {node.id: i for i, node in enumerate(nodes)}
    text = view.tokens.text
    return FlowGraph(
        model=view.name,
        prompt=trace.prompt.text,
        tokens=tuple(text(i) for i in trace.prompt.ids),
        token_ids=trace.prompt.ids,
        prepend_bos=trace.prompt.prepend_bos,
        position=trace.position,
        target=text(chosen),
        target_id=chosen,
        target_given=target is not None,
        layers=tuple(trace.layers),
        n_layers=view.n_layers,
        d_vocab=view.d_vocab,
        pruning=budget.as_dict(),
        hidden=hidden,
        residual_error=errors,
        nodes=nodes,
        edges=tuple(sorted(draft.edges, key=lambda e: (order[e.target], order[e.source]))),
    )


def _block(
    draft: Draft,
    view: ModelView,
    trace: Trace,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    budget: prune.Budget,
) -> Hidden:
    """One block: A.1, A.2 and their connection A.3."""
    states = _states(draft, layer, t, trace.position)
    heads, values = _attention(draft, view, trace, layer, t, w, budget)
    attn_neurons = _attn_neurons(draft, view, layer, t, w, budget, trace.position)
    neurons = 0
    draft.link(states("resid_pre"), states("attn_in"), "flow", _norm(t.resid_pre))
    draft.link(states("attn_in"), states("query"), "flow", _norm(t.attn_in))
    if t.mlp_post is not None:
        neurons = _mlp(draft, layer, t, w, budget, trace.position)
        entry = "resid_pre" if t.resid_mid is None else "resid_mid"
        state = t.resid_pre if t.resid_mid is None else t.resid_mid
        draft.link(states(entry), states("mlp_in"), "flow", _norm(state))
    _sums(draft, layer, t)
    return Hidden(heads=heads, values=values, attn_neurons=attn_neurons, neurons=neurons)


def _states(draft: Draft, layer: int, t: LayerTrace, position: int) -> Callable[[Kind], NodeId]:
    """The block's states and sub-block outputs; returns the maker of their ids."""
    for kind in _STATES:
        vector = getattr(t, kind)
        if vector is not None:
            hook = Hook(t.hooks[kind], (0, position))
            draft.one(NodeId(kind, layer), vector, hook)
    return lambda kind: NodeId(kind, layer)


def _sums(draft: Draft, layer: int, t: LayerTrace) -> None:
    """The residual stream: what is added to what, with the norm of what is added."""
    parts: list[tuple[Kind, Tensor]] = [("resid_pre", t.resid_pre), ("attn_out", t.attn_out)]
    if t.resid_mid is not None:
        for kind, vector in parts:
            draft.link(NodeId(kind, layer), NodeId("resid_mid", layer), "sum", _norm(vector))
        parts = [("resid_mid", t.resid_mid)]
    if t.mlp_out is not None:
        parts.append(("mlp_out", t.mlp_out))
    for kind, vector in parts:
        draft.link(NodeId(kind, layer), NodeId("resid_post", layer), "sum", _norm(vector))


def _attention(
    draft: Draft,
    view: ModelView,
    trace: Trace,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    budget: prune.Budget,
) -> tuple[int, int]:
    """Queries, memories and heads (A.1, 2-5); returns how many heads and values are hidden."""
    outputs = components.head_outputs(t.z, w.W_O)
    norms = components.row_norms(outputs)
    kept = prune.keep_heads(norms, budget)
    pattern = t.pattern[kept]
    rows, positions = prune.keep_values(pattern, budget)
    kv = view.kv_head(w.W_K.shape[0]).to(kept.device)
    queries = components.query_readings(t.query, w.W_K[kv], t.key_norm)
    query, z = NodeId("query", layer), NodeId("z", layer)
    draft.one(query, queries.sum(0), Hook(t.hooks["query"], (0, trace.position)))
    draft.one(z, outputs.sum(0), Hook(t.hooks["z"], (0, trace.position)))
    heads = kept.tolist()
    where = trace.position
    draft.add(
        [NodeId("head_query", layer, h) for h in heads],
        queries[kept],
        [{"hook": Hook(t.hooks["query"], (0, where, h))} for h in heads],
    )
    draft.add(
        [NodeId("head", layer, h) for h in heads],
        outputs[kept],
        [
            {"hook": Hook(t.hooks["z"], (0, where, h)), "attention": tuple(row)}
            for h, row in zip(heads, pattern.tolist(), strict=True)
        ],
    )
    query_norms = components.row_norms(queries).tolist()
    for h in heads:
        draft.link(query, NodeId("head_query", layer, h), "flow", query_norms[h])
        draft.link(NodeId("head", layer, h), z, "sum", float(norms[h]))
    _memories(draft, view, trace, layer, t, w, kept[rows], positions)
    alive = int((pattern > 0).sum())
    return view.n_heads - len(heads), alive - len(positions)


def _memories(
    draft: Draft,
    view: ModelView,
    trace: Trace,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    heads: Tensor,
    positions: Tensor,
) -> None:
    """Kept memory keys and values, one a (head, position) pair, each with its attention."""
    key_kv = view.kv_head(t.keys.shape[1]).to(heads.device)[heads]
    value_kv = view.kv_head(t.values.shape[1]).to(heads.device)[heads]
    norm = t.query_norm
    norm = None if norm is None else replace(norm, gain=norm.gain[heads])
    keys = components.key_readings(t.keys[positions, key_kv], w.W_Q[heads], t.rotation, norm)
    values = components.memory_values(t.values[positions, value_kv], w.W_O[heads])
    attention = t.pattern[heads, positions].tolist()
    pairs = list(zip(heads.tolist(), positions.tolist(), strict=True))
    stacks: list[tuple[Kind, str, Tensor, Tensor]] = [
        ("key", "keys", keys, key_kv),
        ("value", "values", values, value_kv),
    ]
    for kind, slot, vectors, kv in stacks:
        draft.add(
            [NodeId(kind, layer, h, j) for h, j in pairs],
            vectors,
            [
                {
                    "hook": Hook(t.hooks[slot], (0, j, group)),
                    "token": view.tokens.text(trace.prompt.ids[j]),
                    "coefficient": a,
                }
                for (_, j), group, a in zip(pairs, kv.tolist(), attention, strict=True)
            ],
        )
    for (h, j), a in zip(pairs, attention, strict=True):
        query, key = NodeId("head_query", layer, h), NodeId("key", layer, h, j)
        value, head = NodeId("value", layer, h, j), NodeId("head", layer, h)
        for source, target in ((query, key), (key, value), (value, head)):
            draft.link(source, target, "coefficient", a)


def _attn_neurons(
    draft: Draft,
    view: ModelView,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    budget: prune.Budget,
    position: int,
) -> int:
    """Kept rows of W_O and the output bias (A.1, 6); returns how many rows are hidden."""
    rows = components.attn_neurons(w.W_O)
    coefficients = t.z.flatten()
    norms = components.row_norms(rows)
    kept = prune.keep_neurons(coefficients, norms, budget)
    z, out = NodeId("z", layer), NodeId("attn_out", layer)
    neurons, entries = kept.tolist(), coefficients[kept].tolist()
    draft.add(
        [NodeId("attn_neuron", layer, neuron=n) for n in neurons],
        rows[kept],
        [
            {"hook": Hook(t.hooks["z"], (0, position, *divmod(n, view.d_head))), "coefficient": c}
            for n, c in zip(neurons, entries, strict=True)
        ],
    )
    for n, c, norm in zip(neurons, entries, norms[kept].tolist(), strict=True):
        node = NodeId("attn_neuron", layer, neuron=n)
        draft.link(z, node, "coefficient", c)
        draft.link(node, out, "sum", abs(c) * norm)
    _bias(draft, NodeId("b_O", layer), w.b_O, out)
    return int((coefficients != 0).sum()) - len(neurons)


def _mlp(
    draft: Draft,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    budget: prune.Budget,
    position: int,
) -> int:
    """Kept MLP neurons as key and value, and the output bias (A.2); returns how many are hidden."""
    assert t.mlp_post is not None and t.mlp_pre is not None
    assert w.W_in is not None and w.W_out is not None
    norms = components.row_norms(w.W_out)
    kept = prune.keep_neurons(t.mlp_post, norms, budget)
    source, out = NodeId("mlp_in", layer), NodeId("mlp_out", layer)
    neurons, pre, post = kept.tolist(), t.mlp_pre[kept].tolist(), t.mlp_post[kept].tolist()
    stacks: list[tuple[Kind, Tensor, str, list[float]]] = [
        ("neuron_key", w.W_in[:, kept].T, "mlp_pre", pre),
        ("neuron", w.W_out[kept], "mlp_post", post),
    ]
    for kind, vectors, slot, numbers in stacks:
        draft.add(
            [NodeId(kind, layer, neuron=n) for n in neurons],
            vectors,
            [
                {"hook": Hook(t.hooks[slot], (0, position, n)), "coefficient": c}
                for n, c in zip(neurons, numbers, strict=True)
            ],
        )
    for n, inner, activation, norm in zip(neurons, pre, post, norms[kept].tolist(), strict=True):
        key, value = NodeId("neuron_key", layer, neuron=n), NodeId("neuron", layer, neuron=n)
        draft.link(source, key, "coefficient", inner)
        draft.link(key, value, "coefficient", activation)
        draft.link(value, out, "sum", abs(activation) * norm)
    _bias(draft, NodeId("b_out", layer), w.b_out, out)
    return int((t.mlp_post != 0).sum()) - len(neurons)


def _bias(draft: Draft, node: NodeId, bias: Tensor | None, out: NodeId) -> None:
    if bias is not None:
        draft.one(node, bias, None)
        draft.link(node, out, "sum", _norm(bias))


def _end(draft: Draft, view: ModelView, trace: Trace, last: int) -> None:
    """The final norm and the logits, which read alike: the model's own prediction."""
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


def prediction(view: ModelView, trace: Trace) -> int:
    """The model's own next token; of a cache without logits, what its last block reads as."""
    if trace.logits is not None:
        return int(trace.logits.argmax())
    last = max(trace.layers)
    return int(lens.read(view, trace.layers[last].resid_post[None], k=1).top_ids[0, 0])


def _norm(vector: Tensor) -> float:
    return float(vector.norm())
