"""Views: functions that turn a graph into a figure or a string.

They return their result: they never show it, save it or change a default.

    import visit_tl as vt
    vt.view.compare(clean, patched).save("both.html")

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.view.attention import AttentionView
    from visit_tl.view.figures.side_by_side import SideBySide, compare

_HOMES = {
    "AttentionView": "attention",
    "SideBySide": "figures.side_by_side",
    "compare": "figures.side_by_side",
}

__all__ = ["AttentionView", "SideBySide", "compare"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'visit_tl.view' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.view.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
