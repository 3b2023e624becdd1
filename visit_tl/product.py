"""Products with the unembedding: nearly all the time of a reading goes into them.

There are two ways. `torch` is torch.mm. `onednn` is the library of that name, which torch carries
but does not choose for float32 matrices on a CPU. Which is quicker depends on the processor:
3600 x 576 by 576 x 49152 took 1.17 s by torch.mm and 0.58 s by oneDNN on an EPYC of 2024 (Zen 5),
0.92 s and 1.0 s on a Xeon with AMX. So `kernel_choice.py` tries them. Both have the accuracy of
float32. A bfloat16 product is quicker yet, but ranks that are read from it are off by tens.
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
"""Rows and columns from which on a number of a product does not depend on how many there are.

Below, libraries have kernels of their own, which add up in another order (MKL up to 16).
"""
_ROUNDING: Final = 2.0**-19
"""How far float32 products may be apart, over the norms of row and column: 5 x what was seen."""


def ways(device: torch.device, dtype: torch.dtype) -> tuple[Way, ...]:
    """The ways in which numbers of a type can be multiplied on a device."""
    by_onednn = device.type == "cpu" and dtype == torch.float32
    return WAYS if by_onednn and torch.backends.mkldnn.is_available() else ("torch",)


class Factor:
    """One side of a product, laid out once for many: a stack of rows of d_model numbers.

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
        """How far the product with a row of norm 1 may be from that of `exact`."""
        # torch.linalg.vector_norm takes twenty times as long over rows that are not contiguous.
        return float(self._dense.square().sum(-1).amax().sqrt()) * _ROUNDING

    def times(self, other: Factor, spare: Float[Tensor, " number"]) -> Float[Tensor, "row other"]:
        """The inner product of each row with each row of another factor of the same way.

        Args:
            other: The other side.
            spare: At least `numbers_of` both counts; what is returned may lie in it.
        """
        if self._rows.is_mkldnn:
            product = functional.linear(self._rows, other._rows).to_dense()
        else:
            shape = (len(self._rows), len(other._rows))
            product = spare[: shape[0] * shape[1]].view(shape)
            torch.mm(self._rows, other._rows.T, out=product)
        return product[: self.count, : other.count]


def numbers_of(rows: int, columns: int) -> int:
    """How many numbers a product of so many rows and columns takes."""
    return max(rows, LEAST) * max(columns, LEAST)


def plain(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """Torch's own product; on a CPU to the bit what it is as part of a larger one."""
    product = torch.mm(_padded(rows), _padded(columns.T).T)
    return product[: rows.shape[0], : columns.shape[1]]


def exact(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """A product whose numbers do not depend on which others are worked out beside them.

    On a CPU that is torch's own. Libraries for other devices choose among their kernels by the
    shape; there it is the product in float64, rounded, where the device has float64.
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
    """The same as `contiguous`, three times as quick for columns of a larger matrix.

    Torch transposes in blocks only what is the transpose of something contiguous.
    """
    return rows if rows.is_contiguous() else rows.T.contiguous().T.contiguous()
