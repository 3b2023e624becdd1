"""What a caller gives as a model: the model, a wrapper around it, or its name."""

from __future__ import annotations

import os
from typing import Any, Final
from weakref import WeakKeyDictionary

from visit_tl.model.from_transformers import is_transformers_model

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


def what_to_pass(model: Any) -> str:
    """What to give instead of what is no model of TransformerLens, to end an error with."""
    if is_transformers_model(model):
        return (
            "it is a model of transformers: pass what "
            "visit_tl.load_model(model, tokenizer=tokenizer) gives"
        )
    modules = model.named_modules() if callable(getattr(model, "named_modules", None)) else ()
    for name, module in modules:
        if name and hasattr(module, "cfg") and hasattr(module, "run_with_hooks"):
            return f"it holds one: pass model.{name}"
    return "pass a HookedTransformer, a TransformerBridge, or what visit_tl.load_model gives"


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
