"""The gradient of a weight matrix as two factors: its inputs and the gradients at its outputs.

For `z = x W`, with x `[pos, d_in]`, the gradient of a loss at W is `X^T Delta`: the rows of X are
the inputs, those of Delta the vector-Jacobian products (VJPs), the gradients at z (Katz et al.,
2024, section 4). Only the factors are kept, never the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import DecompositionError, InputError
from visit_tl.model.backward import MATRICES, BackwardPass, shown_weights
from visit_tl.model.components import head_outputs
from visit_tl.model.hooks import hook_names
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.norm import Norm
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

READ: Final[Mapping[str, str]] = {
    "W_in": "inputs",
    "W_gate": "inputs",
    "W_out": "deltas",
    "W_Q": "inputs",
    "W_K": "inputs",
    "W_V": "inputs",
    "W_O": "deltas",
}
"""For each matrix, the factor that has the width of the residual stream and is read as words."""

# Directions of X^T Delta whose singular value is below this share of the largest are rounding.
_RANK: Final = 1e-5


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of the gradient of one weight matrix, float32; heads are side by side.

    Attributes:
        inputs: The inputs x_i of the matrix.
        deltas: The gradients of the loss at its outputs, delta_i.
    """

    inputs: Float[Tensor, "pos d_in"]
    deltas: Float[Tensor, "pos d_out"]

    def gradient(self) -> Float[Tensor, "d_in d_out"]:
        """The whole gradient, `X^T Delta`."""
        return self.inputs.T @ self.deltas

    def singular_values(self) -> Float[Tensor, " pos"]:
        """Singular values of the gradient, largest first, without making the matrix.

        With `X^T = Q_x R_x` and `Delta^T = Q_d R_d` they are those of `R_x R_d^T`, which is at
        most `[pos, pos]`.
        """
        left = torch.linalg.qr(self.inputs.double().T, mode="r").R
        right = torch.linalg.qr(self.deltas.double().T, mode="r").R
        return torch.linalg.svdvals(left @ right.T).float()

    def rank(self) -> int:
        """Rank of the gradient; at most the number of positions (Lemma 4.1)."""
        values = self.singular_values()
        return int((values > _RANK * values[:1]).sum()) if len(values) else 0

    def spectral_norm(self) -> float:
        """The largest singular value of the gradient."""
        return float(self.singular_values()[0])


def chosen_matrices(
    view: ModelView, matrices: Sequence[str] | None, layers: Sequence[int] | None = None
) -> tuple[str, ...]:
    """The matrices asked for, in the order of `MATRICES`; None is all that the blocks have.

    Raises:
        InputError: a name is unknown, or the model has no such matrix.
        ModelError: the blocks have none of them: no attention, or experts in place of one MLP.
    """
    at = range(view.n_layers) if layers is None else layers
    own = [m for m in MATRICES if all(_has(view, m, layer) for layer in at)]
    if not own:
        view.require_attention("a gradient of W_Q, W_K, W_V or W_O", at)
        view.require_neurons("a gradient of W_in or W_out", at)
    if matrices is None or tuple(matrices) == MATRICES:
        return tuple(own)
    for matrix in matrices:
        if matrix not in MATRICES:
            raise InputError(f"{matrix!r} is no matrix of a block; choose of {', '.join(MATRICES)}")
        if matrix not in own and matrix in _OF_ATTENTION:
            view.require_attention(f"a gradient of {matrix}", at)
        if matrix not in own and matrix not in _OF_ATTENTION:
            view.require_neurons(f"a gradient of {matrix}", at)
        if matrix not in own:
            raise InputError(f"{view.name} has no {matrix}; it has {', '.join(own)}")
    if not matrices:
        raise InputError(f"no matrices were chosen; {view.name} has {', '.join(own)}")
    return tuple(m for m in own if m in matrices)


_OF_ATTENTION: Final = ("W_Q", "W_K", "W_V", "W_O")


def _has(view: ModelView, matrix: str, layer: int) -> bool:
    parts = view.parts[layer]
    if matrix in ("W_Q", "W_K", "W_V") and view.latent(layer):
        return False
    if matrix in _OF_ATTENTION:
        if matrix != "W_O" and view.latent(layer):
            return False
        return parts.attention
    return parts.mlp == "neurons" and (matrix != "W_gate" or view.gated_at(layer))


STATES: Final = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""The slots of a block whose gradients are kept, to be put on the nodes of a graph."""


def needed_hooks(
    view: ModelView, layer: int, matrices: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The hooks that a block's factors and states need, by slot: required ones, optional ones."""
    names = hook_names(view, layer)
    attn = any(m in _OF_ATTENTION for m in matrices) and not view.latent(layer)
    mlp = any(m in ("W_in", "W_gate", "W_out") for m in matrices)
    slots = [slot for slot in STATES if slot in names]
    slots += ["query", "keys"] if attn else []
    slots += ["mlp_pre", "mlp_post"] if mlp else []
    required = {slot: names[slot] for slot in slots}
    if attn:
        # Before a norm of the values, where there is one: what W_V gives.
        required["values"] = f"blocks.{layer}.attn.hook_v"
    if mlp and view.gated_at(layer):
        required["gate"] = f"blocks.{layer}.mlp.hook_pre"
    optional = {slot: names[slot] for slot in ("attn_in", "mlp_in") if slot in names}
    return required, optional


