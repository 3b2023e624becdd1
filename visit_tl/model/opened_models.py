"""A cache of the models that are opened by name, at most once per process."""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import RLock
from typing import Any, Final

from visit_tl.arguments.plain import too_long
from visit_tl.files import home
from visit_tl.model.embedded.models import find_embedded

KEPT_MODELS: Final = 2
"""How many models are kept; the least recently used one is released."""

_KEPT: OrderedDict[Any, tuple[str, Any]] = OrderedDict()
_LOCK = RLock()


def named_model(name: str | os.PathLike[str]) -> Any:
    """Return the model of that name; `load_model` opens it at the first request.

    A file or folder that has changed since then is opened again.

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
    """Release the models that were opened because a call was given their name.

    `flow_graph("smollm2-135m", prompt)` and similar calls keep up to two such models for the next
    call. Their memory is freed once nothing else refers to them. Models that `load_model` returned
    are not affected.

    Returns:
        The names under which they were opened.
    """
    with _LOCK:
        names = tuple(name for name, _ in _KEPT.values())
        _KEPT.clear()
        return names


def _key(name: str) -> Any:
    """A key that identifies a model: its name, or the state of the files that it is read from."""
    embedded = find_embedded(name)
    if embedded is not None:
        return embedded.name
    path = home(name)
    if not name.strip() or too_long(name) or not path.exists():
        return name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return path.resolve(), tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats)
