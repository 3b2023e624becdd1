"""Keys and values of earlier positions, in the forms that blocks accept."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

# Names of cache arguments that blocks and attention read from **kwargs, so that neither a signature
# nor a call shows them. Names that a signature or a call shows are tried before these
# (`block_calls.py`). A name that is missing here costs speed, not correctness.
UNSHOWN_NAMES: Final = (
    "past_key_values",
    "past_key_value",
    "layer_past",
    "past_kv_cache_entry",
    "cache",
)


def is_cache(value: Any) -> bool:
    """Whether a value has the methods that a block uses of a cache of keys and values."""
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


class Past:
    """The keys and values of the positions before the first row, shared by all runs of a batch.

    Both kinds of block accept it as a cache. Blocks of TransformerLens call `append`, with
    positions on the second axis; blocks of transformers call `update`, with positions on the last
    axis but one. Nothing is added to it between calls.

    Args:
        keys: Keys of one run; None if no positions come before, to record `seen` only.
        values: Values of the same run.
        n: How many positions are before the first row.

    Attributes:
        seen: The keys and values that the block itself computed; None before it is called.
    """

    is_compileable = False

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, n: int = 0):
        self._keys, self._values, self._n = keys, values, n
        self.seen: tuple[Tensor, Tensor] | None = None

    def update(
        self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Join keys and values as a cache of transformers does: `[batch, head, pos, d_head]`."""
        return self._join(keys, values, 2)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Join keys and values as a cache of TransformerLens does: `[batch, pos, head, d_head]`."""
        return self._join(keys, values, 1)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Number of positions before the first row."""
        return self._n

    @property
    def past_keys(self) -> Tensor:
        """An empty tensor from which TransformerLens reads the number of positions."""
        return torch.empty(1, self._n, 0)

    def _join(self, keys: Tensor, values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        self.seen = keys, values
        if self._keys is None or self._values is None:
            return keys, values
        return _before(self._keys, keys, axis, self._n), _before(
            self._values, values, axis, self._n
        )


def _before(past: Tensor, new: Tensor, axis: int, n: int) -> Tensor:
    past = past.narrow(axis, 0, n).expand(new.shape[0], -1, -1, -1)
    return torch.cat([past, new], dim=axis)
