"""Quantised linear layers, and the weights that they really apply.

A quantised layer keeps integers or small floats with scales, in a layout of its library's own. It
is recognised by what it keeps, and read by what it computes: the rows of an identity matrix that go
through the layer give its weight, exact to the dtype that it computes in (docs/maths.md,
"Quantised layers"). A layer that rounds its input as well (LLM.int8) is no linear map, and refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from visit_tl.model.effective import Linear, NotReadableError

PLAIN: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Largest allowed error of a row of a layer's output, by its dtype, relative to the row.
# Measured on a small Llama with LoRA everywhere: 2e-7 in float32, 4e-3 in bfloat16, 5e-4 in
# float16. Wide layers and other processors round more.
AGREE: Final = {torch.bfloat16: 3e-2, torch.float16: 5e-3}
AGREE_FULL: Final = 1e-4
# Rows of an identity matrix that go through a layer together.
_ROWS: Final = 1024
# One entry of a row is this, all others are smaller than half a step of 1/127 of it.
_LARGE: Final = 5.0
_SMALL: Final = 0.015


def quantised_modules(modules: Sequence[tuple[str, nn.Module]]) -> dict[nn.Module, str]:
    """The linear layers whose weight is not a plain tensor of floats, with their names.

    Of a quantised layer inside an adapter (LoRA and similar), the adapter's module.
    """
    by_name = dict(modules)
    found: dict[nn.Module, str] = {}
    for name, module in modules:
        if is_quantised(module):
            around = name.rpartition(".")[0]
            outer = by_name.get(around)
            wrapped = outer is not None and _is_adapter(outer)
            found[outer if wrapped else module] = around if wrapped else name  # type: ignore[index]
    return found


def _is_adapter(module: nn.Module) -> bool:
    parts = module.children()
    return "_original_component" not in module._modules and any(
        isinstance(part, nn.ModuleDict | nn.ParameterDict) for part in parts
    )


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear layer that keeps no plain weight.

    It has a weight of integers, of 8-bit floats or of a tensor class of its own (bitsandbytes,
    torchao, fp8); or no weight but a matrix of integers (GPTQ, AWQ).
    """
    if isinstance(module, nn.Embedding) or "_original_component" in module._modules:
        return False
    weight = _own(module).get("weight")
    if weight is not None:
        return weight.ndim == 2 and (weight.dtype not in PLAIN or has_own_class(weight))
    return not hasattr(module, "weight") and any(
        t.ndim == 2 and not t.is_floating_point() and t.dtype != torch.bool
        for t in _own(module).values()
    )


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module itself, by name."""
    kept: dict[str, Any] = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}


def has_own_class(weight: Tensor) -> bool:
    """Whether a tensor is of a class that stands for other numbers than it holds."""
    return type(weight.data) is not Tensor


def width_of(module: nn.Module) -> int:
    """The width of a layer's input, as its library says it; 1 where it says nothing."""
    names = ("in_features", "infeatures")
    every = (vars(part).get(name) for part in module.modules() for name in names)
    return next((int(width) for width in every if width is not None), 1)


def skeleton(module: nn.Module) -> nn.Module:
    """A plain linear layer without numbers, in whose place the weight that is applied is shown."""
    return nn.Linear(width_of(module), int(getattr(module, "out_features", 1)), device="meta")


def read_quantised(module: nn.Module, dtype: torch.dtype, width: int) -> Linear:
    """The linear map that a quantised layer, or an adapter around one, applies.

    Args:
        module: The layer itself, which is called.
        dtype: Of the input that it gets in the model.
        width: Of that input.

    Raises:
        NotReadableError: it is not linear in its input, or cannot be called; the message says why.
    """
    device = next(iter(_tensors(module))).device
    try:
        with torch.no_grad():
            nothing = torch.zeros(1, width, device=device, dtype=dtype)
            zero, bare = _apply(module, nothing)[0], _without_bias(module)
            kept = _apply(bare, nothing)[0]
            columns = [_apply(bare, rows.to(device, dtype)) - kept for rows in _identity(width)]
            linear = Linear(torch.cat(columns).T.contiguous(), zero if zero.any() else None, True)
            _require_linear(module, linear, dtype, device)
    except NotReadableError:
        raise
    except Exception as error:  # a module of any library may fail in any way
        raise NotReadableError(f"calling it raised {type(error).__name__}: {error}") from error
    return linear


def _without_bias(module: nn.Module) -> nn.Module:
    """The layer without its own bias, which would round the columns in half precision."""
    bare = copy.copy(module)
    for kept in ("_parameters", "_buffers"):
        own = module.__dict__[kept]
        bare.__dict__[kept] = {n: None if n == "bias" else tensor for n, tensor in own.items()}
    return bare


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _identity(width: int) -> Iterator[Tensor]:
    for start in range(0, width, _ROWS):
        count = min(_ROWS, width - start)
        unit = torch.zeros(count, width)
        unit[torch.arange(count), start + torch.arange(count)] = 1
        yield unit


def _apply(module: nn.Module, rows: Tensor) -> Tensor:
    out = module(rows[None])
    if not isinstance(out, Tensor) or out.shape[:2] != (1, len(rows)):
        raise NotReadableError("its output does not have one row for each row of its input")
    return out[0].float()


def _require_linear(
    module: nn.Module, linear: Linear, dtype: torch.dtype, device: torch.device
) -> None:
    """Hold random rows against the map, and small entries beside a large one.

    Rounding of the input to 127 steps of its largest entry loses what is below half a step; that of
    a float dtype keeps it, whatever its precision.
    """
    width = linear.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(4, width, generator=generator).to(device, dtype)
    large = torch.zeros(4, width)
    large[torch.arange(4), torch.arange(4) % width] = _LARGE
    small = torch.full((4, width), _SMALL) * torch.randn(4, width, generator=generator).sign()
    small[torch.arange(4), torch.arange(4) % width] = 0
    large, small = large.to(device, dtype), small.to(device, dtype)
    beside = _apply(module, large + small) - _apply(module, large)
    lost = _error(beside, linear(small.float()) - linear(torch.zeros_like(small.float())))
    off = _error(_apply(module, random), linear(random.float()))
    allowed = AGREE.get(dtype, AGREE_FULL)
    if off <= allowed and lost <= 0.5:
        return
    raise NotReadableError(
        f"it rounds its input as well as its weight (small entries beside a large one are lost by "
        f"{lost:.0%}), so it is no linear map"
        if lost > 0.5
        else f"for random rows, its output and that of its columns differ by {off:.1e} (allowed "
        f"{allowed:.0e}), as when it computes in another dtype than the model, or rounds its input"
    )


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
