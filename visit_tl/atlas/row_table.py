"""Readouts of static rows for one target, as columns of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from visit_tl.lens.readout import Readout

_WORDS: Final = ("top_ids", "top_probs", "bottom_ids", "bottom_probs", "entropy", "log_normaliser")
_TARGET: Final = ("target_logits", "target_probs", "target_ranks")
NAMES: Final = (*_WORDS, *_TARGET)
"""Names of the columns, as in a `Readout`."""
_PLAIN: Final = {"f": np.float32, "i": np.int32}

Columns = Mapping[str, NDArray[np.generic]]
Digests = NDArray[np.int64]


def digests(rows: NDArray[np.float32]) -> Digests:
    """The first 128 bits of the sha256 of each row; 3.5 ms for 2250 rows of 576 numbers."""
    found = [hashlib.sha256(row).digest()[:16] for row in np.ascontiguousarray(rows)]
    return np.frombuffer(b"".join(found), dtype=np.int64).reshape(len(rows), 2)


def columns_of(
    readout: Readout, rows: NDArray[np.int64], slots: NDArray[np.int64]
) -> dict[str, NDArray[np.generic]]:
    """Some rows of a readout as columns; each row takes its target from the given slot."""
    columns = {}
    for name in NAMES:
        array = getattr(readout, name).cpu().numpy()
        array = array[rows] if name in _WORDS else array[rows, slots]
        columns[name] = array.astype(_PLAIN[array.dtype.kind])
    return columns


@dataclass(frozen=True)
class Sheet:
    """The stored rows for one target, each with the digest of the vector that was read.

    Attributes:
        places: Their indices in the list of static rows (`Places`), ascending.
        digests: Digests of their vectors, two numbers per row.
        columns: Their readouts.
    """

    places: NDArray[np.int64]
    digests: Digests
    columns: Columns

    @classmethod
    def empty(cls, k: int) -> Sheet:
        """A sheet without rows, for k top and bottom tokens per row."""
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
        """Bytes of its arrays."""
        arrays = (self.places, self.digests, *self.columns.values())
        return sum(array.nbytes for array in arrays)

    def find(self, places: NDArray[np.int64], digests: Digests) -> NDArray[np.int64]:
        """Indices of rows on this sheet; -1 for rows that are missing or have other weights."""
        if not len(self):
            return np.full(len(places), -1)
        at = np.searchsorted(self.places, places).clip(max=len(self) - 1)
        same = (self.places[at] == places) & (self.digests[at] == digests).all(1)
        return np.where(same, at, -1)

    def add(self, newer: Sheet) -> Sheet:
        """A sheet with the rows of both; for a row that both have, the newer one."""
        places, first = np.unique(np.concatenate((newer.places, self.places)), return_index=True)
        return Sheet(
            places,
            np.concatenate((newer.digests, self.digests))[first],
            {n: np.concatenate((newer.columns[n], self.columns[n]))[first] for n in NAMES},
        )
