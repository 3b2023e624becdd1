"""Every public call by its name: all of `__all__`, and the methods of what it holds."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

ROOMS = (
    "visit_tl",
    "visit_tl.causal",
    "visit_tl.circuits",
    "visit_tl.circuits.prompts",
    "visit_tl.circuits.metrics",
    "visit_tl.features",
    "visit_tl.gradients",
    "visit_tl.segments",
    "visit_tl.studies",
    "visit_tl.atlas",
    "visit_tl.view",
    "visit_tl.sweeps",
)

# Reached through FlowGraph.figure and the like, with the options of the caller.
VIEWS = (
    "visit_tl.view.figures.sankey:sankey",
    "visit_tl.view.figures.heads:heads",
    "visit_tl.view.figures.lens_table:figure",
    "visit_tl.view.figures.lens_table:text",
    "visit_tl.view.figures.neurons:neurons",
    "visit_tl.view.figures.neurons:text",
    "visit_tl.view.text:text",
)

_RECORD = "a record that the package makes"
_TABLE = "scores and members are read by `_checked`, whatever holds them"
EXEMPT = {
    "visit_tl.ModelView": "opens a model, and is what the calls of the package read it by",
    "visit_tl.Trace": "what the calls of the package read a forward pass by",
    "visit_tl.gradients.MatrixReadout": _RECORD,
    "visit_tl.sweeps.PromptRun": "what studies read a forward pass by, called for every prompt",
    "visit_tl.sweeps.Study.__call__": "takes a PromptRun",
    "visit_tl.sweeps.top_overlap": "called for every prompt; shapes stand in its signature",
    "visit_tl.FlowGraph.__contains__": "anything may be asked for; what is no id is not in it",
    "visit_tl.circuits.prompts.PromptSet.__getitem__": "an index or a slice, as of any sequence",
    **{f"visit_tl.circuits.metrics.{name}": _TABLE for name in (
        "at_k", "at_threshold", "auroc", "average_precision", "expected_hits", "jaccard",
        "pessimistic_area", "pessimistic_auc",
    )},
}  # fmt: skip
"""Public calls without a check, and why."""

_MAGIC = ("__getitem__", "__contains__", "__call__")


def public_calls() -> dict[str, Callable[..., Any]]:
    """By dotted name, every public function and method that takes an argument."""
    found: dict[str, Callable[..., Any]] = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        names = getattr(module, "__all__", None) or [
            name for name, o in vars(module).items()
            if inspect.isfunction(o) and o.__module__ == room and not name.startswith("_")
        ]  # fmt: skip
        for name in names:
            found |= _calls(f"{room}.{name}", getattr(module, name))
    for place in VIEWS:
        module, _, name = place.partition(":")
        found |= _calls(place.replace(":", "."), getattr(importlib.import_module(module), name))
    return {name: call for name, call in found.items() if _arguments(call)}


def exempt(name: str) -> bool:
    """Whether a call, or the class that it is of, is in `EXEMPT`."""
    return name in EXEMPT or name.rpartition(".")[0] in EXEMPT


def _calls(name: str, thing: Any) -> dict[str, Callable[..., Any]]:
    if inspect.isclass(thing):
        if issubclass(thing, BaseException):
            return {}
        found = {}
        for base in (b for b in thing.__mro__ if b.__module__.startswith("visit_tl")):
            for own, value in vars(base).items():
                call = getattr(value, "__func__", value)
                if inspect.isfunction(call) and (not own.startswith("_") or own in _MAGIC):
                    found.setdefault(f"{name}.{own}", call)
        return found
    return {name: thing} if inspect.isfunction(thing) else {}


def _arguments(call: Callable[..., Any]) -> list[str]:
    names = inspect.signature(call).parameters
    return [name for name in names if name not in ("self", "cls")]
