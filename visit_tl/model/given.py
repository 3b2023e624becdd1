"""What a caller gives as a model: the model, a wrapper around it, or its name."""

from __future__ import annotations

import os
from typing import Any, Final
from weakref import WeakKeyDictionary

# Where a wrapper keeps the model that it calls: torch.compile, and DataParallel and its kind.
_INNER: Final = ("_orig_mod", "module")

_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""By wrapper that is not torch's, whether it computes what the model inside computes."""


def model_given(model: Any) -> Any:
    """The model itself, whatever form it was given in; a name is opened once and kept.

    Args:
        model: A model, a wrapper around one (`torch.compile(model)`, `DataParallel(model)`), or a
            name or path as `load_model` takes it.

    Returns:
        The model; for anything else what was given, for the caller to refuse.

    Raises:
        ModelError: a name that cannot be opened.
    """
    if isinstance(model, str | os.PathLike):
        from visit_tl.model.kept import named_model

        return named_model(model)
    return model_inside(model)


def model_inside(model: Any) -> Any:
    """The model in a wrapper, or in several; what was given where it is no wrapper."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def where_inside(model: Any) -> str | None:
    """The attribute of a module at which it holds a model of TransformerLens, if it does."""
    modules = getattr(model, "named_modules", None)
    if not callable(modules):
        return None
    found = (name for name, module in model.named_modules() if name and _is_model(module))
    return next(found, None)


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


def _is_model(module: Any) -> bool:
    return hasattr(module, "cfg") and hasattr(module, "run_with_hooks")
