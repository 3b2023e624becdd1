"""attention_attribution: one attention score as a sum over pairs of what was written where."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Count,
    Flag,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
    Whole,
)
from visit_tl.causal.qk.attribution_result import POSITION, AttentionAttribution
from visit_tl.causal.qk.query_and_key import Side, SideName, side_of
from visit_tl.causal.qk.score_formula import ScoreFormula, products
from visit_tl.causal.qk.stream_parts import neuron_rows, neuron_shares
from visit_tl.causal.qk.traced_run import TracedRun, traced_run
from visit_tl.errors import DecompositionError, InputError
from visit_tl.graph.container import Graph, GraphData
from visit_tl.graph.ids import NodeId, NodeName
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import tolerance
from visit_tl.xray.source_model import other_run

_UNDERFLOW = 1e-30
"""Attention that is due below this may be 0 by rounding; above it, it was masked."""


@checked
def attention_attribution(
    model: Model,
    prompt: PromptLike | Graph,
    head: NodeName,
    query: Position | None,
    key: Position,
    *,
    neurons: Whole = 0,
    top: Count = 20,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
) -> AttentionAttribution:
    """Split a head's attention score between two positions into pairs of what was written at both.

    With the scales of ln1 and of query and key norms held, the query is a sum over the parts that
    wrote to the residual stream at its position, and so is the key. The score is the sum over all
    pairs (docs/maths.md, "Attention scores"). It is measured that it does sum to the score, and
    that the softmax of the block's scores is its attention.

    Args:
        model: As for `flow_graph`, or a ModelView. The run of the last prompt is kept with a
            ModelView, so further heads and pairs of that prompt need no run.
        prompt: A prompt as for `flow_graph`, or a graph, whose prompt is used.
        head: The head, such as `L9H6`.
        query: The position that looks; None is the graph's, or the last.
        key: The position that it looks at.
        neurons: On each side, this many MLP neurons become parts of their own: those with the
            largest absolute product with the other side. Their MLPs are then `L3.mlp_out without 2
            neurons`.
        top: How many pairs `parts` shows; all others are one part.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`; None is those of a graph, else causal.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a prompt, head or position that does not fit, or a key that the query does not
            see.
        DecompositionError: the parts do not sum to the score.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    if isinstance(prompt, GraphData):
        encoded, query = _prompt_of(view, prompt, query, segments)
    else:
        encoded = view.encode(prompt, prepend_bos, segments)
    layer, number = head_of(view, head)
    n = len(encoded.ids)
    at = view.check_position(-1 if query is None else query, n), view.check_position(key, n)
    run = traced_run(view, encoded)
    return attribute_score(view, run, layer, number, *at, neurons=neurons, top=top)


def _prompt_of(
    view: ModelView, graph: GraphData, query: int | None, segments: object
) -> tuple[Prompt, int]:
    """The prompt of a graph, and the query.

    Raises:
        InputError: the model is not the graph's, or would not repeat its run.
    """
    if (graph.n_layers, graph.d_vocab) != (view.n_layers, view.d_vocab):
        raise InputError(
            f"the graph is of {graph.model} ({graph.n_layers} layers, {graph.d_vocab} tokens), "
            f"the model is {view.name} ({view.n_layers} layers, {view.d_vocab} tokens)"
        )
    if (reason := other_run(graph, view.model)) is not None:
        raise InputError(reason)
    spans = graph.segments or None if segments is None else segments
    encoded = view.encode(list(graph.token_ids), None, spans)
    return encoded, graph.position if query is None else query


def head_of(view: ModelView, head: NodeName) -> tuple[int, int]:
    """The layer and number of a head.

    Raises:
        InputError: it is no head, or the model does not have it.
        ModelError: its block has no attention.
    """
    node = NodeId.parse(head)
    if node.kind != "head" or node.layer is None or node.head is None:
        raise InputError(f"{node} is no head; heads look like L9H6")
    if node.position is not None:
        raise InputError(f"{node} names a position; give the head as L{node.layer}H{node.head}, "
                         f"and its position as query={node.position}")  # fmt: skip
    if node.layer >= view.n_layers or node.head >= view.n_heads:
        raise InputError(
            f"{node} is not there: {view.name} has layers 0..{view.n_layers - 1} of heads "
            f"0..{view.n_heads - 1}"
        )
    view.require_attention("an attention score", [node.layer])
    return node.layer, node.head


def attribute_score(
    view: ModelView,
    run: TracedRun,
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    neurons: int = 0,
    top: int = 20,
) -> AttentionAttribution:
    """Do the same as `attention_attribution` from a traced run, of positions counted from 0.

    Raises:
        InputError: the query does not see the key.
        ModelError: the scores are made in a way that is not known.
        DecompositionError: the parts do not sum to the score.
    """
    name, prompt = f"L{layer}H{head}", run.prompt
    if key >= (seen := prompt.seen_until(query)):
        raise InputError(
            f"the key {key} comes after the query {query}, which sees 0..{seen - 1}; {name} has no "
            f"score for it"
        )
    traces = run.at(view, (query, key))
    with torch.no_grad():
        formula = run.formula(view, layer, query)
        _require_seen(view, traces[query], formula, layer, head, key)
        sides = _sides(view, run, traces, layer, head, query, key)
        if neurons and not view.attn_only:
            view.require_neurons("neurons= of an attention score", range(layer))
            sides = _with_neurons(view, traces, sides, layer, (query, key), neurons)
        one, other = sides
        matrix = (formula.scale * (one.rows @ other.rows.T)).cpu().numpy()
        score = formula.scale * float(one.whole @ other.whole)
    names = [one.names, other.names]
    bias = formula.bias(head, query, key)
    if bias is not None:
        matrix = np.pad(matrix, (0, 1))
        matrix[-1, -1] = bias
        score, names = score + bias, [(*side, POSITION) for side in names]
    trace = traces[query]
    return AttentionAttribution(
        model=view.name,
        prompt=prompt.text,
        tokens=tuple(view.tokens.text(i) for i in prompt.ids),
        token_ids=prompt.ids,
        head=NodeId("head", layer, head),
        query=query,
        key=key,
        score=score,
        capped=formula.capped(score),
        attention=min(1.0, float(trace.layers[layer].pattern[head, key])),
        scale=formula.scale,
        error=_error(view, matrix, score, f"{name} from {query} to {key}"),
        query_parts=names[0],
        key_parts=names[1],
        matrix=matrix,
        top=top,
        patched=trace.patched,
        adapters=view.adapters.names,
        segments=prompt.spans,
    )


def _sides(
    view: ModelView,
    run: TracedRun,
    traces: dict[int, Trace],
    layer: int,
    head: int,
    query: int,
    key: int,
) -> tuple[Side, Side]:
    places: tuple[tuple[SideName, int], ...] = (("query", query), ("key", key))
    one, other = (
        side_of(view, traces[at], run.parts(view, at), layer, head, side) for side, at in places
    )
    return one, other


def _with_neurons(
    view: ModelView,
    traces: dict[int, Trace],
    sides: tuple[Side, Side],
    layer: int,
    positions: tuple[int, int],
    count: int,
) -> tuple[Side, Side]:
    """Both sides with their largest neurons as parts of their own."""
    one, other = (
        _neurons_apart(view, traces[at], side, opposite.whole, layer, count)
        for at, side, opposite in zip(positions, sides, sides[::-1], strict=True)
    )
    return one, other


def _neurons_apart(
    view: ModelView, trace: Trace, side: Side, other: Tensor, layer: int, count: int
) -> Side:
    """One side with the neurons of the largest product with the other side taken out of MLPs."""
    direction = side.projection.transpose(other).float()
    shares = neuron_shares(view, trace, range(layer), direction)
    if not shares:
        return side
    stacked = torch.stack(shares)
    chosen = stacked.abs().flatten().topk(min(count, stacked.numel())).indices.sort().values
    rows, names = side.rows.clone(), list(side.names)
    added: list[Tensor] = []
    for block in (chosen // stacked.shape[1]).unique().tolist():
        own = chosen[chosen // stacked.shape[1] == block] % stacked.shape[1]
        found = side.projection.parts(neuron_rows(view, trace, block, own))
        at = names.index(str(NodeId("mlp_out", block)))
        rows[at] -= found.sum(0)
        plural = "" if len(own) == 1 else "s"
        names[at] = f"{names[at]} without {len(own)} neuron{plural}"
        added.append(found)
        names += [str(NodeId("neuron", block, neuron=i)) for i in own.tolist()]
    return Side(tuple(names), torch.cat([rows, *added]), side.whole, side.projection)


def _require_seen(
    view: ModelView, trace: Trace, formula: ScoreFormula, layer: int, head: int, key: int
) -> None:
    """Require that the mask of the block lets the query see the key.

    A masked key has no attention, though its score would give it some.

    Raises:
        InputError: it does not.
    """
    pattern = trace.layers[layer].pattern[head]
    if pattern[key] > 0:
        return
    scores = formula.scores(products(view, trace, layer), trace.position)[head]
    due = torch.exp(scores[key] - scores[pattern > 0].logsumexp(0))
    if due > _UNDERFLOW:
        raise InputError(
            f"position {key} is outside the window that blocks.{layer} of {view.name} sees from "
            f"{trace.position}; L{layer}H{head} has no score for it"
        )


def _error(view: ModelView, matrix: np.ndarray, score: float, where: str) -> float:
    """The relative error of the sum of all pairs.

    Raises:
        DecompositionError: it is above `conservation.tolerance`.
    """
    total = float(matrix.sum())
    sizes = [abs(score), *np.abs(matrix.sum(0)).tolist(), *np.abs(matrix.sum(1)).tolist()]
    error = abs(total - score) / max(*sizes, 1e-12)
    if not error <= tolerance(view):
        raise DecompositionError(
            f"the parts of the score of {where} in {view.name} sum to {total:.6g}, the score is "
            f"{score:.6g}: off by {error:.2g} of the largest part (tolerance "
            f"{tolerance(view):.0e}){left_on(view.model)}"
        )
    return error
