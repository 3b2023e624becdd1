"""What a study is told by name: heads, and corruptions of the prompts."""

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
        role: What they are wanted for; it stands in the message.

    Raises:
        GraphError: a name is no node's.
        InputError: what is named is no head, or none of this model.
    """
    nodes = [NodeId.parse(name) for name in names]
    odd = [str(node) for node in nodes if node.kind != "head" or node.position is not None]
    if odd:
        raise InputError(
            f"what is {role} are heads, named like L9H6 and without a position; got "
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
    """The prompts must have a corruption of this name.

    Raises:
        InputError: they have not; the message lists those that they have.
    """
    if corruption not in prompts.corruptions:
        known = ", ".join(prompts.corruptions) or "none"
        raise InputError(f"the prompts have no corruption {corruption!r}; they have {known}")
