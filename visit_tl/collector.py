"""Python's garbage collector, asked to wait."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no garbage be collected meanwhile, if it was at all.

    For what makes records by the ten thousand and drops none: the collector takes that for a reason
    to look at everything, torch and transformers with it. It was a tenth of the time of a graph
    (0.25 s of 2.2 s, all of it in vain).
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
