"""The conservation laws, measured on every forward pass that becomes a graph.

Parts must sum to wholes. If they do not, a graph would be wrong, so an error is raised instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from einops import einsum
from torch import Tensor

from visit_tl.errors import DecompositionError, ModelError
from visit_tl.lens.unembed import logits
from visit_tl.model.components import experts_bias, grouped, head_outputs, stream_experts
from visit_tl.model.layer_trace import LayerTrace
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.diagnosis import why, why_lens

# Allowed relative L2 error of a sum, by the dtype of the model. The error is the model's own
# rounding, since sums are taken in float32. The largest over SmolLM2-135M's 30 blocks and two
# prompts, and over random small GPT-2, Llama, Gemma 2 and 3, OLMo 2 and Qwen 3: float32 6e-7,
# bfloat16 5.4e-3, float16 1.6e-3. A missing bias or a wrong axis gives 1e-2 to 1.
TOLERANCE: Final = {
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 5e-3,
}


_Sum = tuple[str, str, Tensor, Tensor]
"""A law: its name, the slot of the whole, the sum of the parts, and the whole."""


def tolerance(view: ModelView) -> float:
    """The relative error up to which a decomposition counts as exact, by the model's dtype.

    Raises:
        ModelError: no tolerance was measured for this dtype.
    """
    dtype = view.W_U.dtype
    if dtype not in TOLERANCE:
        raise ModelError(
            f"{view.name} has the dtype {dtype}, for which no tolerance was measured; load it as "
            f"{', '.join(str(known).removeprefix('torch.') for known in TOLERANCE)}"
        )
    return TOLERANCE[dtype]


def laws(
    view: ModelView, layer: int, t: LayerTrace, w: LayerWeights
) -> list[tuple[str, str, float]]:
    """The conservation laws of one block (docs/maths.md): name, hook of the whole, relative error.

    Args:
        view: The model.
        layer: The block.
        t: What the block computed.
        w: Its weights, after post-norms (`components.stream_weights`).
    """
    return [
        (law, t.hooks[slot], relative(parts, whole))
        for law, slot, parts, whole in sums(view, layer, t, w)
    ]


def sums(view: ModelView, layer: int, t: LayerTrace, w: LayerWeights) -> list[_Sum]:
    """The two sides of each law: its name, the slot of the whole, the parts' sum, the whole."""
    found = _attention_sums(view, t, w) if view.parts[layer].attention else []
    stream, between = t.resid_pre + t.attn_out, "resid_pre + attn_out = resid_mid"
    if t.opaque is not None:
        stream, between = stream + t.opaque, "resid_pre + what was written = resid_mid"
    if t.resid_mid is not None:
        found.append((between, "resid_mid", stream, t.resid_mid))
        stream = t.resid_mid
    found += _mlp_sums(view, layer, t, w)
    if t.mlp_out is not None:
        stream = stream + t.mlp_out
    found.append(("resid_pre + parts = resid_post", "resid_post", stream, t.resid_post))
    return found


def cause(view: ModelView, layer: int, t: LayerTrace, w: LayerWeights, law: str) -> str:
    """The likely cause of a law's failure, as the end of a message; empty if none is found."""
    for name, _, parts, whole in sums(view, layer, t, w):
        if name == law:
            return why(view, layer, t, law, parts, whole, tolerance(view))
    return ""


def _attention_sums(view: ModelView, t: LayerTrace, w: LayerWeights) -> list[_Sum]:
    values = grouped(t.values, view.kv_head(t.values.shape[1]).to(t.values.device))
    heads = einsum(t.pattern, values, "head pos, head pos d_head -> head d_head")
    heads = heads if t.heads_norm is None else t.heads_norm.parts(heads)
    attn = head_outputs(t.z, w.W_O).sum(0) + (0 if w.b_O is None else w.b_O)
    return [
        ("memory values x attention = head", "z", heads, t.z),
        ("heads + b_O = attn_out", "attn_out", attn, t.attn_out),
    ]


def _mlp_sums(view: ModelView, layer: int, t: LayerTrace, w: LayerWeights) -> list[_Sum]:
    if t.mlp_post is not None and t.mlp_out is not None and w.W_out is not None:
        mlp = t.mlp_post @ w.W_out + (0 if w.b_out is None else w.b_out)
        return [("neurons + b_out = mlp_out", "mlp_out", mlp, t.mlp_out)]
    experts = stream_experts(view, layer, t)
    if experts is None or t.mlp_out is None:
        return []
    total, bias = experts.outputs.sum(0), experts_bias(view, layer, t)
    whole = total if bias is None else total + bias
    return [("experts x router weights + shared = mlp_out", "mlp_out", whole, t.mlp_out)]


