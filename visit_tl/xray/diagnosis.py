"""Why a conservation law fails in a model that nobody knows: the known causes, tried one by one.

Each cause is a small formula with few unknowns. It is named only if it makes the law hold, or if
the model itself shows it (a module that is quantised, or one of a kind that is not read).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from visit_tl.model.effective import twin_of
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.multipliers import ratio
from visit_tl.model.view import ModelView

# Parts of the names of quantised layers' classes, in the libraries that have them.
_QUANTISED: Final = ("quant", "4bit", "8bit", "bitlinear", "gptq", "awq", "hqq", "eetq", "fp8")
_KNOWN_PARTS: Final = ("attn", "mlp", "ln1", "ln2", "ln1_post", "ln2_post")
# Modules that have nothing to compute with, or that only show tensors.
_SILENT: Final = ("HookPoint", "Dropout", "Identity", "ModuleDict", "ModuleList")


def why(
    view: ModelView,
    layer: int,
    t: LayerTrace,
    law: str,
    parts: Tensor,
    whole: Tensor,
    within: float,
) -> str:
    """The likely cause of a law's failure, as the end of a message; empty if none is found.

    Args:
        view: The model.
        layer: The block.
        t: What the block computed.
        law: The law, as `conservation.laws` names it.
        parts: What the parts sum to.
        whole: What they should sum to.
        within: The relative error up to which a cause explains the law.
    """
    if not (torch.isfinite(parts).all() and torch.isfinite(whole).all()):
        return "; likely cause: numbers that are not finite"
    right = law.rpartition(" = ")[2]
    if right == "head":
        causes = _of_heads(view, layer, parts, whole, within)
    elif right in ("attn_out", "mlp_out"):
        causes = _of_output(
            view, layer, "attn" if right == "attn_out" else "mlp", parts, whole, within
        )
    else:
        causes = _of_stream(view, layer, t, right, whole, within)
    found = next(causes, None)
    return "" if found is None else f"; likely cause: {found}"


def why_lens(view: ModelView, ours: Tensor, own: Tensor, within: float) -> str:
    """The likely cause where the lens does not give the model's logits; empty if none is found.

    Args:
        view: The model.
        ours: The logits that the lens gives, `[d_vocab]`.
        own: The model's own.
        within: As for `why`.
    """
    mine, theirs = ours.double(), own.to(ours.device).double()
    centred, wanted = mine - mine.mean(), theirs - theirs.mean()
    number = ratio(centred, wanted)
    if number is not None and _off(centred * number, wanted) <= within:
        return (
            f"; likely cause: a multiplier of the logits of {number:.6g}, which the bridge's "
            f"output transform does not have"
        )
    least = float(theirs.abs().max())
    caps = [float(cap) for cap in torch.logspace(0, 2.3, 2000) if float(cap) > least]
    errors = [(_off(cap * (mine / cap).tanh(), theirs), cap) for cap in caps]
    if errors and min(errors)[0] <= 10 * within:
        return f"; likely cause: a softcap of the logits, at about {min(errors)[1]:.2g}"
    known = ("embed", "pos_embed", "blocks", "ln_final", "unembed", "rotary_emb", "adapter")
    others = [
        f"{name} ({_class(module)})"
        for name, module in view.model.named_children()
        if name not in known and not name.startswith(("hook_", "embed", "_")) and _computes(module)
    ]
    return f"; likely cause: {', '.join(others)}, beside ln_final and unembed" if others else ""


# --- causes --------------------------------------------------------------------------------------


def _of_heads(
    view: ModelView, layer: int, parts: Tensor, whole: Tensor, within: float
) -> Iterator[str]:
    """What may lie between the heads' sums of values and their z, `[head, d_head]`."""
    if parts.shape != whole.shape:
        yield f"z has the shape {tuple(whole.shape)}, and the values give {tuple(parts.shape)}"
        return
    # One position cannot tell a norm without a gain from a number, but its size can.
    if abs(float(whole.square().mean().sqrt()) - 1) <= max(within, 1e-3):
        yield "a norm of all heads before W_O"
    yield from _of_number(view, parts, whole, within)
    each = (parts * whole).sum(-1, keepdim=True) / parts.square().sum(-1, keepdim=True)
    if _off(parts * each, whole) <= within:
        yield "a number of each head, such as a gate or a norm of its values"
    factor = torch.where(parts.abs() > 1e-6, whole / parts, 0.5)
    if bool(((factor > 0) & (factor < 1)).all()):
        yield "an output gate: every entry of z is between 0 and the sum of its values"
    yield from _of_modules(view, layer, "attn")


def _of_output(
    view: ModelView, layer: int, part: str, parts: Tensor, whole: Tensor, within: float
) -> Iterator[str]:
    """What may lie between W_O or W_out and what the hook of the output shows."""
    for name, x in (("an RMSNorm", parts), ("a LayerNorm", parts - parts.mean())):
        normed = x / x.square().mean().sqrt().clamp_min(1e-12)
        if _off(normed, whole) <= max(within, 1e-3):
            yield f"{name} of the output that TransformerLens does not show as a post-norm"
    yield from _of_number(view, parts, whole, within)
    yield from _of_modules(view, layer, part)


