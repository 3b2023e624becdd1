"""The kernel that a trial chose, kept in the user's cache: a small file for each kind of machine.

It saves a second and no more, so whatever is wrong with a file or its folder is no error: then the
trial is done again, and its result stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from visit_tl.errors import InputError
from visit_tl.kernel import Kernel
from visit_tl.model.cache_dir import cache_root

FORMAT: Final = 1
"""Of the files; raise it when other passes over a tile make other tiles the quickest."""

Facts = Mapping[str, object]


def load(facts: Facts) -> Kernel | None:
    """The kernel that was kept for a machine, or None if there is none that can be read."""
    try:
        record = json.loads(_path(facts).read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["machine"] != dict(facts):
            return None
        return Kernel.parse(record["kernel"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, InputError):
        return None


def save(facts: Facts, kernel: Kernel) -> None:
    """Keep a kernel, the file whole or not at all; where nothing can be written, nothing is."""
    record = {"format": FORMAT, "machine": dict(facts), "kernel": str(kernel)}
    with contextlib.suppress(OSError, RuntimeError):
        path = _path(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(record, indent=1) + "\n")
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise


def _path(facts: Facts) -> Path:
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    return cache_root() / "kernels" / f"{digest[:16]}.json"
