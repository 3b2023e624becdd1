"""LayerNorm and RMSNorm as data: their parameters, and what they compute, without the module.

Calling the model's own module would fire the caller's hooks; a copy of its parameters does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.effective import twin_of
from visit_tl.model.rotation import Rotation


@dataclass(frozen=True)
class FrozenNorm:
    """A normalisation with its scale fixed at one input, and so linear in parts of that input.

    Attributes:
        gain: Factor of each entry: the weight divided by the root mean square.
        centred: Whether the mean over the last axis is subtracted first (LN).
        bias: Added once to the whole output; None is 0.
        frame: The rotation after which a norm of queries or keys is taken (HunYuan, nanochat);
            what it gives is turned back. None where the norm comes first, or there is no rotation.
    """

    gain: Float[Tensor, "*#rows d_model"]
    centred: bool
    bias: Float[Tensor, "*#rows d_model"] | None
    frame: Rotation | None = None

    def parts(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Map parts of the input to parts of the output, which sum to the output less the bias."""
        if self.frame is None:
            return _centre(x, self.centred) * self.gain
        return self.frame.inverse(_centre(self.frame.forward(x), self.centred) * self.gain)

    def transpose(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The transposed map: `transpose(k) . x = k . parts(x)`."""
        if self.frame is None:
            return _centre(x * self.gain, self.centred)
        turned = self.frame.inverse_transpose(x)
        return self.frame.transpose(_centre(turned * self.gain, self.centred))

    def within(self, frame: Rotation) -> FrozenNorm:
        """The same norm of vectors that this rotation turns first."""
        bias = None if self.bias is None else frame.inverse(self.bias)
        return replace(self, bias=bias, frame=frame)


def _centre(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


@dataclass(frozen=True)
class Norm:
    """A normalisation over the last axis (docs/maths.md, "Norms").

    Attributes:
        kind: `LN` centres and scales, `RMS` only scales, `scale` multiplies by its weight alone
            (Granite's residual multiplier), `none` does nothing.
        weight: Gain, with a Gemma-style offset of 1 already added; None is a gain of 1.
        bias: Added at the end by LN; None is 0.
        eps: Added to the mean square before the square root.
    """

    kind: Literal["LN", "RMS", "scale", "none"]
    weight: Float[Tensor, "*#rows d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None
    eps: float = 0.0

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Normalise each row, in float32 or better."""
        x = x if x.dtype == torch.float64 else x.float()
        if self.kind == "none":
            return x
        if self.kind == "LN":
            x = x - x.mean(-1, keepdim=True)
        if self.kind != "scale":
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            x = x * self.weight
        return x if self.bias is None else x + self.bias

    def freeze(self, x: Float[Tensor, "*rows d_model"]) -> FrozenNorm:
        """This norm with its scale fixed to the value at `x`."""
        if self.kind == "none":
            return FrozenNorm(torch.ones_like(x), False, None)
        if self.kind == "scale" and self.weight is not None:
            return FrozenNorm(self.weight.expand_as(x), False, self.bias)
        centred = self.kind == "LN"
        scale = torch.rsqrt(_centre(x, centred).pow(2).mean(-1, keepdim=True) + self.eps)
        gain = scale.expand_as(x) if self.weight is None else scale * self.weight
        return FrozenNorm(gain, centred, self.bias)

    def times(self, factor: Float[Tensor, " 1"]) -> Norm:
        """This norm, its output multiplied by a number."""
        weight = factor if self.weight is None else self.weight * factor
        bias = None if self.bias is None else self.bias * factor
        kind = "scale" if self.kind == "none" else self.kind
        return replace(self, kind=kind, weight=weight, bias=bias)


def read_norm(module: Any, default_eps: float, offset: bool = False) -> Norm:
    """Read a TransformerLens normalisation module, bridged or native, folded or not.

    Args:
        module: The module; None means no norm.
        default_eps: The eps to use if the module has none.
        offset: Whether a bridged RMSNorm stores its gain less 1 (Gemma), if the module itself does
            not specify it.

    Raises:
        ModelError: the module cannot be read exactly.
    """
    wrapped = getattr(module, "original_component", None)
    inner = _norm_inside(module if wrapped is None else wrapped)
    if module is None or isinstance(inner, torch.nn.Identity):
        return Norm("none")
    name = type(inner).__name__
    if not is_norm(inner):
        raise ModelError(
            f"the normalisation {name} is neither a LayerNorm nor an RMSNorm; "
            f"its effect cannot be split exactly, so this model is refused (if it is wrapped in an "
            f"adapter, merge_and_unload() of the peft model removes the adapter)"
        )
    rms = bool(getattr(module, "uses_rms_norm", "RMSNorm" in name))
    weight = _weight(inner)
    if weight is None and next(inner.parameters(), None) is not None:
        raise ModelError(
            f"the normalisation {name} has parameters but no weight; its computation cannot be "
            f"read exactly, so this model is refused"
        )
    less_one = getattr(module, "uses_weight_offset", offset and rms and wrapped is not None)
    if weight is not None and less_one:
        weight = 1.0 + weight
    bias = None if rms else _parameter(inner, "bias", "b")
    return Norm("RMS" if rms else "LN", weight, bias, _eps(inner, default_eps))


def norm_without_gain(module: Any, size: int) -> Norm | None:
    """One norm of both queries and keys that has no gain (Llama 4), if the module is one.

    What it is called does not say so; it is one if it does to random rows what an RMSNorm does.
    """
    if not isinstance(module, torch.nn.Module) or next(module.parameters(), None) is not None:
        return None
    norm = Norm("RMS", None, None, _eps(module, 1e-6))
    rows = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.allclose(module(rows), norm(rows), rtol=1e-4, atol=1e-5)
    return norm if same else None


def norms_outputs(block: Any) -> bool:
    """Whether a block's ln1 and ln2 are norms of what is written (OLMo 2, TransformerLens 3.9).

    The name of the module says so; the conservation laws fail where it is wrong.
    """
    inner = getattr(getattr(block, "ln1", None), "name", None)
    return isinstance(inner, str) and "post" in inner and not hasattr(block, "ln1_post")


def is_norm(module: Any) -> bool:
    """Whether a module is a normalisation, by the name of its class."""
    return any(word in type(module).__name__ for word in ("LayerNorm", "RMSNorm"))


def _norm_inside(module: Any) -> Any:
    """The norm inside a module that gives the same output as the module.

    There may be several: an adapter keeps its own copy of the norm. Returns the module itself if it
    is a norm, or if no such norm is found.
    """
    if is_norm(module) or not any(is_norm(part) for part in getattr(module, "modules", tuple)()):
        return module
    twin = twin_of(module)
    for part, copied in zip(module.modules(), twin.modules(), strict=True):
        weight = _parameter(part, "weight", "w")
        if is_norm(part) and weight is not None:
            generator = torch.Generator().manual_seed(0)
            rows = torch.randn(3, *weight.shape, generator=generator, dtype=torch.float64)
            rows = rows.to(weight.device)
            with torch.no_grad():
                if torch.equal(twin(rows), copied(rows)):
                    return part
    return module


def _heads(module: Any) -> list[Any]:
    """The norms of a module that has one per head (StableLM 2), else the module alone."""
    norms = getattr(module, "norms", None)
    return list(norms) if isinstance(norms, torch.nn.ModuleList) else [module]


def _eps(module: Any, default: float) -> float:
    first = _heads(module)[0]
    found = (getattr(first, name, None) for name in ("eps", "variance_epsilon"))
    return next((eps for eps in found if isinstance(eps, float)), default)


def _weight(module: Any) -> Tensor | None:
    """The gain of a norm: one row, or one row per head if each head has its own norm."""
    heads = _heads(module)
    if heads != [module]:
        return torch.stack([head.weight.detach().float() for head in heads])
    return _parameter(module, "weight", "w")


def _parameter(module: Any, *names: str) -> Tensor | None:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, Tensor):
            return value.detach().float()
    return None
