"""Heads, and corruptions of the prompts, that a study is given by name."""

from __future__ import annotations

from collections.abc import Iterable

from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.model.view import ModelView


def named_heads(view: ModelView, names: Iterable[NodeId | str], role: str) -> list[NodeId]:
    """The heads of these names.

    Args:
        view: The model.
        names: Such as `L9H6`, without a position.
        role: What is done with them, such as `patched at END`; the error message says it.

    Raises:
        GraphError: a name is not a node id.
        InputError: a node is not a head, or not one of this model.
    """
    nodes = [NodeId.parse(name) for name in names]
    odd = [str(node) for node in nodes if node.kind != "head" or node.position is not None]
    if odd:
        raise InputError(
            f"only heads can be {role}, named like L9H6 and without a position; got "
            f"{', '.join(odd)}"
        )
    outside = [
        str(node)
        for node in nodes
        if (node.layer or 0) >= view.n_layers or (node.head or 0) >= view.n_heads
    ]
    if outside:
        raise InputError(
            f"{view.name} has {view.n_layers} blocks of {view.n_heads} heads, so there is no "
            f"{', '.join(outside)} to be {role}"
        )
    return nodes


def require_corruption(prompts: PromptSet, corruption: str) -> None:
    """Check that the prompts have a corruption of this name.

    Raises:
        InputError: they do not; the message lists those that they have.
    """
    if corruption not in prompts.corruptions:
        known = ", ".join(prompts.corruptions) or "none"
        raise InputError(f"the prompts have no corruption {corruption!r}; they have {known}")
