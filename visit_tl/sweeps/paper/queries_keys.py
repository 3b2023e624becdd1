"""Queries and keys: whether their words are those of the memory values (VISIT, D.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.components import grouped, query_readings
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.query_key_way import normed_rows
from visit_tl.model.trace import Trace
from visit_tl.sweeps.overlap import top_overlap
from visit_tl.sweeps.paper.heads import places, zero_padded
from visit_tl.sweeps.prompt_run import PromptRun
from visit_tl.sweeps.registry import study

_PLACE: Final = {"layer": "int64", "head": "int64", "position": "int64"}


@dataclass(frozen=True, eq=False)
class _QueryKey:
    """The last token's queries and all keys, and both in the stream's space by the QK circuit.

    Attributes:
        query: Queries, with their norm if the model has one.
        keys: Keys as each query head sees them, likewise.
        query_read: `q W_K^T`.
        keys_read: `k W_Q^T`.
    """

    query: Float[Tensor, "layer head d_head"]
    keys: Float[Tensor, "layer head pos d_head"]
    query_read: Float[Tensor, "layer head d_model"]
    keys_read: Float[Tensor, "layer head pos d_model"]


def _query_key(run: PromptRun, rotary: str) -> _QueryKey:
    if rotary not in ("before", "after"):
        raise InputError(f"rotary is before or after, not {rotary!r}")
    view = run.view
    view.require_matrices("the study of queries and keys")
    turned = view.rotary and rotary == "after"
    normed = any(
        (norm := view.head_norm(layer, name)) is not None and norm.kind != "none"
        for layer in range(view.n_layers)
        for name in ("q_norm", "k_norm")
    )
    traces: dict[int, LayerTrace] = {}
    if turned or normed:
        # One more run: it finds and checks the rotation, and the scales of the norms.
        traces.update(Trace.run(view, view.tokens.encode(run.token_ids, None)).layers)
    parts = [_block(run, layer, traces.get(layer), turned) for layer in range(view.n_layers)]
    return _QueryKey(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _block(
    run: PromptRun, layer: int, trace: LayerTrace | None, turned: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of `_QueryKey` of one block.

    Args:
        run: The run.
        layer: The block.
        trace: Another run of the same prompt, where norms or rotary positions are asked for.
        turned: Whether rotary positions are applied.
    """
    view, weights = run.view, run.swept.weights[layer]
    W_K = weights.W_K
    each = view.kv_head(W_K.shape[0])
    W_K = W_K if len(each) == W_K.shape[0] else W_K[each]
    if trace is None:
        query, keys, query_norm, key_norm = run.query[layer], run.keys[layer], None, None
    else:
        query, query_norm, key_norm = trace.query, trace.query_norm, trace.key_norm
        if not turned and query_norm is not None and query_norm.frame is not None:
            raise InputError(
                f"{view.name} normalises queries and keys after their rotation, so they are not "
                f"known before it; ask for rotary='after'"
            )
        rows = normed_rows(view, layer, "k_norm", run.kept["keys"][layer])
        keys = grouped(rows, view.kv_head(rows.shape[1]))
    seen, framed = query, keys
    if turned and trace is not None and trace.rotation is not None:
        seen = trace.rotation.forward(query)
        keys = grouped(trace.keys, view.kv_head(trace.keys.shape[1]))
        framed = trace.rotation.transpose(keys)
    if query_norm is not None:
        framed = _per_key(query_norm).transpose(framed)
    keys_read = einsum(framed, weights.W_Q, "head pos d_head, head d d_head -> head pos d")
    return seen, keys, query_readings(query, W_K, key_norm), keys_read


def _per_key(norm: FrozenNorm) -> FrozenNorm:
    """The norm of each head's query, for all keys that the head sees."""
    return replace(norm, gain=rearrange(norm.gain, "head d_head -> head 1 d_head"))


@study(
    columns={**_PLACE, "qk": "float64", "naive": "float64", "naive_key": "float64"},
    by=["layer", "head"],
    source="VISIT, Fig. 19",
    paper=True,
)
def k_vs_v(run: PromptRun, k: int = 50, rotary: str = "before", naive: bool = True) -> Any:
    """I_k of the key and the value of one position, of each head.

    `qk` is of `k W_Q^T` and `v W_O`. `naive` is of both without weights, at the head's own entries
    of d_model and 0 elsewhere. `naive_key` is of the key so, and of `v W_O`.

    With rotary positions, `rotary="before"` reads keys before the rotation. "after" reads them as
    they were scored: `naive` rotated by their own position, and `qk` in the frame of the last
    token's query, as in a graph. Norms of queries and keys are included, as in a graph.

    `naive=False` leaves the naive columns NaN, as where heads are too wide to be padded.
    """
    read = run.once(("query key", rotary), lambda: _query_key(run, rotary))
    stacks = [read.keys_read, run.once("memories", lambda: run.written(run.values))]
    if naive:
        stacks.append(run.once(("padded keys", rotary), lambda: zero_padded(run, read.keys)))
        stacks.append(zero_padded(run, run.values))
    key, value, *padded = yield tuple(run.top(stack, k) for stack in stacks)
    layer, head, position = places(*read.keys.shape[:3])
    none = np.full(len(layer), np.nan)
    return {
        "layer": layer,
        "head": head,
        "position": position,
        "qk": top_overlap(key, value),
        "naive": top_overlap(padded[0], padded[1]) if naive else none,
        "naive_key": top_overlap(padded[0], value) if naive else none,
    }


@study(
    columns={**_PLACE, "qk": "float64", "naive": "float64"},
    by=["layer", "head"],
    source="VISIT, Fig. 20",
    paper=True,
)
def q_vs_k(run: PromptRun, k: int = 50, rotary: str = "before", naive: bool = True) -> Any:
    """I_k of the last token's query and the key of each position, of each head.

    `qk` is of `q W_K^T` and `k W_Q^T`. `naive` is of both without weights, at the head's own
    entries of d_model and 0 elsewhere. `rotary` and `naive` are as in `k_vs_v`; after rotation, the
    naive query is rotated too.
    """
    read = run.once(("query key", rotary), lambda: _query_key(run, rotary))
    stacks = [read.keys_read, read.query_read]
    if naive:
        stacks.append(run.once(("padded keys", rotary), lambda: zero_padded(run, read.keys)))
        stacks.append(zero_padded(run, read.query))
    key, query, *padded = yield tuple(run.top(stack, k) for stack in stacks)
    shape = read.keys.shape[:3]

    def overlap(keys: Tensor, queries: Tensor) -> np.ndarray:
        return top_overlap(keys.view(*shape, -1), queries.view(*shape[:2], 1, -1)).ravel()

    layer, head, position = places(*shape)
    none = np.full(len(layer), np.nan)
    return {
        "layer": layer,
        "head": head,
        "position": position,
        "qk": overlap(key, query),
        "naive": overlap(padded[0], padded[1]) if naive else none,
    }
