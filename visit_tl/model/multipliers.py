"""Numbers between what a sub-block computes and what it adds to the residual stream (Granite).

A configuration only says that there may be such a number. What it is, and where it acts, is found
from what the model computes: the outputs of W_O and W_out, beside what its hooks show to be added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.model.standing_hooks import watched

# Parts of the names of such numbers in configurations and blocks. A number that is missing here
# makes a law of conservation fail; its message then names the number.
_HINTS: Final = ("multiplier", "residual", "contribution_scale", "scale_depth", "layer_scale")
_TOKENS: Final = 4
# Largest allowed relative error of an output divided by its number, by dtype. Measured on random
# Granite models: 1e-7 in float32, 4e-3 in bfloat16.
_SAME: Final = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
_SAME_FULL: Final = 1e-4


def hinted(view: Any) -> tuple[float, ...]:
    """The numbers, other than 0 and 1, that the configuration or a block names as multipliers.

    Args:
        view: The ModelView, which is made with this module.
    """
    model = view.model
    inner = getattr(getattr(model, "original_model", None), "config", None)
    found = [
        float(value)
        for holder in (model.cfg, inner, model.blocks[0])
        for name, value in _own(holder)
        if isinstance(value, int | float) and not isinstance(value, bool)
        if any(hint in name for hint in _HINTS) and value not in (0, 1)
    ]
    return tuple(dict.fromkeys(found))


def _own(holder: Any) -> Iterator[tuple[str, Any]]:
    return iter(list(getattr(holder, "__dict__", {}).items()))


def write_multipliers(view: Any) -> dict[tuple[int, str], float]:
    """By block and `ln1_post` or `ln2_post`: the number that multiplies what the sub-block writes.

    Numbers of 1 are left out, and so are outputs that no number explains; a law of conservation
    then fails, and says so. The model is run once, on four tokens, if there is a hint.
    """
    hints = hinted(view)
    if not hints:
        return {}
    wanted = {
        f"blocks.{layer}.{hook}": (layer, slot)
        for layer in range(view.n_layers)
        for slot, hook in _SLOTS.items()
        if view.has_hook(f"blocks.{layer}.{hook}")
    }
    kept: dict[tuple[int, str], Tensor] = {}

    def keep(at: tuple[int, str]) -> Any:
        def copy(tensor: Tensor, hook: Any) -> None:
            kept.setdefault(at, tensor[0].detach().float().clone())

        return copy

    ids = view.tokens.plain()
    tokens = torch.tensor([[ids[i % len(ids)] for i in range(min(_TOKENS, view.n_ctx))]])
    with watched(view.model) as changes:
        view.run(tokens.to(view.W_U.device), [(name, keep(at)) for name, at in wanted.items()])
    kept = {at: kept[at] for name, at in wanted.items() if at in kept if name not in changes.names}
    found: dict[tuple[int, str], float] = {}
    for layer in range(view.n_layers):
        for norm, computed, shown in _outputs(view, layer, kept):
            number = _number(view, computed, shown, hints)
            if number is not None and number != 1:
                found[layer, norm] = number
    return found


_SLOTS: Final = {
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_post": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
}


def _outputs(
    view: Any, layer: int, kept: dict[tuple[int, str], Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What each sub-block of a block computed, and what its hook shows to be added."""
    weights = view.weights(layer)
    z, post = kept.get((layer, "z")), kept.get((layer, "mlp_post"))
    pairs: list[tuple[str, str, Tensor | None, Tensor | None]] = []
    W_O = weights.W_O.flatten(0, 1)
    if len(W_O) and z is not None and z.flatten(1).shape[1] == len(W_O):
        out = z.flatten(1) @ W_O
        pairs.append(("ln1_post", "attn_out", out, weights.b_O))
    if post is not None and weights.W_out is not None:
        pairs.append(("ln2_post", "mlp_out", post @ weights.W_out, weights.b_out))
    for norm, slot, out, bias in pairs:
        shown = kept.get((layer, slot))
        if out is not None and shown is not None:
            whole = out if bias is None else out + bias
            yield norm, view.plain_norm(layer, norm)(whole), shown


def _number(view: Any, computed: Tensor, shown: Tensor, hints: tuple[float, ...]) -> float | None:
    """The number by which `computed` becomes `shown`, the configuration's own where it fits."""
    same = _SAME.get(view.W_U.dtype, _SAME_FULL)
    best = ratio(computed, shown)
    for number in (1.0, *hints, best):
        if number is not None and _off(computed * number, shown) <= same:
            return number
    return None


def ratio(computed: Tensor, shown: Tensor) -> float | None:
    """The number that, times `computed`, comes closest to `shown`; None if one of them is 0."""
    size = float((computed.double() ** 2).sum())
    number = float((computed.double() * shown.double()).sum()) / size if size else 0.0
    return number or None


def _off(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
