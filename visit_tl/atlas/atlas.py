"""The atlas of one model: rows that are known are looked up, others are read and then known."""

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

from visit_tl import lens
from visit_tl.atlas import files
from visit_tl.atlas.fingerprint import fingerprint
from visit_tl.atlas.places import Places
from visit_tl.atlas.sheet import NAMES, Digests, Sheet, columns_of, digests
from visit_tl.errors import FileError, InputError
from visit_tl.model.cache_dir import CacheWarning
from visit_tl.model.view import ModelView

SETTING: Final = "VISIT_TL_ATLAS"
"""Name of the environment variable: `disk` (the default), `memory` or `off`."""
_WORTH: Final = 2**22
"""Numbers of an unembedding from which on looking up is quicker than reading."""
_MODELS: Final = 2
"""Models whose atlases stay in memory."""
_IN_MEMORY: Final = 128 * 2**20
"""Bytes of the sheets that stay in memory, those used last."""

_PIECE: Final = 2048
"""Rows that are copied out of all to be read at once."""

_opened: OrderedDict[tuple[Path, str], Atlas] = OrderedDict()
_opening = threading.Lock()


class Atlas:
    """What is known of the static rows of a model.

    Args:
        places: The model's static rows.
        k: How many top and bottom tokens a row has.
        kept: Where sheets are kept; None for in memory only.
    """

    def __init__(self, places: Places, k: int, kept: files.Folder | None) -> None:
        self.places, self.k, self.kept = places, k, kept
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
        """What static rows read as, each for one target or several.

        Args:
            view: The model, as it was when the atlas was opened.
            rows: Their vectors, each row once.
            places: Where they stand.
            which: The row of each question.
            targets: Its target.

        Returns:
            The columns `sheet.NAMES`, one entry a question.
        """
        found = digests(rows.cpu().numpy())
        result = {
            name: np.empty((len(which), *column.shape[1:]), column.dtype)
            for name, column in Sheet.empty(self.k).columns.items()
        }
        with self._lock:
            self._learn(view, rows, places, found, which, targets)
            for target, mine in _by(targets):
                sheet = self._sheet(target)
                at = sheet.find(places[which[mine]], found[which[mine]])
                for name in NAMES:
                    result[name][mine] = sheet.columns[name][at]
            self._forget()
        return result

    def save(self) -> None:
        """Keep on disk what was learnt; a cache that cannot be written to is said once."""
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
                    f"{error}; the atlas stays in memory ({SETTING}=memory says so from the start)",
                    CacheWarning,
                    stacklevel=2,
                )

    def _learn(
        self,
        view: ModelView,
        rows: Tensor,
        places: NDArray[np.int64],
        found: Digests,
        which: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> None:
        """Read every row that is not known for its target: once, whatever targets it lacks."""
        unknown = np.zeros(len(which), bool)
        for target, mine in _by(targets):
            asked = which[mine]
            unknown[mine] = self._sheet(target).find(places[asked], found[asked]) < 0
        if not unknown.any():
            return
        pairs = np.unique(np.stack((which[unknown], targets[unknown])), axis=1)
        distinct, start, count = np.unique(pairs[0], return_index=True, return_counts=True)
        # Rows with many targets first, so that the lens compares with no more than it must.
        order = np.argsort(-count, kind="stable")
        row = np.repeat(np.argsort(order), count)
        slot = np.arange(pairs.shape[1]) - np.repeat(start, count)
        aims = np.full((len(distinct), count.max()), -1)
        aims[row, slot] = pairs[1]
        for begin in range(0, len(distinct), _PIECE):
            piece = slice(begin, begin + _PIECE)
            vectors = rows[torch.from_numpy(distinct[order[piece]])]
            readout = lens.read(view, vectors, torch.from_numpy(aims[piece]), k=self.k)
            read = (row >= begin) & (row < begin + _PIECE)
            self._keep(readout, places, found, pairs[:, read], row[read] - begin, slot[read])

    def _keep(
        self,
        readout: lens.Readout,
        places: NDArray[np.int64],
        found: Digests,
        pairs: NDArray[np.int64],
        row: NDArray[np.int64],
        slot: NDArray[np.int64],
    ) -> None:
        """Put (row, target) pairs onto their sheets, from a row and a slot of a readout each."""
        for target, mine in _by(pairs[1]):
            # Pairs are in the order of the rows, which need not be that of their places.
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

    def _forget(self) -> None:
        held = sum(sheet.nbytes for sheet in self._sheets.values())
        while held > _IN_MEMORY and len(self._sheets) > 1:
            held -= self._sheets.popitem(last=False)[1].nbytes


def forget() -> None:
    """Lose what is in memory, as the end of the process would; what is on disk stays."""
    with _opening:
        _opened.clear()


def open_atlas(view: ModelView, k: int) -> Atlas | None:
    """The atlas of a model, as its weights are now.

    Returns:
        None if the setting is `off`, if reading is as quick as looking up (on a GPU, or with a
        small vocabulary), or if no row is static.

    Raises:
        InputError: the environment names an unknown setting.
    """
    setting = os.environ.get(SETTING, "disk")
    if setting not in ("disk", "memory", "off"):
        raise InputError(f"{SETTING} is {setting!r}; it can be disk, memory or off")
    if setting == "off" or view.W_U.device.type != "cpu" or view.W_U.numel() < _WORTH:
        return None
    places = Places.of(view)
    if not len(places):
        return None
    path = files.atlas_root() / fingerprint(view, places, k)
    with _opening:
        atlas = _opened.pop((path, setting), None)
        if atlas is None:
            kept = files.Folder(path, view.name, len(places), view.d_vocab, k)
            atlas = Atlas(places, k, kept if setting == "disk" else None)
        _opened[path, setting] = atlas
        while len(_opened) > _MODELS:
            _opened.popitem(last=False)
    return atlas


def _by(targets: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Each target, and where it is."""
    return [(target, np.flatnonzero(targets == target)) for target in np.unique(targets).tolist()]
