"""Whether an open model is as it was: its modules, parameters and hooks."""

from __future__ import annotations

from visit_tl.model.standing_hooks import on_modules
from visit_tl.model.view import ModelView


def model_state(view: ModelView) -> object:
    """Which modules the model has, where its parameters are, and torch's counts of their changes.

    Changes through `parameter.data` are not counted by torch, and not seen here.

    Returns:
        An object that is equal as long as nothing has changed; None if there are hooks of the
        caller, or adapters, which can change what the model computes without a trace.
    """
    modules = tuple(view.modules)
    if view.adapters.on_layers or view.adapters.names or on_modules(modules):
        return None
    try:
        return tuple(
            (
                tuple(map(id, module._modules.values())),
                tuple(
                    (p.data_ptr(), p._version) for p in module._parameters.values() if p is not None
                ),
            )
            for module in modules
            if module._modules or module._parameters
        )
    except RuntimeError:  # parameters made in inference mode have no count
        return None
