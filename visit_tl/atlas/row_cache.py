"""The atlas of one model: cached readouts of static rows; missing ones are computed and stored."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from visit_tl.atlas import files
from visit_tl.atlas.fingerprint import fingerprint
from visit_tl.atlas.row_table import NAMES, Digests, Sheet, columns_of, digests
from visit_tl.atlas.weight_rows import Places
from visit_tl.cache_dir import CacheWarning
from visit_tl.errors import FileError, InputError
from visit_tl.lens import readout as reading
from visit_tl.lenses.maps import Lens
from visit_tl.model.view import ModelView

SETTING: Final = "VISIT_TL_ATLAS"
"""Name of the environment variable: `disk` (the default), `memory` or `off`."""
_WORTH: Final = 2**22
"""Least entries of W_U for which a look-up is faster than a readout."""
_MODELS: Final = 2
"""How many models' atlases stay in memory."""
_IN_MEMORY: Final = 128 * 2**20
"""Bytes of the sheets that stay in memory, the most recently used ones."""

_PIECE: Final = 2048
"""Rows that are copied and read at once."""

_opened: OrderedDict[tuple[Path, str], Atlas] = OrderedDict()
_opening = threading.Lock()


class Atlas:
    """The cached readouts of the static rows of a model.

    Args:
        places: The model's static rows.
        k: How many top and bottom tokens a row has.
        kept: The folder of the sheets; None keeps them in memory only.
        lens: What carries rows to the last block before they are read; None is the logit lens.
    """

    def __init__(
        self, places: Places, k: int, kept: files.Folder | None, lens: Lens | None = None
    ) -> None:
        self.places, self.k, self.kept, self.lens = places, k, kept, lens
        self._sheets: OrderedDict[int, Sheet] = OrderedDict()
        self._new: dict[int, Sheet] = {}
        self._lock = threading.RLock()

    def read(
        self,
        view: ModelView,
        rows: Float[Tensor, "row d_model"],
        places: Int[np.ndarray, " row"],
        which: Int[np.ndarray, " asked"],
        targets: Int[np.ndarray, " asked"],
    ) -> dict[str, NDArray[np.generic]]:
        """The readouts of static rows, each for one target or several.

        The arguments `which` and `targets` together list the queries: pairs of a row and a target.

        Args:
            view: The model, as it was when the atlas was opened.
            rows: The vectors of the rows, each row once.
            places: The index of each row in the list of all static rows (`Places`).
            which: The row of each query, as an index into `rows`.
            targets: The target of each query.

        Returns:
            The columns `row_table.NAMES`, one entry per query.
        """
        found = digests(rows.cpu().numpy())
        result = {
            name: np.empty((len(which), *column.shape[1:]), column.dtype)
            for name, column in Sheet.empty(self.k).columns.items()
        }
        with self._lock:
            self._read_missing(view, rows, places, found, which, targets)
            for target, mine in _by_target(targets):
                sheet = self._sheet(target)
                at = sheet.find(places[which[mine]], found[which[mine]])
                for name in NAMES:
                    result[name][mine] = sheet.columns[name][at]
            self._trim()
        return result

    def save(self) -> None:
        """Write new readouts to disk; warn once if the cache cannot be written to."""
        with self._lock:
            new, self._new = self._new, {}
            if self.kept is None or not new:
                return
            try:
                for target, sheet in new.items():
                    self.kept.save(target, sheet)
                files.trim()
            except FileError as error:
                self.kept = None
                warnings.warn(
                    f"{error}; the atlas stays in memory (set {SETTING}=memory to avoid this "
                    f"warning)",
                    CacheWarning,
                    stacklevel=2,
                )

    def _read_missing(
        self,
        view: ModelView,
        rows: Tensor,
        places: NDArray[np.int64],
        found: Digests,
        which: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> None:
        """Read the rows that lack a readout for a target; each row once, for all of its targets."""
        missing = np.zeros(len(which), bool)
        for target, mine in _by_target(targets):
            asked = which[mine]
            missing[mine] = self._sheet(target).find(places[asked], found[asked]) < 0
        if not missing.any():
            return
        pairs = np.unique(np.stack((which[missing], targets[missing])), axis=1)
        distinct, start, count = np.unique(pairs[0], return_index=True, return_counts=True)
        # Rows with many targets first: the lens then skips rows without a further target.
        order = np.argsort(-count, kind="stable")
        row = np.repeat(np.argsort(order), count)
        slot = np.arange(pairs.shape[1]) - np.repeat(start, count)
        aims = np.full((len(distinct), count.max()), -1)
        aims[row, slot] = pairs[1]
        for begin in range(0, len(distinct), _PIECE):
            piece = slice(begin, begin + _PIECE)
            chosen = distinct[order[piece]]
            vectors = rows[torch.from_numpy(chosen)]
            if self.lens is not None:
                blocks = self.places.blocks(places[chosen])
                vectors = self.lens.carry(vectors, blocks, [False] * len(blocks))
            readout = reading.read(view, vectors, torch.from_numpy(aims[piece]), k=self.k)
            read = (row >= begin) & (row < begin + _PIECE)
            self._keep(readout, places, found, pairs[:, read], row[read] - begin, slot[read])

    def _keep(
        self,
        readout: reading.Readout,
        places: NDArray[np.int64],
        found: Digests,
        pairs: NDArray[np.int64],
        row: NDArray[np.int64],
        slot: NDArray[np.int64],
    ) -> None:
        """Add (row, target) pairs to their sheets; each has a row and a slot of the readout."""
        for target, mine in _by_target(pairs[1]):
            # Pairs are in the order of the rows, but a sheet is sorted by place.
            mine = mine[np.argsort(places[pairs[0][mine]])]
            asked = pairs[0][mine]
            columns = columns_of(readout, row[mine], slot[mine])
            newer = Sheet(places[asked], found[asked], columns)
            self._sheets[target] = self._sheet(target).add(newer)
            held = self._new.get(target)
            self._new[target] = newer if held is None else held.add(newer)

    def _sheet(self, target: int) -> Sheet:
        if target not in self._sheets:
            none = Sheet.empty(self.k)
            self._sheets[target] = none if self.kept is None else self.kept.load(target)
        self._sheets.move_to_end(target)
        return self._sheets[target]

    def _trim(self) -> None:
        held = sum(sheet.nbytes for sheet in self._sheets.values())
        while held > _IN_MEMORY and len(self._sheets) > 1:
            held -= self._sheets.popitem(last=False)[1].nbytes


def forget() -> None:
    """Clear the atlases in memory, as at the end of the process; files on disk stay."""
    with _opening:
        _opened.clear()


def open_atlas(view: ModelView, k: int, lens: Lens | None = None) -> Atlas | None:
    """Open the atlas of a model, for its present weights and for one lens.

    Returns:
        The atlas. None if the setting is `off`, if a readout is as fast as a look-up (on a GPU, or
        with a small vocabulary), or if no row is static.

    Raises:
        InputError: the setting in the environment is unknown.
    """
    setting = os.environ.get(SETTING, "disk")
    if setting not in ("disk", "memory", "off"):
        raise InputError(f"{SETTING} is {setting!r}; it can be disk, memory or off")
    if setting == "off" or view.W_U.device.type != "cpu" or view.W_U.numel() < _WORTH:
        return None
    places = Places.of(view)
    if not len(places):
        return None
    path = files.atlas_root() / fingerprint(view, places, k, lens)
    with _opening:
        atlas = _opened.pop((path, setting), None)
        if atlas is None:
            kept = files.Folder(path, view.name, len(places), view.d_vocab, k)
            atlas = Atlas(places, k, kept if setting == "disk" else None, lens)
        _opened[path, setting] = atlas
        while len(_opened) > _MODELS:
            _opened.popitem(last=False)
    return atlas


def _by_target(targets: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Each distinct target, with the indices of its entries."""
    return [(target, np.flatnonzero(targets == target)) for target in np.unique(targets).tolist()]
