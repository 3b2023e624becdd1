"""The progress of a sweep on disk, so that finished effects are not measured again."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from visit_tl.errors import FileError
from visit_tl.files import write
from visit_tl.model.view import ModelView

_SCHEMA: Final = "visit_tl sweep 1"
_SAVE_EVERY = 2.0  # seconds between two writes
_FINGERPRINT_ENTRIES = 64  # entries of each parameter that enter the fingerprint


class Progress:
    """Finished effects by node; the file is written completely or not at all.

    Args:
        path: The file to create or continue; None writes no file.
        about: Description of the sweep, as JSON; the file of another sweep is refused.

    Attributes:
        done: Effects by node id, as text.

    Raises:
        FileError: the file is not the progress of this sweep, or cannot be written.
    """

    def __init__(self, path: str | Path | None, about: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._about = json.loads(json.dumps(about))
        self._saved = time.monotonic()
        self.done: dict[str, float] = {}
        if self._path is not None and self._path.exists():
            self.done = self._read(self._path)
        elif self._path is not None:
            self._require_folder(self._path)

    def add(self, node: str, value: float) -> None:
        """Add an effect, and write the file if the last time was a few seconds ago."""
        self.done[node] = value
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file now."""
        self._saved = time.monotonic()
        if self._path is not None:
            data = {"schema": _SCHEMA, "about": self._about, "done": self.done}
            write(self._path, (json.dumps(data, ensure_ascii=True) + "\n").encode())

    def _read(self, path: Path) -> dict[str, float]:
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{path} cannot be read as the progress of a sweep: {error}") from error
        if not isinstance(data, dict) or data.get("schema") != _SCHEMA:
            raise FileError(
                f"{path} is no progress of a sweep (expected the schema {_SCHEMA!r}); name a new "
                f"file, or the one that resume=... wrote"
            )
        about, done = data.get("about"), data.get("done")
        if not isinstance(about, dict) or not isinstance(done, dict):
            raise FileError(f"{path} is damaged: 'about' or 'done' is no JSON object; delete it")
        for name, ours in self._about.items():
            theirs = about.get(name)
            if not _same(ours, theirs):
                raise FileError(
                    f"{path} is the progress of another sweep: its {name} is {_short(theirs)}, "
                    f"this one's is {_short(ours)}; name a new file, or delete that one"
                )
        if not all(isinstance(value, float | int) for value in done.values()):
            raise FileError(f"{path} is damaged: an effect in it is not a number; delete it")
        try:
            return {str(node): float(value) for node, value in done.items()}
        except OverflowError as error:
            raise FileError(f"{path} is damaged: {error}; delete it") from error

    @staticmethod
    def _require_folder(path: Path) -> None:
        if not path.parent.is_dir():
            raise FileError(f"the folder {path.parent} does not exist; make it first")


def fingerprint(view: ModelView) -> str:
    """Hash of the weights: name, shape and some evenly spread entries of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in view.model.named_parameters():
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // _FINGERPRINT_ENTRIES)
        digest.update(f"{name}{list(parameter.shape)}".encode())
        digest.update(json.dumps(flat[::step].double().tolist()).encode())
    return digest.hexdigest()


def _same(ours: Any, theirs: Any) -> bool:
    # The last bits of a run depend on the machine and on the number of threads.
    if isinstance(ours, float) and isinstance(theirs, float | int):
        return math.isclose(ours, theirs, rel_tol=1e-3, abs_tol=1e-3)
    return ours == theirs


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
