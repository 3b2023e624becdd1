"""Telling a user, once a model, that a slower way than usual is taken."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from visit_tl.errors import PerformanceWarning, warn_caller

_SAID: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""By model, the slow ways that its user was told of."""


def say_once(model: Any, name: str, way: str, cost: str, reason: str) -> None:
    """Warn that a slow way is taken, unless that was said of this model.

    Args:
        model: The model, as the caller has it.
        name: Its name.
        way: Name of the way, such as `blocks`.
        cost: What is done and what it costs.
        reason: Why, as found when the quicker way was tried.
    """
    said = _SAID.setdefault(model, set())
    if way in said:
        return
    said.add(way)
    warn_caller(
        f"patching {name} takes the slow way {way!r}: {cost}. The results are the same. Why: "
        f"{' '.join(reason.split())[:400]}. visit_tl.check(model) shows the way and the releases "
        f"that were tested.",
        PerformanceWarning,
    )