def _of_number(view: ModelView, parts: Tensor, whole: Tensor, within: float) -> Iterator[str]:
    """One number by which the whole is larger than the sum of the parts."""
    number = ratio(parts, whole)
    if number is None or _off(parts * number, whole) > within:
        return
    named = [name for name, value in _numbers(view) if abs(value - number) <= 1e-3 * abs(value)]
    own = f", the configuration's {named[0]}" if named else ", which no configuration names"
    yield f"a multiplier of {number:.6g} between them{own}"


def _of_stream(
    view: ModelView, layer: int, t: LayerTrace, slot: str, whole: Tensor, within: float
) -> Iterator[str]:
    """What may lie between a sub-block's output and the residual stream after it."""
    if slot == "resid_mid" or t.resid_mid is None:
        before, written = t.resid_pre, [("hook_attn_out", t.attn_out)]
        names = "hook_resid_pre"
    else:
        before, written, names = t.resid_mid, [], "hook_resid_mid"
    if slot != "resid_mid" and t.mlp_out is not None:
        written.append(("hook_mlp_out", t.mlp_out))
    if t.opaque is not None and (slot == "resid_mid" or t.resid_mid is None):
        written.append(("the part that is not opened", t.opaque))
    rows = torch.stack([before, *(x for _, x in written)]).double()
    numbers = torch.linalg.lstsq(rows.T, whole.double()[:, None]).solution[:, 0]
    if _off(numbers @ rows, whole.double()) <= within:
        said = [
            f"{float(number):.6g} x {name}"
            for number, name in zip(numbers, (names, *(name for name, _ in written)), strict=True)
        ]
        yield f"multipliers of the residual stream: the whole is {' + '.join(said)}"
    block = view.model.blocks[layer]
    inside = getattr(block, "original_component", None) or block
    others = [
        f"{name} ({_class(module)})"
        for name, module in inside.named_children()
        # What TransformerLens knows of a block is wrapped in its own modules.
        if name not in _KNOWN_PARTS and not hasattr(module, "original_component")
        if not name.startswith(("hook_", "_")) and _computes(module)
    ]
    if others:
        yield f"another part of the block writes to the stream: {', '.join(others)}"
    share = float((whole - rows.sum(0)).norm() / whole.norm().clamp_min(1e-12))
    yield (
        f"something else writes {share:.0%} of the stream's norm there, or a norm or a gate lies "
        f"between a sub-block's output and the stream"
    )


def _of_modules(view: ModelView, layer: int, part: str) -> Iterator[str]:
    """Linear layers of a sub-block that do not multiply by the weight they show, and gates."""
    block = view.model.blocks[layer]
    module = getattr(block, part, None)
    inner = getattr(module, "original_component", None) or module
    if not isinstance(inner, nn.Module):
        return
    for name, layer_module in inner.named_modules():
        weight = getattr(layer_module, "weight", None)
        if not isinstance(weight, Tensor) or "weight" not in layer_module._parameters:
            continue
        where = name.replace("._original_component", "").replace("original_component.", "")
        said = f"{where} of blocks.{layer}.{part} ({_class(layer_module)})"
        if not weight.is_floating_point():
            yield f"quantised weights: {said} stores {weight.dtype}"
        elif any(word in _class(layer_module).lower() for word in _QUANTISED):
            yield f"quantisation: {said} rounds its weight or its input when it is called"
        elif (off := _linear_error(layer_module, weight)) is not None and off > 1e-3:
            yield (
                f"{said} does not multiply by the weight that it shows (off by {off:.2g}): it is "
                f"quantised, or has more inside"
            )
    for name, gate in inner.named_modules():
        if (
            name.rpartition(".")[2] in ("gate", "g_proj", "output_gate", "o_gate")
            and part == "attn"
        ):
            yield f"a gate in blocks.{layer}.{part}: {name} ({_class(gate)})"
            return


def _linear_error(module: nn.Module, weight: Tensor) -> float | None:
    """How far a layer's output is from its shown weight; None if it is no linear layer."""
    if weight.ndim != 2 or not isinstance(module, nn.Linear):
        return None
    rows = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            twin: Any = twin_of(module, torch.float32).to("cpu")
            out = twin(rows) - twin(torch.zeros_like(rows))
    except Exception:  # a layer of any library may fail in any way
        return None
    return _off(rows @ weight.detach().float().cpu().T, out)


# --- small things --------------------------------------------------------------------------------


def _numbers(view: ModelView) -> Iterator[tuple[str, float]]:
    """The numbers of the model's configurations, by name."""
    inner = getattr(getattr(view.model, "original_model", None), "config", None)
    for cfg in (inner, view.model.cfg):
        for name, value in getattr(cfg, "__dict__", {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and value:
                yield name, float(value)


def _computes(module: nn.Module) -> bool:
    kind = _class(module)
    return bool(kind) and not kind.endswith(_SILENT) and any(True for _ in module.parameters())


def _class(module: Any) -> str:
    inner = getattr(module, "original_component", None)
    return type(module if inner is None else inner).__name__


def _off(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
