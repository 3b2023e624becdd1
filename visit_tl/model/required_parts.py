"""What a call needs of blocks, and the message where a block does not have it."""

from __future__ import annotations

from collections.abc import Sequence

from visit_tl.errors import ModelError
from visit_tl.model.block_parts import BlockParts, some_layers


def require_matrices(latent: Sequence[int], name: str, what: str) -> None:
    """Require that queries, keys and values are one matrix times the state.

    Args:
        latent: The blocks whose attention is latent.
        name: The model's name.
        what: What needs it.

    Raises:
        ModelError: there is such a block; the message says what needs it.
    """
    if latent:
        raise ModelError(
            f"{what} needs W_Q, W_K and W_V, and blocks.{latent[0]} of {name} has latent "
            f"attention, where a norm between two matrices makes them different for each "
            f"state; graphs, attention_attribution and effects know them at their position"
        )


def require_attention(
    parts: Sequence[BlockParts], name: str, what: str, layers: Sequence[int] | None
) -> None:
    """Require attention that comes apart into heads in these blocks; None is all.

    Args:
        parts: The parts of every block.
        name: The model's name.
        what: What needs it.
        layers: The blocks.

    Raises:
        ModelError: a block has none; the message says what needs it.
    """
    missing = _without(parts, "attention", layers)
    if missing:
        every, remedy = " in every block", "flow_graph, effects and attribute do without"
        if layers is not None:
            every, remedy = "", "choose blocks that have it"
        raise ModelError(
            f"{what} needs attention{every}, but {blocks_named(missing)} of {name} "
            f"{'has' if len(missing) == 1 else 'have'} none that was opened "
            f"({parts[missing[0]].opaque_words}); {remedy}"
        )


def require_neurons(
    parts: Sequence[BlockParts], name: str, what: str, layers: Sequence[int] | None
) -> None:
    """Require one W_in and one W_out in these blocks; None is all. Arguments as above.

    Raises:
        ModelError: a block has experts, or an MLP that is not opened.
    """
    missing = _without(parts, "neurons", layers)
    if missing:
        kind = (
            "is a mixture of experts, each with its own"
            if parts[missing[0]].mlp == "experts"
            else f"is not opened ({parts[missing[0]].mlp_words})"
        )
        raise ModelError(
            f"{what} reads W_in and W_out of MLPs, but the MLP of {blocks_named(missing)} of "
            f"{name} {kind}; choose other blocks or other matrices"
        )


def _without(parts: Sequence[BlockParts], what: str, layers: Sequence[int] | None) -> list[int]:
    return [i for i in some_layers(parts, without=what) if layers is None or i in layers]


def blocks_named(layers: Sequence[int]) -> str:
    """Up to four blocks by name, and the number of the others."""
    more = len(layers) - 4
    named = ", ".join(f"blocks.{i}" for i in layers[:4])
    return f"{named} and {more} more" if more > 0 else named
