"""The model behind a graph, and whether running it again would repeat the graph's run."""

from __future__ import annotations

import weakref
from typing import Any, Protocol, runtime_checkable

from visit_tl.errors import GraphError
from visit_tl.model.adapters import active_adapters
from visit_tl.model.given_model import model_given
from visit_tl.model.standing_hooks import Standing, changed_now
from visit_tl.model.view import model_of_view


@runtime_checkable
class OfOneRun(Protocol):
    """A graph, or another result of one run of a model."""

    @property
    def model(self) -> str:
        """Name of the model."""
        ...

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens of the run."""
        ...

    @property
    def patched(self) -> tuple[str, ...]:
        """Hooks at which the run was patched."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """Adapters that were active."""
        ...

    @property
    def source(self) -> Any:
        """The model and the hooks left on it, as `Source`; None if loaded from a file."""
        ...


class Source:
    """A weak reference to the model that made a graph, and the hooks that acted on it then.

    Args:
        model: The model.
        standing: The hooks left on the model that changed something; None if `fwd_hooks` acted.
        modules: The SAEs and transcoders whose features the graph shows.
    """

    def __init__(
        self, model: Any, standing: Standing | None, modules: tuple[Any, ...] = ()
    ) -> None:
        self._model = weakref.ref(model)
        self.standing, self.modules = standing, modules

    def __call__(self) -> Any:
        """The model; None if it no longer exists."""
        return self._model()


def model_of(graph: OfOneRun, model: Any) -> Any:
    """The model to run a graph's prompt with again: the given one, or the graph's own.

    Raises:
        GraphError: there is no model, or its run would differ from the graph's run.
    """
    source = graph.source
    found = source() if model is None and source is not None else model
    if found is None and not (graph.patched and source is None):
        raise GraphError(
            f"the model {graph.model} that made this graph is not at hand (the graph was "
            f"loaded, or the model is gone); pass it as model="
        )
    found = model_given(found)
    if (reason := other_run(graph, found)) is not None:
        raise GraphError(reason)
    return found


def other_run(graph: OfOneRun, model: Any) -> str | None:
    """Why running a model on a graph's prompt would not repeat the graph's run; None if it would.

    A loaded graph has no record of its hooks; its run can be repeated if nothing was patched.
    """
    made: Standing | None = getattr(graph.source, "standing", None if graph.patched else {})
    if made is None:
        return (
            "this graph is of a patched run, and running the model again would be an unpatched "
            "one; ask a graph without fwd_hooks, or read what this one holds: its states, and "
            "the attention of its heads (g['L0H0'].attention)"
        )
    model = model_of_view(model)
    known = hasattr(model, "named_modules")
    if known and (reason := _other_adapters(graph, model)) is not None:
        return reason
    now = changed_now(model, graph.token_ids) if known else made
    if now == made:
        return None
    return (
        f"this graph is of a run in which the hooks left on the model changed {_names(made)}, and "
        f"now they change {_names(now)}; build the graph again, or put the hooks as they were "
        f"(model.reset_hooks() takes them off)"
    )


def _other_adapters(graph: OfOneRun, model: Any) -> str | None:
    """Why the adapters of a model are not those of a graph; None if they are, or may be.

    A model without adapters may be the one with the graph's adapters merged into its weights.
    """
    now = active_adapters(model)
    ours = graph.source is not None and graph.source() is model
    if now == graph.adapters or not (now or ours):
        return None
    return (
        f"this graph is of a run with the adapters {', '.join(graph.adapters) or '(none)'}, and "
        f"now the model has {', '.join(now) or '(none)'}; build the graph again, or activate "
        f"those that it had"
    )


def _names(standing: Standing) -> str:
    return ", ".join(standing) or "nothing"
