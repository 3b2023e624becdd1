"""Error messages about arguments: the call, the argument, what it accepts, what was given."""

from __future__ import annotations

import reprlib
import sys
from typing import Any, Final

from visit_tl.arguments.plain import is_tensor

_LONGEST: Final = 60


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 4
        self.maxlevel = 3
        self.maxstring = self.maxother = _LONGEST

    def repr_instance(self, x: Any, level: int) -> str:
        """Show other objects by their class, since their own repr may be long or fail."""
        numpy = sys.modules.get("numpy")
        if is_tensor(x) or (numpy and isinstance(x, numpy.ndarray)):
            kind = "a tensor" if is_tensor(x) else "an array"
            return f"{kind} of shape {list(x.shape)} ({x.dtype})"
        if x is None or isinstance(x, bool | int | float | bytes | range | slice):
            return super().repr_instance(x, level)
        if isinstance(x, type):
            return f"the class {x.__name__}"
        name = getattr(x, "__qualname__", None)
        if callable(x) and isinstance(name, str):
            return f"the function {name}"
        return f"a {type(x).__name__}"


_SHORT: Final = _Short()


def short(value: Any) -> str:
    """A short text for any value."""
    try:
        shown = _SHORT.repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return shown if len(shown) <= 2 * _LONGEST else f"{shown[: 2 * _LONGEST]}..."


def name_of_call(function: Any, owner: type | None) -> str:
    """The name of a call as it is written in code: `flow_graph`, `FlowGraph.at`, `FlowGraph[...]`.

    Args:
        function: What is called.
        owner: The class that it is called on, which may have inherited the method; None for a
            function.
    """
    name = function.__qualname__.rpartition("<locals>.")[2]
    if owner is not None:
        name = f"{owner.__name__}.{name.rpartition('.')[2]}"
    return name.replace(".__getitem__", "[...]").replace(".__init__", "")


def refusal(call: str, name: str, words: str, example: str, given: Any, why: str) -> str:
    """The error message.

    For example `flow_graph: k must be an integer of at least 1, got None; for example k=5`.
    """
    said = f"{call}: {name} must be {words}, got {short(given)}{f', {why}' if why else ''}"
    if not example:
        return said
    return f"{said}; for example {example if call.endswith('[...]') else f'{name}={example}'}"
