"""Shares of a logit: inner products of all writes to the residual stream with one direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import DecompositionError, InputError
from visit_tl.graph.ids import Kind, NodeId
from visit_tl.model import components
from visit_tl.model.experts import ExpertsTrace
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import check_layer, tolerance


@dataclass(frozen=True)
class LayerShares:
    """What each part of one block adds to the logit, in logits.

    Attributes:
        resid_pre: The stream that enters the block, which is the sum of all parts before it.
        heads: Each head.
        values: Each memory value times its attention; a row sums to its head.
        attn_neurons: Each row of W_O times its entry of z, indexed over the concatenated heads.
        b_O: The output bias of the attention, a post-norm's bias included.
        neurons: Each MLP neuron times its activation; None in blocks without one MLP.
        b_out: The output bias of the MLP, a post-norm's bias included.
        parallel: Whether attention and MLP run in parallel, so that there is no `resid_mid`.
        opaque: A part that was not opened; None where there is none.
        experts: By chosen expert, its neurons times their activations and its weight; empty where
            there are none.
        expert_biases: By chosen expert, its output bias times its weight.
        closed_mlp: An MLP that was not opened; None where there is none.
    """

    resid_pre: float
    heads: Float[Tensor, " head"]
    values: Float[Tensor, "head pos"]
    attn_neurons: Float[Tensor, " entry"]
    b_O: float
    neurons: Float[Tensor, " d_mlp"] | None
    b_out: float
    parallel: bool
    opaque: float | None = None
    experts: Mapping[int, Float[Tensor, " d_mlp"]] = field(default_factory=dict)
    expert_biases: Mapping[int, float] = field(default_factory=dict)
    closed_mlp: float | None = None

    @property
    def mlp(self) -> float:
        """What the MLP adds; 0 where there is none."""
        if self.closed_mlp is not None:
            return self.closed_mlp
        if self.experts:
            return sum(self.expert(e) for e in self.experts) + self.b_out
        return 0.0 if self.neurons is None else float(self.neurons.double().sum()) + self.b_out

    def expert(self, expert: int) -> float:
        """What a chosen expert adds."""
        return float(self.experts[expert].double().sum()) + self.expert_biases.get(expert, 0.0)

    def of(self, node: NodeId) -> float | None:
        """The share of one node of this block; None if it writes nothing to the stream.

        Raises:
            InputError: the model has no such head, key position or neuron.
        """
        many: dict[Kind, tuple[Tensor | None, tuple[int | None, ...]]] = {
            "head": (self.heads, (node.head,)),
            "value": (self.values, (node.head, node.key_position)),
            "attn_neuron": (self.attn_neurons, (node.neuron,)),
            "neuron": (self.neurons, (node.neuron,)),
        }
        if node.expert is not None:
            return self._in_expert(node, node.expert)
        if node.kind in many:
            return _entry(node, *many[node.kind])
        z = float(self.heads.double().sum())
        attn, mlp = z + self.b_O, self.mlp
        first = attn + (self.opaque or 0.0)
        absent = self.neurons is None and not self.experts and self.closed_mlp is None
        bare = not len(self.heads)
        sums: dict[Kind, float | None] = {
            "resid_pre": self.resid_pre,
            "z": None if bare else z,
            "b_O": None if bare else self.b_O,
            "attn_out": None if bare else attn,
            "opaque": self.opaque,
            "resid_mid": None if absent or self.parallel else self.resid_pre + first,
            "b_out": None if absent or self.closed_mlp is not None else self.b_out,
            "mlp_out": None if absent else mlp,
            "resid_post": self.resid_pre + first + mlp,
        }
        return sums.get(node.kind)

    def _in_expert(self, node: NodeId, expert: int) -> float | None:
        """The share of an expert or of a part of one; None if it was not chosen."""
        if expert not in self.experts:
            return None
        if node.kind == "neuron":
            return _entry(node, self.experts[expert], (node.neuron,))
        if node.kind == "b_out":
            return self.expert_biases.get(expert)
        return self.expert(expert) if node.kind == "expert" else None

    def ids(self, kind: Kind, layer: int) -> list[NodeId]:
        """All nodes of one kind in this block."""
        heads = range(len(self.heads))
        if kind == "head":
            return [NodeId(kind, layer, h) for h in heads]
        if kind == "value":
            return [NodeId(kind, layer, h, j) for h in heads for j in range(self.values.shape[1])]
        if kind in ("attn_neuron", "neuron"):
            rows = self.attn_neurons if kind == "attn_neuron" else self.neurons
            if kind == "neuron" and self.experts:
                each = ((e, i) for e, own in self.experts.items() for i in range(len(own)))
                return [NodeId(kind, layer, neuron=i, expert=e) for e, i in each]
            return [NodeId(kind, layer, neuron=i) for i in range(0 if rows is None else len(rows))]
        if kind == "expert":
            return [NodeId(kind, layer, expert=e) for e in self.experts]
        return [NodeId(kind, layer)] if self.of(NodeId(kind, layer)) is not None else []


def _entry(node: NodeId, rows: Tensor | None, index: tuple[int | None, ...]) -> float | None:
    if rows is None:
        return None
    at = tuple(i for i in index if i is not None)
    if any(i >= size for i, size in zip(at, rows.shape, strict=True)):
        raise InputError(f"{node} is not there: its block has {list(rows.shape)} of its kind")
    return float(rows[at])


def total_of(layers: tuple[LayerShares, ...]) -> float:
    """What the first `resid_pre` and all blocks add, in logits."""
    return sum(_block_shares(layers))


def _block_shares(layers: tuple[LayerShares, ...]) -> list[float]:
    shares = [layers[0].resid_pre]
    for at in layers:
        shares += [float(at.heads.double().sum()) + at.b_O, at.opaque or 0.0, at.mlp]
    return shares


class Shares:
    """Computes the shares of one logit, or of the difference of two, from a trace.

    Args:
        view: The model.
        trace: A trace of all blocks.
        target: Token id.
        against: Token id whose logit is subtracted, if any.
    """

    def __init__(self, view: ModelView, trace: Trace, target: int, against: int | None) -> None:
        self.view, self.trace = view, trace
        self.chosen = [target] if against is None else [target, against]
        self.scale, self.cap = split_transform(view)
        last = trace.layers[view.n_layers - 1].resid_post
        self.normed, self.norm = view.final_norm(last), view.final_norm.freeze(last)
        columns = self.scale * view.W_U[:, self.chosen].to(last)
        signs = torch.tensor([1.0, -1.0][: len(self.chosen)], device=last.device)
        self.columns, self.signs = columns, signs
        self.reader = columns @ signs
        self.direction = self.norm.transpose(self.reader)

    def layer(self, layer: int) -> LayerShares:
        """Check the conservation laws of one block, and return its shares.

        Raises:
            DecompositionError: a law does not hold.
        """
        t = self.trace.layers[layer]
        w = components.stream_weights(self.view, layer, t)
        check_layer(self.view, layer, t, w, self.trace.replaced)
        direction, parallel = self.direction, t.resid_mid is None
        readers = einsum(w.W_O, direction, "head d_head d_model, d_model -> head d_head")
        values = components.grouped(t.values, self.view.kv_head(t.values.shape[1]))
        values = components.through_heads_norm(t, values, torch.arange(len(values)))
        read = einsum(values, readers, "head pos d_head, head d_head -> head pos")
        neurons = None
        if w.W_out is not None and t.mlp_post is not None:
            neurons = t.mlp_post * (w.W_out @ direction)
        b_out = w.b_out
        experts = components.stream_experts(self.view, layer, t)
        if experts is not None:
            b_out = components.experts_bias(self.view, layer, t)
        closed = self.view.parts[layer].mlp == "closed" and t.mlp_out is not None
        return LayerShares(
            resid_pre=float(t.resid_pre @ direction),
            heads=(t.z * readers).sum(-1),
            values=t.pattern * read,
            attn_neurons=(t.z * readers).flatten(),
            b_O=0.0 if w.b_O is None else float(w.b_O @ direction),
            neurons=neurons,
            b_out=0.0 if b_out is None else float(b_out @ direction),
            parallel=parallel,
            opaque=None if t.opaque is None else float(t.opaque @ direction),
            closed_mlp=float(t.mlp_out @ direction) if closed and t.mlp_out is not None else None,
            **({} if experts is None else _of_experts(experts, direction)),
        )

    def close(
        self, layers: tuple[LayerShares, ...], own: Float[Tensor, " d_vocab"]
    ) -> tuple[dict[str, float], float]:
        """Return what no node adds, and the relative error of the sum of all shares.

        Raises:
            DecompositionError: the error is above `conservation.tolerance`.
        """
        b_U, bias = self.view.b_U, self.norm.bias
        biases = torch.zeros_like(self.signs) if b_U is None else b_U[self.chosen].to(self.signs)
        remainder = {
            "final_norm.bias": 0.0 if bias is None else float(bias.to(self.reader) @ self.reader),
            "b_U": float(self.scale * biases @ self.signs),
        }
        parts = total_of(layers) + sum(remainder.values())
        # The model's own logits are capped, so ours are capped too before they are compared.
        ours = self.normed @ self.columns + self.scale * biases
        capped = ours if self.cap is None else self.cap(ours)
        difference = own[self.chosen].to(ours) - capped
        whole = float((ours + difference) @ self.signs)
        error = abs(whole - parts) / max(abs(whole), *map(abs, _block_shares(layers)), 1e-12)
        if not error <= tolerance(self.view):
            raise DecompositionError(
                f"the parts of {self.view.name} sum to {parts:.6g}, its own logit"
                f"{'' if len(self.chosen) == 1 else ' difference'} is {whole:.6g}: off by "
                f"{error:.2g} of the largest share (tolerance {tolerance(self.view):.0e}); between "
                f"the last hook_resid_post and the logits the model does more than a norm, an "
                f"unembedding, a scale and a cap{left_on(self.view.model)}"
            )
        return remainder, error


def _of_experts(found: ExpertsTrace, direction: Tensor) -> dict[str, Any]:
    """The shares of the neurons and of the biases of experts."""
    rows = zip(found.indices, found.post, found.W_out, strict=True)
    biases = zip(found.indices, found.b_out, strict=True)
    return {
        "experts": {e: post * (W_out @ direction) for e, post, W_out in rows},
        "expert_biases": {e: float(b @ direction) for e, b in biases if b is not None},
    }


def split_transform(view: ModelView) -> tuple[float, Callable[[Tensor], Tensor] | None]:
    """Split what a model does to its logits into a linear scale and a nonlinear cap, if any."""
    transform = view.output_transform
    if transform is None:
        return 1.0, None
    probe = torch.linspace(-100, 100, 8)
    scales = transform(probe.clone()) / probe
    scale = float(scales[0])
    if torch.allclose(scales, scales[:1], rtol=1e-6, atol=0.0):
        return scale, None
    return 1.0, transform