def check_layer(
    view: ModelView,
    layer: int,
    t: LayerTrace,
    w: LayerWeights,
    replaced: frozenset[str] = frozenset(),
) -> float:
    """The largest relative error of one block's conservation laws (docs/maths.md).

    A whole that the caller patched is not the sum of its parts, so its law is skipped. One that the
    patch cancels, such as a state that is set to zero by what is added to it, is held against the
    rounding of its parts, as nothing else is left of it.

    Raises:
        DecompositionError: the error is above `tolerance`; the message names the block, the law and
            the hook that holds the whole.
    """
    held = [found for found in laws(view, layer, t, w) if found[1] not in replaced]
    if replaced:
        held = [(law, hook, 0.0 if _cancelled(view, t, hook) else e) for law, hook, e in held]
    # The first law that fails is nearest to the cause.
    for law, hook, error in held:
        if error <= tolerance(view):
            continue
        raise DecompositionError(
            f"block {layer} of {view.name} does not come apart: {law} is off by {error:.2g} of the "
            f"whole at {hook} (tolerance {tolerance(view):.0e}); the model computes something that "
            f"visit_tl does not know, or the activations are not of these weights"
            f"{cause(view, layer, t, w, law)}{left_on(view.model)}"
        )
    return max((error for _, _, error in held), default=0.0)


def _cancelled(view: ModelView, t: LayerTrace, hook: str) -> bool:
    """Whether a state of the stream is no more than what rounding leaves of parts that cancel."""
    state = next((slot for slot in ("resid_mid", "resid_post") if t.hooks.get(slot) == hook), None)
    if state is None or (whole := getattr(t, state)) is None:
        return False
    parts = [t.resid_pre, t.attn_out, t.opaque, *((t.mlp_out,) if state == "resid_post" else ())]
    largest = max(float(part.norm()) for part in parts if part is not None)
    return float(whole.norm()) <= 4 * torch.finfo(view.W_U.dtype).eps * largest


def check_features(
    view: ModelView, name: str, layer: int, parts: Tensor, whole: Tensor, error: Tensor
) -> float:
    """The relative error of the law that features, bias and error sum to their site's vector.

    It is relative to the larger of the vector and the error: of heads that were set to zero, the
    parts cancel each other but for their rounding.

    Args:
        view: The model.
        name: The name of the SAE or transcoder.
        layer: The block.
        parts: The sum of features, bias and error.
        whole: The site's vector.
        error: The error alone.

    Raises:
        DecompositionError: it is above `tolerance`.
    """
    worst = relative(parts, whole, error)
    if not worst <= tolerance(view):
        raise DecompositionError(
            f"the features of {name} in block {layer} of {view.name} do not come apart: features x "
            f"decoder + b_dec + error is off by {worst:.2g} of the whole (tolerance "
            f"{tolerance(view):.0e})"
        )
    return worst


def check_logits(view: ModelView, trace: Trace, resid_post: Tensor) -> None:
    """Check that the lens of the last resid_post gives the model's own distribution.

    Log-probabilities are compared, as some weight processing adds a constant to all logits of a
    position.

    Raises:
        DecompositionError: it does not.
    """
    own = own_logits(trace)
    if own is not None:
        check_lens(view, own, resid_post)


def check_lens(view: ModelView, own: Tensor, resid_post: Tensor) -> None:
    """Check that the lens of the last resid_post at a position gives the model's logits there.

    Raises:
        DecompositionError: it does not.
    """
    worst = lens_error(view, resid_post, own)
    if not worst <= tolerance(view):
        raise DecompositionError(
            f"the lens of {view.name} does not give the model's own prediction (relative error "
            f"{worst:.2g}, tolerance {tolerance(view):.0e}); between the last hook_resid_post and "
            f"the logits the model does more than a norm and an unembedding"
            f"{lens_cause(view, resid_post, own)}{left_on(view.model)}"
        )


def own_logits(trace: Trace) -> Tensor | None:
    """The model's logits; None if missing, or if a patch after the last resid_post changed them."""
    return None if after_the_stream(trace.replaced) else trace.logits


def after_the_stream(hooks: Iterable[str]) -> bool:
    """Whether one of some hooks lies between the last resid_post and the logits."""
    return any(name.startswith(("ln_final.", "unembed.")) for name in hooks)


def lens_error(view: ModelView, resid_post: Tensor, own: Tensor) -> float:
    """Relative error of the log-probabilities that the lens gives for the last resid_post."""
    ours = logits(view, view.final_norm(resid_post[None]))[0].log_softmax(-1)
    return relative(ours, own.to(ours.device).log_softmax(-1))


def lens_cause(view: ModelView, resid_post: Tensor, own: Tensor) -> str:
    """The likely cause where the lens does not give the model's logits; empty if none is found."""
    ours = logits(view, view.final_norm(resid_post[None]))[0]
    return why_lens(view, ours, own, tolerance(view))


def relative(parts: Tensor, whole: Tensor, *others: Tensor) -> float:
    """L2 norm of the difference over that of the whole, or over the largest of it and others."""
    largest = torch.stack([vector.norm() for vector in (whole, *others)]).amax()
    return float((parts - whole).norm() / largest.clamp_min(1e-12))
