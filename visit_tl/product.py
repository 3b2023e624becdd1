"""Products with the unembedding: nearly all the time of a reading goes into them.

A float32 product on a CPU goes to oneDNN, which torch carries but does not choose for matrices of
this type. Measured on two cores of an EPYC (Zen 5), 3600 x 576 by 576 x 49152 in tiles of 1024 x
4096: torch.mm, which is MKL there, 1.17 s; oneDNN 0.58 s, with float32's own accuracy. The whole of
`vectors @ W_U` at once takes 1.34 s. A bfloat16 product is as quick as 0.37 s, but ranks read from
it are off by tens.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST: Final = 64
"""Rows and columns from which on a number of a product does not depend on how many there are.

Below, libraries have kernels of their own, which add up in another order (MKL up to 16).
"""
_ROUNDING: Final = 2.0**-19
"""How far float32 products may be apart, over the norms of row and column: 5 x what was seen."""


class Factor:
    """One side of a product, laid out once for many: a stack of rows of d_model numbers.

    Attributes:
        count: How many rows.
        rounding: How far a product with a row of norm 1 may be from torch's own.
    """

    def __init__(self, rows: Float[Tensor, "row d_model"]) -> None:
        self.count = rows.shape[0]
        quick = rows.device.type == "cpu" and rows.dtype == torch.float32
        self.rows, self.rounding = _padded(rows), 0.0
        if quick and torch.backends.mkldnn.is_available():
            dense = _contiguous(self.rows.detach())
            self.rows = dense.to_mkldnn()
            largest = torch.linalg.vector_norm(dense, dim=-1).amax()
            self.rounding = float(largest) * _ROUNDING

    def times(self, other: Factor) -> Float[Tensor, "row other"]:
        """The inner product of each row with each row of another factor of the same type."""
        product = functional.linear(self.rows, other.rows)
        dense = product.to_dense() if product.is_mkldnn else product
        return dense[: self.count, : other.count]


def plain(
    rows: Float[Tensor, "row d_model"], columns: Float[Tensor, "d_model column"]
) -> Float[Tensor, "row column"]:
    """Torch's own product, to the bit what it is as part of a larger one."""
    product = torch.mm(_padded(rows), _padded(columns.T).T)
    return product[: rows.shape[0], : columns.shape[1]]


def _padded(rows: Tensor) -> Tensor:
    missing = LEAST - rows.shape[0]
    return functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


def _contiguous(rows: Tensor) -> Tensor:
    """The same as `contiguous`, three times as quick for columns of a larger matrix.

    Torch transposes in blocks only what is the transpose of something contiguous.
    """
    return rows if rows.is_contiguous() else rows.T.contiguous().T.contiguous()
