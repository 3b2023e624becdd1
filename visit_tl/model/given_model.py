"""The forms in which a caller may give a model: the model, a wrapper around it, or its name."""

from __future__ import annotations

import os
from typing import Any

from visit_tl.model.from_transformers import is_transformers_model
from visit_tl.model.wrapper import model_inside


def model_given(model: Any) -> Any:
    """Return the model itself, whatever form it was given in; a name is opened once and kept.

    Args:
        model: A model, a wrapper around one (`torch.compile(model)`, `DataParallel(model)`), or a
            name or path as `load_model` takes it.

    Returns:
        The model. Any other argument is returned unchanged; the caller must refuse it.

    Raises:
        ModelError: the name cannot be opened.
    """
    if isinstance(model, str | os.PathLike):
        from visit_tl.model.opened_models import named_model

        return named_model(model)
    return model_inside(model)


def what_to_pass(model: Any) -> str:
    """The end of an error message: what to pass instead of an object that is not a model."""
    if is_transformers_model(model):
        return (
            "it is a model of transformers: pass the result of "
            "visit_tl.load_model(model, tokenizer=tokenizer)"
        )
    modules = model.named_modules() if callable(getattr(model, "named_modules", None)) else ()
    for name, module in modules:
        if name and hasattr(module, "cfg") and hasattr(module, "run_with_hooks"):
            return f"it holds one: pass model.{name}"
    return "pass a HookedTransformer, a TransformerBridge, or the result of visit_tl.load_model"
