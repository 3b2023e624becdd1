"""The weight and bias that a module of several parts applies in all, found by what it computes.

An adapter (LoRA and its kin) stands around a linear layer and adds to it; the weight that the
module shows is that of the layer inside. Whatever the adapter is, as long as it is linear its whole
is one matrix. The shown weight is tried first, then the sum of it and the changes that the adapter
states, then the matrix is read off column by column. Each is held against what the module computes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

# peft's names: the adapters of a layer that are asked for, those that are added to its weight, and
# whether they are switched off; the change of the weight that one of them makes.
ACTIVE: Final = "active_adapters"
MERGED: Final = "merged_adapters"
DISABLED: Final = "disable_adapters"
CHANGE: Final = "get_delta_weight"

# Largest error of a weight, as a share of what it gives: in float64, where the weight is known as a
# sum, and where it was read off a module that may compute in float32 whatever it is given.
_SAME: Final = 1e-10
_READ_OFF: Final = 1e-6
# Rows of an identity matrix that go through a module together.
_ROWS: Final = 1024


class NotReadableError(Exception):
    """Why no weight is what a module applies."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map: `x W^T + b`, or `x W + b`.

    Attributes:
        weight: `[d_out, d_in]`, or `[d_in, d_out]`, as the layer inside keeps it; float32.
        bias: What the module gives for 0; None if that is 0.
        transposed: Whether the weight is `[d_out, d_in]`.
    """

    weight: Tensor
    bias: Tensor | None
    transposed: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Rows through the map, in their dtype."""
        weight = self.weight.to(x.dtype)
        y = x @ (weight.T if self.transposed else weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of its weight."""
        return self.weight.numel() * self.weight.element_size()


def owner(module: nn.Module) -> nn.Module | None:
    """The part of a module whose parameter is the weight that the module shows; None if none is."""
    shown = getattr(module, "weight", None)
    own = (part for part in module.modules() if any(p is shown for p in part.parameters(False)))
    return next(own, None)


def adapter_names(module: nn.Module) -> tuple[str, ...]:
    """The adapters of one module that take part in what it computes, merged or not."""
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
    # What is in the memo is not copied: a hook may hold anything.
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    memo = {id(getattr(m, name)): OrderedDict() for m in module.modules() for name in hooks}
    twin = copy.deepcopy(module, memo).eval()
    for part in twin.modules():
        # A function that a library put there would compute with the original's weights.
        part.__dict__.pop("forward", None)
    return twin if dtype is None else twin.to(dtype)


def read_linear(module: nn.Module) -> Linear:
    """The linear map that a module applies, exact to the rounding of float32.

    Args:
        module: A module of several parts with a weight of two axes. A copy of it is called.

    Raises:
        NotReadableError: it is not linear in its input, or cannot be tried; the message says why.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _Tried(twin_of(module), adapter_names(module)).linear()
    except NotReadableError:
        raise
    except Exception as error:  # a module of any library may fail in any way
        raise NotReadableError(f"trying it gave {type(error).__name__}: {error}") from error


class _Tried:
    """A copy of a module, and what it gives for a few random rows and for 0."""

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
        # Read after the calls: a module may put its weight in order when it is called.
        self.weight: Tensor = twin.weight  # type: ignore[assignment]

    def linear(self) -> Linear:
        """The map; the candidates one after the other, each held against what was computed."""
        for i, weight in enumerate(candidates := self._candidates()):
            if self._error(weight) <= _SAME:
                if i == 0 and len(candidates) > 1 and not self._merged():
                    self._require_no_change(candidates[1])
                return self._made(weight)
        weight = self._read_off()
        if not (error := self._error(weight)) <= _READ_OFF:
            raise NotReadableError(
                f"it is not linear in its input: random rows come out {error:.1e} off what its "
                f"columns say"
            )
        return self._made(weight)

    def _made(self, weight: Tensor) -> Linear:
        bias = self.bias.float() if self.bias.any() else None
        # A copy, whatever it was: what is changed in the module later is not changed here.
        return Linear(weight.float().clone(), bias, self.transposed)

    def _candidates(self) -> list[Tensor]:
        """The weight that is shown, and with the change that the adapters state if they do."""
        change = getattr(self.twin, CHANGE, None)
        if not callable(change) or not self.names:
            return [self.weight]
        try:
            changes: list[Any] = [change(name) for name in self.names]
            return [self.weight, self.weight + sum(changes)]
        except Exception:  # not every adapter can state its change; its columns can be read
            return [self.weight]

    def _merged(self) -> bool:
        return bool(getattr(self.twin, MERGED, None))

    def _require_no_change(self, stated: Tensor) -> None:
        if self._error(stated) > _SAME:
            raise NotReadableError(
                f"its adapter {', '.join(self.names)} states a change of the weight that a call "
                f"does not make, as one that acts on some positions only"
            )

    def _error(self, weight: Tensor) -> float:
        if weight.shape != self.weight.shape:
            return torch.inf
        found = self.rows @ (weight.T if self.transposed else weight)
        wanted = self.wanted - self.bias
        # By row: they differ in size by orders of magnitude.
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
            raise NotReadableError("it does not give one row for each row of its input")
        return out[0].to(rows.dtype)

    def _transposed(self, weight: Tensor) -> bool:
        """Whether the layer inside keeps its weight as `[d_out, d_in]`."""
        for transposed in (True, False):
            rows = _rows(weight.shape[1 if transposed else 0], weight)
            try:
                found = self.base(rows) - self.base(torch.zeros_like(rows))
                off = (found - rows @ (weight.T if transposed else weight)).norm() / found.norm()
            except Exception:  # rows of the wrong width, which any layer refuses in its own way
                continue
            if off <= _READ_OFF or not found.any():
                return transposed
        raise NotReadableError("its weight is not what the layer inside multiplies with")


def _rows(width: int, like: Tensor) -> Tensor:
    """A few random rows of different size, always the same."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, width, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([[1.0], [0.01], [30.0], [1.0]], dtype=torch.float64)
    return (rows * sizes).to(like.device, like.dtype)
