"""Keys and values of earlier positions, in the forms in which blocks take them."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

# Names under which blocks and attention take a cache without showing it: they read it out of
# **kwargs, so no signature and no call tells. Any name that a signature or a call shows is tried
# before these (`model.block_calls`); a name that is missing here costs speed, not correctness.
UNSHOWN_NAMES: Final = (
    "past_key_values",
    "past_key_value",
    "layer_past",
    "past_kv_cache_entry",
    "cache",
)


def is_cache(value: Any) -> bool:
    """Whether a value can be asked what a block asks of a cache of keys and values."""
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


class Past:
    """The keys and values of the positions before the first row, for every run of a batch.

    It is what both kinds of block take for a cache: TransformerLens's call `append` and have the
    positions on the second axis, those of transformers call `update` and have them on the last but
    one. Nothing is kept from one call to the next.

    Args:
        keys: Keys of one run; None where there is nothing before, only to see what comes.
        values: Its values.
        n: How many positions are before the first row.

    Attributes:
        seen: The keys and values that the block itself made, once it has been called.
    """

    is_compileable = False

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, n: int = 0):
        self._keys, self._values, self._n = keys, values, n
        self.seen: tuple[Tensor, Tensor] | None = None

    def update(
        self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As a cache of transformers: `[batch, head, pos, d_head]`."""
        return self._join(keys, values, 2)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As a cache of TransformerLens: `[batch, pos, head, d_head]`."""
        return self._join(keys, values, 1)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Number of positions before the first row."""
        return self._n

    @property
    def past_keys(self) -> Tensor:
        """Of TransformerLens, which asks it for its number of positions."""
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
