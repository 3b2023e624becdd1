"""Whether features are of the same SAE or transcoder; ids such as L9.z.F123 alone do not say so."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final

from visit_tl.graph.container import GraphData
from visit_tl.graph.records import FeatureSet

_CLOSE: Final = 0.01
"""How far apart two shares of the error may be, of one SAE in one run; half precision is within."""


def another_module(one: FeatureSet | Any, other: FeatureSet | Any) -> bool:
    """Whether two modules, or records of them, cannot be the same, by what they are."""
    names = ("architecture", "hook", "hook_out", "n_features")
    return any(getattr(one, name) != getattr(other, name) for name in names)


def another_in_the_run(graph: GraphData, own: FeatureSet, active: Collection[int]) -> bool:
    """Whether what a graph shows cannot be of a module, given what the module does in its run.

    Args:
        graph: The graph.
        own: The record of the module in the same run, at the same position.
        active: The features that are not 0 there.
    """
    theirs = shown_at(graph, own)
    if theirs is None:
        return False
    shown = (node for node in graph.of_kind("feature") if node.id.position is None)
    return (
        another_module(theirs, own)
        or not math.isclose(theirs.error_share, own.error_share, rel_tol=_CLOSE, abs_tol=1e-4)
        or any(
            node.id.neuron not in active
            for node in shown
            if (node.layer, node.id.site) == (own.layer, own.site) and node.coefficient
        )
    )


def shown_at(graph: GraphData, own: FeatureSet) -> FeatureSet | None:
    """The module that a graph shows where another one is; None if it shows none."""
    place = own.layer, own.site
    return next((one for one in graph.feature_sets if (one.layer, one.site) == place), None)


def module_words(one: FeatureSet | Any) -> str:
    """A module in a few words, for a message."""
    read = "" if one.hook == one.hook_out else f", read from {one.hook}"
    return f"{one.name or 'an SAE'} ({one.architecture}, {one.n_features} features{read})"
