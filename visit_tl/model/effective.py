"""The effective weight and bias of a composite module, found from what the module computes.

An adapter (LoRA and similar) wraps a linear layer and adds to its output; the weight that the
module shows is that of the layer inside. As long as the adapter is linear, layer and adapter
together are one matrix. Three candidates are tried in this order: the shown weight; the shown
weight plus the changes that the adapter states; the matrix read off column by column. Each is
compared with what the module computes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

# peft's names: the adapters of a layer that are selected, those that are merged into its weight,
# whether adapters are switched off, and the method that gives an adapter's change of the weight.
ACTIVE: Final = "active_adapters"
MERGED: Final = "merged_adapters"
DISABLED: Final = "disable_adapters"
CHANGE: Final = "get_delta_weight"

# Largest allowed relative error of a weight's output: for a weight known as a sum, in float64; and
# for a weight read off column by column, since a module may compute in float32 for any input.
_SAME: Final = 1e-10
_READ_OFF: Final = 1e-6
# Rows of an identity matrix that go through a module together.
_ROWS: Final = 1024


class NotReadableError(Exception):
    """No weight reproduces what a module computes; the message says why."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map: `x W^T + b`, or `x W + b`.

    Attributes:
        weight: `[d_out, d_in]`, or `[d_in, d_out]`, as the layer inside stores it; float32.
        bias: The module's output for input 0; None if that is 0.
        transposed: Whether the weight is `[d_out, d_in]`.
    """

    weight: Tensor
    bias: Tensor | None
    transposed: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to rows, in their dtype."""
        weight = self.weight.to(x.dtype)
        y = x @ (weight.T if self.transposed else weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of its weight."""
        return self.weight.numel() * self.weight.element_size()


def owner(module: nn.Module) -> nn.Module | None:
    """The submodule that owns the weight that a module shows; None if there is none."""
    shown = getattr(module, "weight", None)
    own = (part for part in module.modules() if any(p is shown for p in part.parameters(False)))
    return next(own, None)


def adapter_names(module: nn.Module) -> tuple[str, ...]:
    """The adapters that act in one module, merged or not."""
    kept = [
        part for part in module.children() if isinstance(part, nn.ModuleDict | nn.ParameterDict)
    ]
    if getattr(module, DISABLED, False) or not kept:
        return ()
    if merged := _names(getattr(module, MERGED, None)):
        return merged
    return tuple(
        n for n in _names(getattr(module, ACTIVE, None)) if any(n in part for part in kept)
    )


def _names(found: Any) -> tuple[str, ...]:
    every = [found] if isinstance(found, str) else found
    return tuple(str(name) for name in every) if isinstance(every, Iterable) else ()


def twin_of(module: nn.Module, dtype: torch.dtype | None = torch.float64) -> nn.Module:
    """A copy in another dtype and in evaluation mode, without the hooks of the original."""
    # deepcopy does not copy what is in the memo; a hook may hold objects that cannot be copied.
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    memo = {id(getattr(m, name)): OrderedDict() for m in module.modules() for name in hooks}
    twin = copy.deepcopy(module, memo).eval()
    for part in twin.modules():
        # A `forward` that a library set on the instance would use the original's weights.
        part.__dict__.pop("forward", None)
    return twin if dtype is None else twin.to(dtype)


def read_linear(module: nn.Module) -> Linear:
    """The linear map that a module applies, exact to the rounding of float32.

    Args:
        module: A composite module with a two-dimensional weight. A copy of it is called.

    Raises:
        NotReadableError: it is not linear in its input, or cannot be called; the message says why.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _Probed(twin_of(module), adapter_names(module)).linear()
    except NotReadableError:
        raise
    except Exception as error:  # a module of any library may fail in any way
        raise NotReadableError(f"calling it raised {type(error).__name__}: {error}") from error


class _Probed:
    """A copy of a module, and its outputs for a few random rows and for 0."""

    def __init__(self, twin: nn.Module, names: tuple[str, ...]) -> None:
        self.twin, self.names = twin, names
        self.base = owner(twin) or twin
        weight = twin.weight
        assert isinstance(weight, Tensor)
        self.transposed = self._transposed(weight)
        self.d_in = weight.shape[1 if self.transposed else 0]
        self.rows = _rows(self.d_in, weight)
        self.bias = self._apply(torch.zeros_like(self.rows[:1]))[0]
        self.wanted = self._apply(self.rows)
        # Read after the calls, since a call may update the module's weight.
        self.weight: Tensor = twin.weight  # type: ignore[assignment]

    def linear(self) -> Linear:
        """The map: the first candidate that reproduces the module's outputs."""
        for i, weight in enumerate(candidates := self._candidates()):
            if self._error(weight) <= _SAME:
                if i == 0 and len(candidates) > 1 and not self._merged():
                    self._require_no_change(candidates[1])
                return self._made(weight)
        weight = self._read_off()
        if not (error := self._error(weight)) <= _READ_OFF:
            raise NotReadableError(
                f"it is not linear in its input: for random rows, its output and that of its "
                f"columns differ by {error:.1e}"
            )
        return self._made(weight)

    def _made(self, weight: Tensor) -> Linear:
        bias = self.bias.float() if self.bias.any() else None
        # Always a copy, so later changes of the module do not change it.
        return Linear(weight.float().clone(), bias, self.transposed)

    def _candidates(self) -> list[Tensor]:
        """The shown weight; and, if the adapters state their changes, its sum with them."""
        change = getattr(self.twin, CHANGE, None)
        if not callable(change) or not self.names:
            return [self.weight]
        try:
            changes: list[Any] = [change(name) for name in self.names]
            return [self.weight, self.weight + sum(changes)]
        except Exception:  # not every adapter states its change; columns can still be read off
            return [self.weight]

    def _merged(self) -> bool:
        return bool(getattr(self.twin, MERGED, None))

    def _require_no_change(self, stated: Tensor) -> None:
        if self._error(stated) > _SAME:
            raise NotReadableError(
                f"its adapter {', '.join(self.names)} states a change of the weight that a call "
                f"does not show, such as one that acts on some positions only"
            )

    def _error(self, weight: Tensor) -> float:
        if weight.shape != self.weight.shape:
            return torch.inf
        found = self.rows @ (weight.T if self.transposed else weight)
        wanted = self.wanted - self.bias
        # Relative to each row, since rows differ in size by orders of magnitude.
        scale = wanted.norm(dim=-1).clamp_min(torch.finfo(wanted.dtype).tiny)
        return float(((found - wanted).norm(dim=-1) / scale).max())

    def _read_off(self) -> Tensor:
        columns = []
        for start in range(0, self.d_in, _ROWS):
            count = min(_ROWS, self.d_in - start)
            unit = self.rows.new_zeros(count, self.d_in)
            unit[torch.arange(count), start + torch.arange(count)] = 1
            columns.append(self._apply(unit) - self.bias)
        whole = torch.cat(columns)
        return whole.T if self.transposed else whole

    def _apply(self, rows: Tensor) -> Tensor:
        out = self.twin(rows[None])
        if not isinstance(out, Tensor) or out.ndim != 3:
            raise NotReadableError("its output does not have one row for each row of its input")
        return out[0].to(rows.dtype)

    def _transposed(self, weight: Tensor) -> bool:
        """Whether the layer inside stores its weight as `[d_out, d_in]`."""
        for transposed in (True, False):
            rows = _rows(weight.shape[1 if transposed else 0], weight)
            try:
                found = self.base(rows) - self.base(torch.zeros_like(rows))
                off = (found - rows @ (weight.T if transposed else weight)).norm() / found.norm()
            except Exception:  # rows of the wrong width; layers raise different errors for it
                continue
            if off <= _READ_OFF or not found.any():
                return transposed
        raise NotReadableError("the layer inside does not multiply with the weight that it shows")


def _rows(width: int, like: Tensor) -> Tensor:
    """A few random rows of different sizes; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, width, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([[1.0], [0.01], [30.0], [1.0]], dtype=torch.float64)
    return (rows * sizes).to(like.device, like.dtype)
