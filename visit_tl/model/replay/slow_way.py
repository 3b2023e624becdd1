"""Warn the user, once per model, that a slower method than usual is used."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from visit_tl.errors import PerformanceWarning, warn_caller

_SAID: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""For each model, the slow methods that were already warned of."""


def say_once(
    model: Any, name: str, way: str, cost: str, reason: str, *, doing: str = "patching"
) -> None:
    """Warn that a slow method is used, unless this model's user was already warned of it.

    Args:
        model: The model, as the caller has it.
        name: Its name.
        way: Name of the method, such as `blocks`.
        cost: What the method does, and what it costs.
        reason: Why the faster method cannot be used, as found when it was tried.
        doing: What is done with the model.
    """
    said = _SAID.setdefault(model, set())
    if way in said:
        return
    said.add(way)
    warn_caller(
        f"{doing} {name} takes the slow way {way!r}: {cost}. The results are the same. Why: "
        f"{' '.join(reason.split())[:400]}. visit_tl.check(model) shows the way and the releases "
        f"that were tested.",
        PerformanceWarning,
    )
