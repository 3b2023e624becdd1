"""What goes through each direction of a channel in one forward pass (docs/maths.md, "Channels")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import Tensor

from visit_tl.circuits.channels.channel_use import ChannelUse
from visit_tl.errors import DecompositionError, InputError, ModelError
from visit_tl.model.components import head_outputs, stream_weights
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.norm import Norm
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView

if TYPE_CHECKING:
    from visit_tl.circuits.channels.channel_result import Channel

_SAME: Final = 1e-3
"""Largest rest, relative to the size of all terms. Measured: 4e-6 in float32 over 20 pairs of
SmolLM2-135M, 2e-6 over the architectures of the tests."""


@dataclass(frozen=True)
class _Run:
    """The reader's and the writer's block in one run.

    Attributes:
        view: The model.
        writer: The writer's block where the writer writes.
        there: The reader's block at that position.
        query: The reader's block at the query.
        key: The reader's block at the key.
    """

    view: ModelView
    writer: LayerTrace
    there: LayerTrace
    query: LayerTrace
    key: LayerTrace


def use(
    found: Channel, prompt: Any, query: int, key: int | None, prepend_bos: bool | None
) -> ChannelUse:
    """The terms of a channel in a prompt; see `Channel.in_prompt`."""
    view, edge = found.source, found.edge
    kind, layer = edge.input or "", edge.target.layer or 0
    _require_plain(view, found)
    tokens = view.encode(prompt, prepend_bos)
    query = view.check_position(query, len(tokens.ids))
    head = edge.target.head or 0
    if key is None:
        pattern = Trace.run(view, tokens, position=query, layers=[layer]).layers[layer].pattern
        at = int(pattern[head].argmax())
    else:
        at = view.check_position(key, len(tokens.ids))
    if at > query:
        raise InputError(f"the key {at} is after the query {query}, which cannot see it")
    run = _run(found, tokens, query, at)
    whole, total, far, scale = _whole(found, run, head, at)
    z = run.writer.z[edge.source.head or 0].double().cpu().numpy()
    along = scale * found.singular_values * (z @ found.from_z)
    if kind == "v":
        terms = np.square(along) / whole if whole else np.zeros_like(along)
    else:
        assert far is not None
        terms = along * (far.double().cpu().numpy() @ found.from_far)
    rest = whole - float(terms.sum())
    full = (
        np.linalg.matrix_rank(found.from_z) == view.d_head == np.linalg.matrix_rank(found.from_far)
    )
    if full and not abs(rest) <= _SAME * (abs(whole) + float(np.abs(terms).sum())):
        raise DecompositionError(
            f"the directions of {edge} in {view.name} sum to {terms.sum():.4g}, but the writer's "
            f"whole term is {whole:.4g}"
        )
    texts = tuple(view.tokens.text(i) for i in tokens.ids)
    unit = "norm" if kind == "v" else "q·k"
    return ChannelUse(found, texts, query, at, unit, terms, rest, whole, total)


def _require_plain(view: ModelView, found: Channel) -> None:
    layer, kind = found.edge.target.layer or 0, found.edge.input
    if found.offset:
        raise InputError(
            "in a prompt, queries and keys are turned by their own positions: take the channel "
            "with offset=0"
        )
    normed = [n for n in ("q_norm", "k_norm") if view.head_norm(layer, n) is not None]
    if kind != "v" and normed:
        raise ModelError(
            f"{view.name} has {' and '.join(normed)} in blocks.{layer}, so a score is no sum over "
            f"what its query and key are made of; a channel of kind 'v' can be used in a prompt"
        )


def _run(found: Channel, tokens: Prompt, query: int, key: int) -> _Run:
    view, edge = found.source, found.edge
    layers = range(edge.source.layer or 0, (edge.target.layer or 0) + 1)
    traces = Trace.run_at(view, tokens, list(dict.fromkeys((query, key))), layers=list(layers))
    at = traces[query if edge.input == "q" else key].layers
    first, last = layers[0], layers[-1]
    return _Run(view, at[first], at[last], traces[query].layers[last], traces[key].layers[last])


def _whole(
    found: Channel, run: _Run, head: int, key: int
) -> tuple[float, float, Tensor | None, float]:
    """The writer's whole term, what it is part of, the far side, and the scale of all norms.

    The term is computed from the run and the weights, without the directions.
    """
    view, edge = run.view, found.edge
    layer, first = edge.target.layer or 0, edge.source.layer or 0
    weights, before = view.weights(layer), view.norm(layer, "ln1")
    W_O = stream_weights(view, first, run.writer).W_O[edge.source.head or 0]
    part = before.freeze(run.there.resid_pre).parts(run.writer.z[edge.source.head or 0] @ W_O)
    scale = _scale(before, run.there.resid_pre) * _post_scale(view, first, run.writer)
    if edge.input == "v":
        group = view.kv_head(run.query.values.shape[1])[head]
        own = stream_weights(view, layer, run.query).W_O[head]
        attention = float(run.query.pattern[head, key])
        value = part @ view.value_weights(layer)[group]
        if run.query.heads_norm is not None:
            value = value * run.query.heads_norm.gain[head]
        term = attention * value @ own
        out = run.query.z[head] @ own
        if before.kind == "LN":
            term, out = term - term.mean(), out - out.mean()
        scale *= attention * _post_scale(view, layer, run.query)
        return float(term.norm()), float(out.norm()), None, scale
    group = view.kv_head(run.query.keys.shape[1])[head]
    asked, seen = run.query.query[head], run.query.keys[key, group]
    rotation = run.query.rotation
    in_query_frame = seen if rotation is None else rotation.transpose(seen)
    total = float(asked @ in_query_frame)
    if edge.input == "q":
        return float(part @ weights.W_Q[head] @ in_query_frame), total, in_query_frame, scale
    turned = asked
    if rotation is not None:
        assert run.key.rotation is not None
        turned = run.key.rotation.transpose(rotation.forward(asked))
    return float(part @ weights.W_K[group] @ turned), total, turned, scale


def _scale(norm: Norm, x: Tensor) -> float:
    """The number by which a norm multiplies this input, apart from its gain."""
    if norm.kind in ("none", "scale"):
        return 1.0
    return float(replace(norm, weight=None, bias=None).freeze(x).gain.flatten()[0])


def _post_scale(view: ModelView, layer: int, t: LayerTrace) -> float:
    """The number by which a post-norm multiplies what heads write; 1 where there is none."""
    norm = view.norm(layer, "ln1_post")
    if norm.kind == "none":
        return 1.0
    weights = view.weights(layer)
    whole = head_outputs(t.z, weights.W_O).sum(0)
    return _scale(norm, whole if weights.b_O is None else whole + weights.b_O)
