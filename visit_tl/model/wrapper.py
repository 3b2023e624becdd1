"""Modules around a model that compute what the model computes, such as torch.compile's."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

# Where a wrapper keeps the model that it calls: torch.compile, and DataParallel and its kind.
_INNER: Final = ("_orig_mod", "module")

_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""By wrapper that is not torch's, whether it computes what the model inside computes."""


def model_inside(model: Any) -> Any:
    """The model in a wrapper, or in several; what was given where it is no wrapper."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: Any) -> Any:
    """The model in a wrapper; None where it is no wrapper, or one that computes something else."""
    children = getattr(model, "_modules", None)
    if not isinstance(children, dict) or len(children) != 1 or model._parameters:
        return None
    name, inner = next(iter(children.items()))
    if name not in _INNER:
        return None
    # Running what torch.compile gives would compile it, which takes minutes.
    if type(model).__module__.partition(".")[0] == "torch" or _computes_the_same(model, inner):
        return inner
    return None


def _computes_the_same(wrapper: Any, inner: Any) -> bool:
    """Whether a wrapper hands on what its model says, tried once on one token."""
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
