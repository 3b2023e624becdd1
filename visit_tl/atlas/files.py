"""The atlas on disk: one safetensors file for each model and target, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from visit_tl.atlas.fingerprint import FORMAT
from visit_tl.atlas.row_table import NAMES, Sheet
from visit_tl.cache_dir import CacheWarning, cache_root, locked
from visit_tl.errors import FileError
from visit_tl.files import write

LIMIT: Final = 512 * 2**20
"""Bytes of all files together; above it, the least recently used files are removed."""
_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True)
class Folder:
    """The sheets of one model.

    Attributes:
        path: The folder; its name is the fingerprint.
        model: Name of the model, for display.
        rows: How many static rows the model has.
        d_vocab: Size of its vocabulary.
        k: How many top and bottom tokens a row has.
    """

    path: Path
    model: str
    rows: int
    d_vocab: int
    k: int

    def load(self, target: int) -> Sheet:
        """The sheet of a target; empty if there is no file, or if the file is damaged."""
        path = self._path(target)
        if not path.is_file():
            return Sheet.empty(self.k)
        with contextlib.suppress(OSError):
            os.utime(path)
        try:
            return self._parse(path, target)
        # Any problem with a file may only cost a new readout; each library has errors of its own.
        except Exception as error:
            warnings.warn(
                f"{path} is not a sheet of the atlas, or is damaged ({_line(error)}); its rows are "
                f"read again",
                CacheWarning,
                stacklevel=2,
            )
            with contextlib.suppress(OSError):
                path.unlink()
            return Sheet.empty(self.k)

    def save(self, target: int, sheet: Sheet) -> None:
        """Add the rows of a sheet to those that the file holds by now, atomically.

        Raises:
            FileError: the cache cannot be written to.
        """
        from safetensors.numpy import save

        with locked(self.path):
            sheet = self.load(target).add(sheet)
            arrays = {"places": sheet.places, "digests": sheet.digests, **sheet.columns}
            about = {
                "format": f"visit_tl atlas {FORMAT}",
                "model": self.model,
                "target": str(target),
                "sha256": _sum(arrays),
            }
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"cannot write the atlas at {self.path}: {error}") from error
            write(self._path(target), save(arrays, about))

    def _path(self, target: int) -> Path:
        return self.path / f"{target}{_SUFFIX}"

    def _parse(self, path: Path, target: int) -> Sheet:
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            about, names = file.metadata() or {}, file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        if about.get("format") != f"visit_tl atlas {FORMAT}" or about.get("target") != str(target):
            raise ValueError("it describes something else")
        if about.get("sha256") != _sum(arrays):
            raise ValueError("its numbers do not match its checksum")
        sheet = Sheet(arrays.pop("places"), arrays.pop("digests"), arrays)
        self._check(sheet)
        return sheet

    def _check(self, sheet: Sheet) -> None:
        empty, m = Sheet.empty(self.k), len(sheet.places)
        pairs = [(empty.places, sheet.places), (empty.digests, sheet.digests)]
        if set(sheet.columns) != set(NAMES):
            raise ValueError("its columns have other names")
        pairs += [(empty.columns[name], sheet.columns[name]) for name in NAMES]
        for wanted, found in pairs:
            if found.dtype != wanted.dtype or found.shape != (m, *wanted.shape[1:]):
                raise ValueError("a column has another shape or type")
        if m and ((np.diff(sheet.places) <= 0).any() or not _within(sheet.places, self.rows)):
            raise ValueError("its rows are not rows of the model")
        for name in NAMES:
            column = sheet.columns[name]
            good = (
                _within(column, self.d_vocab)
                if column.dtype == np.int32
                else bool(np.isfinite(column).all())
            )
            if not good:
                raise ValueError(f"{name} holds a value that no readout gives")


@dataclass(frozen=True)
class About:
    """What the atlas holds of one model.

    Attributes:
        path: Its folder.
        model: Name of the model.
        targets: For how many targets rows are stored.
        nbytes: Bytes of its files.
    """

    path: Path
    model: str
    targets: int
    nbytes: int


def atlas_root() -> Path:
    """The folder of all sheets, in the user's cache. It may not exist yet."""
    return cache_root() / "atlas"


def info() -> list[About]:
    """What the atlas holds of each model, sorted by the model's name."""
    found = []
    for path in _folders():
        files = list(_files(path))
        names = {_model(file) for file, _ in files}
        total = sum(stat.st_size for _, stat in files)
        found.append(About(path, ", ".join(sorted(names)), len(files), total))
    return sorted(found, key=lambda about: (about.model, about.path.name))


def clear() -> int:
    """Remove every sheet; return how many bytes were freed."""
    total = sum(about.nbytes for about in info())
    shutil.rmtree(atlas_root(), ignore_errors=True)
    return total


def trim(limit: int = LIMIT) -> None:
    """Remove the least recently used sheets until the rest fit into the limit, in bytes."""
    files = [file for folder in _folders() for file in _files(folder)]
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= stat.st_size


def _folders() -> list[Path]:
    root = atlas_root()
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The sheets of a folder that are still there, each with its size and time."""
    for file in sorted(path.glob(f"*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            yield file, file.stat()


def _model(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("model", "unknown")
    except (OSError, SafetensorError):
        return "unknown"


def _sum(arrays: dict[str, NDArray[np.generic]]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(arrays[name]).data)
    return hashed.hexdigest()


def _within(numbers: NDArray[np.generic], end: int) -> bool:
    return not numbers.size or bool((numbers.min() >= 0) & (numbers.max() < end))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
