"""The query and the key of one head as sums over what was written to the residual stream.

A query is a linear map of the stream once the scales of ln1 and of the query norm are held at their
values in this run; the same holds for keys. What these norms and the biases add is the same for
every part, so it is in rows of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.causal.qk.stream_parts import StreamParts
from visit_tl.errors import DecompositionError
from visit_tl.model import components
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.rotation import Rotation
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

SideName = Literal["query", "key"]


@dataclass(frozen=True, eq=False)
class Projection:
    """The map from the residual stream to one head's query or key, as it is scored, in float64.

    Attributes:
        ln1: The norm before the attention, its scale held.
        weight: W_Q of the head, or W_K of the head's group.
        bias: b_Q or b_K; None where there is none.
        norm: The query or key norm, its scale held; None where there is none.
        rotation: The rotation of the position; None where positions are not rotary.
    """

    ln1: FrozenNorm
    weight: Float[Tensor, "d_model d_head"]
    bias: Float[Tensor, " d_head"] | None
    norm: FrozenNorm | None
    rotation: Rotation | None

    def parts(self, rows: Float[Tensor, "part d_model"]) -> Float[Tensor, "part d_head"]:
        """What parts of the stream add to the query or key."""
        return self._after(self.ln1.parts(rows.double()) @ self.weight)

    def transpose(self, reader: Float[Tensor, " d_head"]) -> Float[Tensor, " d_model"]:
        """The direction in the stream whose product with a part is its product with `reader`."""
        x = reader if self.rotation is None else self.rotation.transpose(reader)
        x = x if self.norm is None else self.norm.transpose(x)
        return self.ln1.transpose(self.weight @ x)

    def constants(self, side: SideName) -> list[tuple[str, Float[Tensor, " d_head"]]]:
        """What biases add, by name: `ln1.bias`, `b_Q`, `q_norm.bias`, or those of the key."""
        letter, found = side[0], []
        if self.ln1.bias is not None and self.ln1.bias.any():
            found.append(("ln1.bias", self._after(self.ln1.bias @ self.weight)))
        if self.bias is not None:
            found.append((f"b_{letter.upper()}", self._after(self.bias)))
        if self.norm is not None and self.norm.bias is not None and self.norm.bias.any():
            found.append((f"{letter}_norm.bias", self._turned(self.norm.bias)))
        return found

    def _after(self, x: Tensor) -> Tensor:
        return self._turned(x if self.norm is None else self.norm.parts(x))

    def _turned(self, x: Tensor) -> Tensor:
        return x if self.rotation is None else self.rotation.forward(x)


def projection(view: ModelView, trace: Trace, layer: int, head: int, side: SideName) -> Projection:
    """The map to the query or key of one head at a trace's position."""
    t = trace.layers[layer]
    weights = components.stream_weights(view, layer, t)
    letter = "Q" if side == "query" else "K"
    weight = weights.W_Q if side == "query" else weights.W_K
    row = int(view.kv_head(len(weight))[head])
    bias = view.attention_bias(layer, f"b_{letter}")
    if t.latent is not None:
        bias = t.latent[2 if side == "query" else 3]
    norm = t.query_norm if side == "query" else t.key_norm
    ln1 = view.norm(layer, "ln1").freeze(t.resid_pre.double())
    return Projection(
        ln1=_double(ln1),
        weight=weight[row].double(),
        bias=None if bias is None else bias[row].double(),
        norm=None if norm is None else _double(norm, head),
        rotation=None if t.rotation is None else _double_rotation(t.rotation),
    )


def _double(norm: FrozenNorm, row: int | None = None) -> FrozenNorm:
    """A norm in float64, of one head if its gain has a row for each."""
    gain = norm.gain if row is None else norm.gain[row]
    bias = None if norm.bias is None else norm.bias.double()
    return replace(norm, gain=gain.double(), bias=bias)


def _double_rotation(rotation: Rotation) -> Rotation:
    return replace(rotation, cos=rotation.cos.double(), sin=rotation.sin.double())


@dataclass(frozen=True, eq=False)
class Side:
    """The query or the key of one head, as a sum.

    Attributes:
        names: The parts: those of `StreamParts`, neurons, then the biases.
        rows: What each adds.
        whole: The query or key itself, as the model scored it.
        projection: The map from the stream.
    """

    names: tuple[str, ...]
    rows: Float[Tensor, "part d_head"]
    whole: Float[Tensor, " d_head"]
    projection: Projection


def side_of(
    view: ModelView, trace: Trace, parts: StreamParts, layer: int, head: int, side: SideName
) -> Side:
    """The query or key of a head at a trace's position, taken apart.

    Raises:
        DecompositionError: the parts do not sum to it.
    """
    names, rows = parts.before(layer)
    found = projection(view, trace, layer, head, side)
    constants = found.constants(side)
    stacked = torch.cat([found.parts(rows), *(vector[None] for _, vector in constants)])
    whole = _scored(view, trace, layer, head, side).double()
    if not (error := relative(stacked.sum(0), whole)) <= tolerance(view):
        raise DecompositionError(
            f"what the parts of {view.name} add to the {side} of L{layer}H{head} at position "
            f"{trace.position} sums to it only up to {error:.2g} (tolerance "
            f"{tolerance(view):.0e}); between the residual stream and the {side} the model does "
            f"more than a norm, a matrix, a bias and a rotation{left_on(view.model)}"
        )
    return Side((*names, *(name for name, _ in constants)), stacked, whole, found)


def _scored(view: ModelView, trace: Trace, layer: int, head: int, side: SideName) -> Tensor:
    t = trace.layers[layer]
    if side == "query":
        return t.query[head] if t.rotation is None else t.rotation.forward(t.query[head])
    return t.keys[trace.position, int(view.kv_head(t.keys.shape[1])[head])]
