"""The kernel that a trial chose, stored in the user's cache: one small file per kind of machine.

A stored kernel saves only about a second. So a problem with a file or its folder is not an error:
the trial is run again, and its result stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from visit_tl.cache_dir import cache_root
from visit_tl.errors import FileError, InputError
from visit_tl.files import write
from visit_tl.lens.kernel import Kernel

FORMAT: Final = 2
"""Version of the files; raise it when a change of the code may make other tiles the fastest."""

Facts = Mapping[str, object]


def load(facts: Facts) -> Kernel | None:
    """The kernel stored for a machine; None if there is none, or its file cannot be read."""
    try:
        record = json.loads(_path(facts).read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["machine"] != dict(facts):
            return None
        return Kernel.parse(record["kernel"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, InputError):
        return None


def save(facts: Facts, kernel: Kernel) -> None:
    """Store a kernel, writing the file atomically. Do nothing if the cache cannot be written to."""
    record = {"format": FORMAT, "machine": dict(facts), "kernel": str(kernel)}
    with contextlib.suppress(OSError, RuntimeError, FileError):
        path = _path(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, f"{json.dumps(record, indent=1)}\n".encode())


def _path(facts: Facts) -> Path:
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    return cache_root() / "kernels" / f"{digest[:16]}.json"
