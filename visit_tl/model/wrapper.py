"""Unwrap modules that only pass calls on to the model inside, such as torch.compile's."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

# Attribute of the wrapped model: of torch.compile, and of DataParallel and similar wrappers.
_INNER: Final = ("_orig_mod", "module")

_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""For each wrapper that is not torch's, whether its output equals that of the model inside."""


def model_inside(model: Any) -> Any:
    """The model inside one or more wrappers; the argument itself if it is not a wrapper."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: Any) -> Any:
    """The model in a wrapper; None if it is not a wrapper, or one that computes something else."""
    children = getattr(model, "_modules", None)
    if not isinstance(children, dict) or len(children) != 1 or model._parameters:
        return None
    name, inner = next(iter(children.items()))
    if name not in _INNER:
        return None
    # A torch.compile wrapper is not tried: calling it would compile it, which takes minutes.
    if type(model).__module__.partition(".")[0] == "torch" or _computes_the_same(model, inner):
        return inner
    return None


def _computes_the_same(wrapper: Any, inner: Any) -> bool:
    """Whether a wrapper gives the same output as its model, tried once on one token."""
    import torch

    if wrapper not in _TRIED:
        try:
            device = next(inner.parameters()).device
            token = torch.zeros(1, 1, dtype=torch.long, device=device)
            with torch.no_grad():
                _TRIED[wrapper] = torch.equal(wrapper(token), inner(token))
        except Exception:
            _TRIED[wrapper] = False
    return _TRIED[wrapper]
