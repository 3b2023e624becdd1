"""What a caller gives as a model: the model, a wrapper around it, or its name."""

from __future__ import annotations

import os
from typing import Any

from visit_tl.model.from_transformers import is_transformers_model
from visit_tl.model.wrapper import model_inside


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
