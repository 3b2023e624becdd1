"""Matrix products with the unembedding, which take nearly all the time of a readout.

There are two ways of multiplying. `torch` is torch.mm. `onednn` is the library oneDNN, which torch
includes but does not choose for float32 matrices on a CPU. Which one is faster depends on the
processor: 3600 x 576 by 576 x 49152 took 1.17 s with torch.mm and 0.58 s with oneDNN on an EPYC of
2024 (Zen 5), but 0.92 s and 1.0 s on a Xeon with AMX. So `kernel_choice.py` tries both. Both have
the accuracy of float32. A bfloat16 product is faster still, but ranks read from it are off by tens.
"""

from __future__ import annotations

import functools
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Way = Literal["torch", "onednn"]
WAYS: Final[tuple[Way, ...]] = ("torch", "onednn")

LEAST: Final = 64
"""Least number of rows and columns of a product.

With at least so many, an entry of the product does not depend on how many there are. For smaller
products, libraries have kernels of their own, which sum in another order (MKL up to 16).
"""
_ROUNDING: Final = 2.0**-19
"""How far two float32 products may differ, divided by the norms of row and column: 5 x the largest
difference that was measured."""


def ways(device: torch.device, dtype: torch.dtype) -> tuple[Way, ...]:
    """The ways of multiplying that are available for a dtype on a device."""
    by_onednn = device.type == "cpu" and dtype == torch.float32
    return WAYS if by_onednn and torch.backends.mkldnn.is_available() else ("torch",)


class Factor:
    """One side of a product, a stack of rows of d_model numbers, prepared once for many products.

    Attributes:
        count: How many rows.
    """

    def __init__(self, rows: Float[Tensor, "row d_model"], way: Way) -> None:
        self.count = rows.shape[0]
        self._dense = self._rows = _padded(rows.detach())
        if way == "onednn":
            self._dense = _contiguous(self._dense)
            self._rows = self._dense.to_mkldnn()

    @functools.cached_property
    def rounding(self) -> float:
        """How far the product with a row of norm 1 may be from the result of `exact`."""
        dense = self._dense
        if dense.is_contiguous():
            return float(torch.linalg.vector_norm(dense, dim=-1).amax()) * _ROUNDING
        # Here `vector_norm` would take 50 times as long as on contiguous rows; this takes twice.
        return float(dense.square().sum(-1).amax().sqrt()) * _ROUNDING

    def times(self, other: Factor, spare: Float[Tensor, " number"]) -> Float[Tensor, "row other"]:
        """The inner product of each row with each row of another factor of the same way.

        Args:
            other: The other side.
            spare: Memory for the result, of at least `numbers_of` both counts; the result may be
                a view of it.
        """
        if self._rows.is_mkldnn:
            product = functional.linear(self._rows, other._rows).to_dense()
        else:
            shape = (len(self._rows), len(other._rows))
            product = spare[: shape[0] * shape[1]].view(shape)
            torch.mm(self._rows, other._rows.T, out=product)
        return product[: self.count, : other.count]


def numbers_of(rows: int, columns: int) -> int:
    """How many numbers the product of this many rows and columns needs in memory."""
    return max(rows, LEAST) * max(columns, LEAST)


def plain(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """Torch's own product. On a CPU it equals the same part of a larger product to the bit."""
    product = torch.mm(_padded(rows), _padded(columns.T).T)
    return product[: rows.shape[0], : columns.shape[1]]


def exact(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """A product whose entries do not depend on which other entries are computed with them.

    On a CPU it is torch's own product. Libraries for other devices choose a kernel by the shape, so
    there it is the product in float64, rounded, if the device has float64.
    """
    if rows.device.type == "cpu" or not _has_float64(rows.device):
        return plain(rows, columns)
    return rounded(rows, columns)


def rounded(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """The product in float64, rounded to the type of its rows."""
    return (rows.double() @ columns.double()).to(rows.dtype)


@functools.cache
def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def _padded(rows: Tensor) -> Tensor:
    missing = LEAST - rows.shape[0]
    return functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


def _contiguous(rows: Tensor) -> Tensor:
    """The same as `contiguous`, but three times as fast for columns of a larger matrix.

    Torch transposes in blocks only if its input is the transpose of a contiguous tensor.
    """
    return rows if rows.is_contiguous() else rows.T.contiguous().T.contiguous()
