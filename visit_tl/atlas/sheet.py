"""What is known of static rows for one target, as columns of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from visit_tl.lens import Readout

_WORDS: Final = ("top_ids", "top_probs", "bottom_ids", "bottom_probs", "entropy", "log_normaliser")
_TARGET: Final = ("target_logits", "target_probs", "target_ranks")
NAMES: Final = (*_WORDS, *_TARGET)
"""The columns, by their names in a `Readout`."""
_PLAIN: Final = {"f": np.float32, "i": np.int32}

Columns = Mapping[str, NDArray[np.generic]]
Digests = NDArray[np.int64]


def digests(rows: NDArray[np.float32]) -> Digests:
    """128 bits of the sha256 of each row's bytes: 3.5 ms for 2250 rows of 576 numbers."""
    found = [hashlib.sha256(row).digest()[:16] for row in np.ascontiguousarray(rows)]
    return np.frombuffer(b"".join(found), dtype=np.int64).reshape(len(rows), 2)


def columns_of(
    readout: Readout, rows: NDArray[np.int64], slots: NDArray[np.int64]
) -> dict[str, NDArray[np.generic]]:
    """Some rows of a readout as columns, each with the target of one slot."""
    columns = {}
    for name in NAMES:
        array = getattr(readout, name).cpu().numpy()
        array = array[rows] if name in _WORDS else array[rows, slots]
        columns[name] = array.astype(_PLAIN[array.dtype.kind])
    return columns


@dataclass(frozen=True)
class Sheet:
    """The rows that are known, each with the digest of the vector that was read.

    Attributes:
        places: Where they stand (`Places`), ascending.
        digests: Of their vectors, as two numbers a row.
        columns: What they read as.
    """

    places: NDArray[np.int64]
    digests: Digests
    columns: Columns

    @classmethod
    def empty(cls, k: int) -> Sheet:
        """A sheet on which nothing is known, of k top and bottom tokens a row."""
        columns = {
            name: np.zeros(
                (0, k) if name.startswith(("top", "bottom")) else 0,
                np.int32 if name.endswith(("ids", "ranks")) else np.float32,
            )
            for name in NAMES
        }
        return cls(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), columns)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        arrays = (self.places, self.digests, *self.columns.values())
        return sum(array.nbytes for array in arrays)

    def find(self, places: NDArray[np.int64], digests: Digests) -> NDArray[np.int64]:
        """Where rows are on this sheet; -1 for those that are not, or are of other weights."""
        if not len(self):
            return np.full(len(places), -1)
        at = np.searchsorted(self.places, places).clip(max=len(self) - 1)
        same = (self.places[at] == places) & (self.digests[at] == digests).all(1)
        return np.where(same, at, -1)

    def add(self, newer: Sheet) -> Sheet:
        """The rows of both; where both have one, the newer."""
        places, first = np.unique(np.concatenate((newer.places, self.places)), return_index=True)
        return Sheet(
            places,
            np.concatenate((newer.digests, self.digests))[first],
            {n: np.concatenate((newer.columns[n], self.columns[n]))[first] for n in NAMES},
        )
