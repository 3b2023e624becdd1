"""Models that were asked for by name: opened once in a process, and kept."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from threading import RLock
from typing import Any, Final

from visit_tl.model.embedded import find_embedded

KEPT_MODELS: Final = 2
"""How many are kept; the one that was not asked for the longest is let go."""

_KEPT: OrderedDict[Any, tuple[str, Any]] = OrderedDict()
_LOCK = RLock()


def named_model(name: str | os.PathLike[str]) -> Any:
    """The model of that name, opened by `load_model` when it is first asked for.

    A file or folder that has changed since is opened again.

    Raises:
        ModelError: as `load_model`.
        InputError: the name is empty.
    """
    from visit_tl.model.load import load_model

    with _LOCK:
        key = _key(os.fspath(name))
        if key not in _KEPT:
            _KEPT[key] = os.fspath(name), load_model(name)
        _KEPT.move_to_end(key)
        while len(_KEPT) > KEPT_MODELS:
            _KEPT.popitem(last=False)
        return _KEPT[key][1]


def release_models() -> tuple[str, ...]:
    """Let go of the models that were opened because a call was given their name.

    `flow_graph("smollm2-135m", prompt)` and the like keep up to two such models for the next call.
    Their memory is free once nothing else holds them. What `load_model` gave is not among them.

    Returns:
        The names that they were asked for by.
    """
    with _LOCK:
        names = tuple(name for name, _ in _KEPT.values())
        _KEPT.clear()
        return names


def _key(name: str) -> Any:
    """What tells one model from another: its name, or the files that it is read from."""
    embedded = find_embedded(name)
    if embedded is not None:
        return embedded.name
    path = Path(name).expanduser()
    if not name.strip() or not path.exists():
        return name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return path.resolve(), tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats)
