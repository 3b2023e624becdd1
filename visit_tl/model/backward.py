"""One forward pass and one backward pass: activations and their gradients, as plain tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.model.hooks import FwdHooks
from visit_tl.model.replay.differentiable import gradients_enabled
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

# TransformerLens's names of the matrices of a block: where each is read, and its axes. Grouped
# keys and values of a HookedTransformer are stored under the second name.
_SHOWN: Final[Mapping[str, tuple[str, tuple[str, ...], str]]] = {
    "W_Q": ("attn", ("W_Q",), "head d_in d_out -> d_in (head d_out)"),
    "W_K": ("attn", ("_W_K", "W_K"), "head d_in d_out -> d_in (head d_out)"),
    "W_V": ("attn", ("_W_V", "W_V"), "head d_in d_out -> d_in (head d_out)"),
    "W_O": ("attn", ("W_O",), "head d_in d_out -> (head d_in) d_out"),
    "W_in": ("mlp", ("W_in",), "d_in d_out -> d_in d_out"),
    "W_gate": ("mlp", ("W_gate",), "d_in d_out -> d_in d_out"),
    "W_out": ("mlp", ("W_out",), "d_in d_out -> d_in d_out"),
}
MATRICES: Final = ("W_in", "W_gate", "W_out", "W_Q", "W_K", "W_V", "W_O")
"""The weight matrices of a block."""

AtGradient = Callable[[Tensor, Tensor], None]
"""A function of the tensor at a hook and its gradient, both float32 without the batch axis."""


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """What one forward and one backward pass of a prompt computed, without the batch axis.

    Attributes:
        logits: The model's logits, float32 or better, detached.
        loss: The value that was differentiated.
        values: The tensor at each hook, float32.
        gradients: The gradient of the loss at each hook, float32; 0 where the loss does not depend
            on it.
        weights: For each layer asked for, autograd's gradient of each matrix, `[d_in, d_out]` with
            the heads side by side; None for a matrix that the model shows but does not use (weights
            that were folded into others).
    """

    logits: Float[Tensor, "pos d_vocab"]
    loss: float
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    weights: Mapping[int, Mapping[str, Float[Tensor, "d_in d_out"] | None]]


def run_backward(
    view: ModelView,
    prompt: Prompt,
    names: Iterable[str],
    loss: Callable[[Tensor], Tensor],
    *,
    optional: Iterable[str] = (),
    passed: Mapping[str, AtGradient] | None = None,
    weights_of: Sequence[int] = (),
    fwd_hooks: FwdHooks = (),
) -> BackwardPass:
    """Run a prompt forward, and a function of its logits backward.

    The caller's hooks fire as usual. Afterwards hooks, flags, gradients, modes and weights are as
    they were before.

    Args:
        view: The model.
        prompt: The tokens.
        names: The hooks whose tensors and gradients are kept.
        loss: A function of the logits `[1, pos, d_vocab]` that gives a 0-d tensor.
        optional: Hooks that are left out of the result if they do not fire, or if nothing that
            fires there reaches the logits.
        passed: Required hooks whose tensors are not kept: by hook, a function that is called with
            the tensor and its gradient as soon as the gradient is known. Both are large and are
            freed afterwards.
        weights_of: Layers whose weights' gradients autograd computes too.
        fwd_hooks: Hooks that act before anything is kept.

    Raises:
        InputError: the loss has no gradient, or it or a gradient is not finite.
        ModelError: a hook did not fire, or the weights of a layer take no gradient.
    """
    needed, optional, passed = tuple(names), tuple(optional), passed or {}
    caught: dict[str, Tensor] = {}
    every = dict.fromkeys((*needed, *passed, *optional))
    hooks = [(name, _catcher(caught, name)) for name in every]
    tokens = torch.tensor([prompt.ids], device=view.W_U.device)
    with (
        gradients_enabled(view.model),
        view.masked(prompt.segments),
        _trainable(view, weights_of) as parameters,
    ):
        logits = _forward(view, tokens, [*fwd_hooks, *hooks])
        if silent := [name for name in (*needed, *passed) if name not in caught]:
            raise ModelError(
                f"the hook {silent[0]} of {view.name} did not fire in this forward pass, so no "
                f"gradient can be read there"
            )
        value = loss(logits)
        if not value.requires_grad:
            raise InputError(
                "the metric has no gradient: it must be computed from the logits by torch alone, "
                "without .item(), .detach() or numpy"
            )
        for name, use in passed.items():
            _use_at_gradient(view, name, caught.pop(name), use)
        flat = [p for layer in weights_of for p in parameters[layer]]
        found = torch.autograd.grad(value, [*caught.values(), *flat], allow_unused=True)
        by_weight = dict(zip(flat, found[len(caught) :], strict=True))
        weights = {
            layer: _shown(view, layer, {p: by_weight[p] for p in parameters[layer]})
            for layer in weights_of
        }
    by_hook = dict(zip(caught, found, strict=False))
    caught = {n: t for n, t in caught.items() if n in needed or by_hook[n] is not None}
    gradients = {
        name: _plain(torch.zeros_like(t) if (g := by_hook[name]) is None else g)
        for name, t in caught.items()
    }
    reached = float(value.detach())
    _require_finite(view, reached, gradients)
    return BackwardPass(
        logits=_plain(logits),
        loss=reached,
        values={name: _plain(tensor) for name, tensor in caught.items()},
        gradients=gradients,
        weights=weights,
    )


def _forward(view: ModelView, tokens: Tensor, hooks: FwdHooks) -> Tensor:
    """The logits of one run, with gradients."""
    try:
        return view.model.run_with_hooks(tokens, fwd_hooks=list(hooks))
    except VisitError:
        raise
    except Exception as error:
        view.require_runs(tokens, error)
        raise


def _use_at_gradient(view: ModelView, name: str, tensor: Tensor, use: AtGradient) -> None:
    def at_gradient(gradient: Tensor) -> None:
        plain = _plain(gradient)
        _require_finite(view, 0.0, {name: plain})
        use(_plain(tensor), plain)

    tensor.register_hook(at_gradient)


def _catcher(caught: dict[str, Tensor], name: str) -> Callable[[Tensor, Any], Tensor | None]:
    def catch(tensor: Tensor, hook: Any) -> Tensor | None:
        if name in caught:
            return None
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        caught[name] = tensor
        # A copy, so that a later change in place does not reach what was caught.
        return tensor.clone()

    return catch


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor[0].detach()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _require_finite(view: ModelView, loss: float, gradients: Mapping[str, Tensor]) -> None:
    broken = None if loss - loss == 0 else "the loss"
    for name, gradient in gradients.items():
        if broken is None and not torch.isfinite(gradient).all():
            broken = f"the gradient at {name}"
    if broken is not None:
        half = view.W_U.dtype in (torch.float16, torch.bfloat16)
        advice = (
            f"{view.W_U.dtype} has too small a range for it; load the model in float32"
            if half
            else "the model or the metric divides by 0 or overflows"
        )
        raise InputError(f"{broken} of {view.name} is not finite: {advice}")


@contextlib.contextmanager
def _trainable(view: ModelView, layers: Sequence[int]) -> Iterator[dict[int, list[Tensor]]]:
    """The floating-point parameters of some blocks, with gradients switched on inside."""
    found = {
        layer: [p for p in view.model.blocks[layer].parameters() if p.is_floating_point()]
        for layer in layers
    }
    before = [(p, p.requires_grad) for some in found.values() for p in some]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        yield found
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def _shown(
    view: ModelView, layer: int, gradients: Mapping[Tensor, Tensor | None]
) -> dict[str, Float[Tensor, "d_in d_out"] | None]:
    """The gradients of a block's parameters, as TransformerLens shows the weights.

    The parameters may be fused or transposed. So each is replaced by its gradient for a moment, and
    the weights are read by their names. A parameter that autograd found no way to is replaced by
    NaN; a weight that is read as NaN is none that the model used.

    Raises:
        ModelError: a weight is not shown from the parameters that autograd gave gradients for.
    """
    block = view.model.blocks[layer]
    places = [
        (module._parameters, name, parameter)
        for module in block.modules()
        for name, parameter in module._parameters.items()
        if parameter in gradients
    ]
    before = {matrix: _read(view, layer, matrix) for matrix in MATRICES}
    for matrix, weight in before.items():
        if weight is not None and not weight.is_floating_point():
            raise ModelError(
                f"blocks.{layer} of {view.name} stores {matrix} as {weight.dtype} (quantised), "
                f"which has no gradient; load the model without quantisation"
            )
    try:
        for table, name, parameter in places:
            gradient = gradients[parameter]
            filled = torch.full_like(parameter, torch.nan) if gradient is None else gradient
            table[name] = nn.Parameter(filled.detach(), requires_grad=False)
        after = {matrix: _read(view, layer, matrix) for matrix in MATRICES}
    finally:
        for table, name, parameter in places:
            table[name] = parameter
    found: dict[str, Tensor | None] = {}
    for matrix, weight in before.items():
        shown = after[matrix]
        if weight is None or shown is None:
            continue
        if torch.equal(shown, weight) and bool(weight.any()):
            raise ModelError(
                f"blocks.{layer} of {view.name} shows {matrix} from a copy of its parameters, so "
                f"autograd's gradient of it cannot be compared; pass check='none' to skip this"
            )
        whole = rearrange(shown.detach().float(), _SHOWN[matrix][2]).clone()
        found[matrix] = None if whole.isnan().any() else whole
    return found


def shown_weights(view: ModelView, layer: int) -> dict[str, Float[Tensor, "d_in d_out"]]:
    """The matrices of a block as TransformerLens shows them, heads side by side, float32."""
    found = {matrix: _read(view, layer, matrix) for matrix in MATRICES}
    return {
        matrix: rearrange(weight.detach().float(), _SHOWN[matrix][2])
        for matrix, weight in found.items()
        if weight is not None
    }


def _read(view: ModelView, layer: int, matrix: str) -> Tensor | None:
    part, names, _ = _SHOWN[matrix]
    module = getattr(view.model.blocks[layer], part, None)
    if part == "attn" and module is not None and view.latent(layer):
        shown = view.adapters.beneath(module.o, "weight") if matrix == "W_O" else None
        return None if shown is None else shown.T.unflatten(0, (view.n_heads, -1))
    for name in names if module is not None else ():
        weight = view.adapters.beneath(module, name)
        if isinstance(weight, Tensor):
            return weight
    return None