def factors_of(
    view: ModelView, layer: int, run: BackwardPass, matrices: Sequence[str]
) -> dict[str, Factors]:
    """The factors of the gradients of a block's matrices.

    Args:
        view: The model.
        layer: The block.
        run: A run with the hooks of `needed_hooks`.
        matrices: Which matrices.
    """
    required, optional = needed_hooks(view, layer, matrices)
    hooks = required | {slot: name for slot, name in optional.items() if name in run.values}

    def value(slot: str) -> Tensor:
        return run.values[hooks[slot]]

    def delta(slot: str) -> Tensor:
        return run.gradients[hooks[slot]].flatten(1)

    def normed(slot: str, norm: str, source: str) -> Tensor:
        return value(slot) if slot in hooks else view.norm(layer, norm)(value(source))

    weights = view.weights(layer)
    found: dict[str, Factors] = {}
    if "query" in hooks:
        x = normed("attn_in", "ln1", "resid_pre")
        for matrix, slot in (("W_Q", "query"), ("W_K", "keys"), ("W_V", "values")):
            found[matrix] = Factors(x, delta(slot))
    if "W_O" in matrices:
        z, after = value("z"), view.norm(layer, "ln1_post")
        found["W_O"] = Factors(
            rearrange(z, "pos head d_head -> pos (head d_head)"),
            _before_norm(after, lambda: attention_output(z, weights), delta("attn_out")),
        )
    if "mlp_post" in hooks:
        x = normed("mlp_in", "ln2", "resid_mid" if "resid_mid" in hooks else "resid_pre")
        post, after = value("mlp_post"), view.norm(layer, "ln2_post")
        found["W_in"] = Factors(x, delta("mlp_pre"))
        if view.gated_at(layer):
            found["W_gate"] = Factors(x, delta("gate"))
        found["W_out"] = Factors(
            post, _before_norm(after, lambda: mlp_output(post, weights), delta("mlp_out"))
        )
    return {matrix: found[matrix] for matrix in matrices}


def attention_output(
    z: Float[Tensor, "pos head d_head"], weights: LayerWeights
) -> Float[Tensor, "pos d_model"]:
    """What W_O gives, before a post-norm."""
    heads = z.flatten(1).unflatten(1, weights.W_O.shape[:2])
    out = torch.stack([head_outputs(row, weights.W_O).sum(0) for row in heads])
    return out if weights.b_O is None else out + weights.b_O


def mlp_output(
    post: Float[Tensor, "pos d_mlp"], weights: LayerWeights
) -> Float[Tensor, "pos d_model"]:
    """What W_out gives, before a post-norm."""
    assert weights.W_out is not None
    out = post @ weights.W_out
    return out if weights.b_out is None else out + weights.b_out


def _before_norm(
    norm: Norm, output: Callable[[], Tensor], delta: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos d_model"]:
    """The gradient before a post-norm, from the gradient after it and the norm's input."""
    if norm.kind == "none":
        return delta
    with torch.inference_mode(False), torch.enable_grad():
        x = output().detach().clone().requires_grad_()
        return torch.autograd.grad(norm(x), x, delta.clone())[0]


def check_factors(
    view: ModelView,
    layer: int,
    factors: Mapping[str, Factors],
    run: BackwardPass,
) -> float:
    """The largest relative error of `X^T Delta` against autograd's own gradients.

    A matrix that the model shows but does not use has none (weights that TransformerLens has
    folded). There the inputs times the matrix must be the output whose gradient Delta is.

    Raises:
        DecompositionError: it is above the tolerance of the model's dtype.
    """
    worst = 0.0
    for matrix, pair in factors.items():
        gradient = run.weights[layer][matrix]
        if gradient is None:
            error = _output_error(view, layer, matrix, pair, run)
        elif _both_nothing(pair, gradient):
            error = 0.0
        else:
            error = relative(pair.gradient(), gradient)
        if not error <= tolerance(view):
            raise DecompositionError(
                f"the gradient of {matrix} in blocks.{layer} of {view.name} is not X^T Delta: it "
                f"is off by {error:.2g} of autograd's (tolerance {tolerance(view):.0e}); the layer "
                f"computes something that visit_tl does not know"
            )
        worst = max(worst, error)
    return worst


def _both_nothing(pair: Factors, gradient: Tensor) -> bool:
    """Whether both are rounding errors, as are the queries' gradients of a prompt of one token."""
    size = float(pair.inputs.norm() * pair.deltas.norm())
    return max(size, float(gradient.norm())) < 1e-9


_OUTPUTS: Final[Mapping[str, str]] = {
    "W_Q": "query",
    "W_K": "keys",
    "W_V": "values",
    "W_O": "attn_out",
    "W_in": "mlp_pre",
    "W_gate": "gate",
    "W_out": "mlp_out",
}


def _output_error(
    view: ModelView, layer: int, matrix: str, pair: Factors, run: BackwardPass
) -> float:
    """How far the inputs times a matrix are from its output; biases cancel between positions."""
    weight = shown_weights(view, layer)[matrix]
    hooks = needed_hooks(view, layer, [matrix])[0]
    found, out = pair.inputs @ weight, run.values[hooks[_OUTPUTS[matrix]]].flatten(1)
    after = {"W_O": "ln1_post", "W_out": "ln2_post"}.get(matrix)
    if after is not None and view.norm(layer, after).kind != "none":
        weights = view.weights(layer)
        bias = weights.b_O if matrix == "W_O" else weights.b_out
        found = view.norm(layer, after)(found if bias is None else found + bias)
    return relative(found - found[:1], out - out[:1]) if len(out) > 1 else 0.0
