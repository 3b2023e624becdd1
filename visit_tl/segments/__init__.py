"""Segments of a prompt: which tokens see each other in both directions.

Spans as data, where they come from (ranges, separators, chat templates), and the masks that follow
from them. This package knows no model; `visit_tl.model` runs models under these masks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.segments.batch_masks import batch_mask
    from visit_tl.segments.collator import SegmentCollator
    from visit_tl.segments.spans import Segments

_MODULES = {"Segments": "spans", "SegmentCollator": "collator", "batch_mask": "batch_masks"}

__all__ = ["SegmentCollator", "Segments", "batch_mask"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.segments' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.segments.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
