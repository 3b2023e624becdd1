"""Encoders: from prepared inputs to features, one class a formula (docs/maths.md, "Features")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Encoder: TypeAlias = Callable[[Tensor], Tensor]
"""Prepared inputs, one a row, to their features, `[row, feature]`."""

Activation: TypeAlias = Callable[[Tensor], Tensor]
"""Pre-activations `[row, feature]` to features."""


@dataclass(frozen=True, eq=False)
class ReLU:
    """`max(pre, 0)`."""

    def __call__(self, pre: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        return pre.relu()


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """The pre-activation where it is above a threshold, else 0.

    Attributes:
        threshold: One for each feature.
        relu: Whether negative values are 0, whatever the threshold. SAELens does so;
            circuit-tracer does not.
    """

    threshold: Float[Tensor, " feature"]
    relu: bool = True

    def __call__(self, pre: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        # As numbers, since a product with booleans takes twice as long.
        above = torch.gt(pre, self.threshold, out=torch.empty_like(pre))
        return (pre.relu() if self.relu else pre) * above


@dataclass(frozen=True, eq=False)
class TopK:
    """The k greatest pre-activations of each row, else 0.

    Attributes:
        k: How many.
        by: What is compared: `value`, or `magnitude` (absolute TopK).
        relu: Whether negative values are 0. SAELens's TopK does so; absolute TopK and
            circuit-tracer's keep them.
    """

    k: int
    by: str = "value"
    relu: bool = True

    def __call__(self, pre: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        compared = pre.abs() if self.by == "magnitude" else pre
        kept = torch.topk(compared, self.k, dim=-1, sorted=False).indices
        values = pre.gather(-1, kept)
        return torch.zeros_like(pre).scatter_(-1, kept, values.relu() if self.relu else values)


@dataclass(frozen=True, eq=False)
class LinearEncoder:
    """An activation of `x W_enc + b_enc`.

    Attributes:
        W_enc: Encoder weights, a column for each feature.
        b_enc: Their biases.
        activation: What is made of the pre-activations.
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    activation: Activation

    def __call__(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        return self.activation(torch.addmm(self.b_enc, x, self.W_enc))


@dataclass(frozen=True, eq=False)
class GatedEncoder:
    """A gate of 0 or 1 times a magnitude, with shared weights (Rajamanoharan et al., 2024).

    Attributes:
        W_enc: Weights of the gate; those of the magnitude are `W_enc exp(r_mag)`.
        b_gate: Biases of the gate.
        r_mag: Logarithm of the scale of each feature's magnitude.
        b_mag: Biases of the magnitude.
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_gate: Float[Tensor, " feature"]
    r_mag: Float[Tensor, " feature"]
    b_mag: Float[Tensor, " feature"]

    def __call__(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        shared = x @ self.W_enc
        magnitude = (shared * self.r_mag.exp() + self.b_mag).relu()
        return magnitude * (shared + self.b_gate > 0)


@dataclass(frozen=True, eq=False)
class MatchingPursuit:
    """Features chosen one after the other, each the best for what is still unexplained.

    Attributes:
        W_dec: Decoder weights; the encoder is their transpose.
        residual_threshold: A row is done when the norm of what is unexplained is below it; 0 for
            never.
        max_iterations: How many steps at most.
        stop_on_duplicate_support: Whether a row is done when a step adds no new feature.
    """

    W_dec: Float[Tensor, "feature d_in"]
    residual_threshold: float
    max_iterations: int
    stop_on_duplicate_support: bool

    def __call__(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        """The features of each row."""
        rest = x
        found = x.new_zeros(len(x), len(self.W_dec))
        done: Bool[Tensor, " row"] = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.max_iterations):
            best = (rest @ self.W_dec.T).relu().argmax(1)
            direction = self.W_dec[best]
            value = (rest * direction).sum(1).relu() * ~done
            before = found != 0
            found = found.scatter_add(1, best[:, None], value[:, None])
            rest = rest - value[:, None] * direction
            if self.stop_on_duplicate_support:
                done = done | ((found != 0) == before).all(1)
            if self.residual_threshold > 0:
                done = done | (rest.norm(dim=1) < self.residual_threshold)
            if bool(done.all()):
                break
        return found
