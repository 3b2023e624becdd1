"""Edges as ACDC keeps them: a pair of hooks, each with an index whose last entry is the head.

Source: ArthurConmy/Automatic-Circuit-Discovery, acdc/TLACDCEdge.py (TorchIndex, EdgeType).
"""

from __future__ import annotations

import re
from typing import Any, Final

from visit_tl.errors import GraphError

_HOOK: Final = re.compile(r"blocks\.([0-9]{1,9})\.(.+)")


Ends = tuple[str, str, str | None]
"""Source, target, and which input of the target: parts as `circuit_parts` prints them."""


def read_edge(to_hook: Any, to_index: Any, from_hook: Any, from_index: Any) -> Ends:
    """Read ACDC's four-tuple, in which the receiver comes before the sender.

    Args:
        to_hook: Name of the receiver's hook, such as `blocks.9.hook_q_input`.
        to_index: Such as `[None, None, 6]`, or a TorchIndex.
        from_hook: Name of the sender's hook, such as `blocks.7.attn.hook_result`.
        from_index: Like `to_index`.

    Raises:
        GraphError: a hook is not one of ACDC's, an index names no head, or the two make no edge.
    """
    target, read = _hook(to_hook, to_index)
    if (own := _inside(to_hook, to_index)) is not None:
        source, _, read = own
        if _hook(from_hook, from_index) != (source, read):
            raise GraphError(
                f"{to_hook} is computed from the {read} input of {source} alone, not "
                f"from {from_hook}"
            )
        return own
    source, fed = _hook(from_hook, from_index)
    if fed is not None or source == target:
        raise GraphError(
            f"{to_hook} <- {from_hook} is one of ACDC's placeholders, which join what a part reads "
            f"to what it writes and do not count as edges; leave them out"
        )
    return source, target, read


def _inside(hook: Any, index: Any) -> Ends | None:
    """The ends of the edge inside a head that ends at its queries, keys or values; else None."""
    match = _HOOK.fullmatch(str(hook))
    if match is None or match[2] not in ("attn.hook_q", "attn.hook_k", "attn.hook_v"):
        return None
    head = f"L{int(match[1])}H{_last(index, hook)}"
    return head, head, match[2][-1]


def _hook(hook: Any, index: Any) -> tuple[str, str | None]:
    """The part, and the input of a head, that a hook stands for."""
    if hook in ("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"):
        return "input", None
    match = _HOOK.fullmatch(str(hook))
    if match is not None:
        layer, name = int(match[1]), match[2]
        if name in ("attn.hook_result", "attn.hook_z"):
            return f"L{layer}H{_last(index, hook)}", None
        if found := re.fullmatch(r"(?:hook_([qkv])_input|attn\.hook_([qkv]))", name):
            return f"L{layer}H{_last(index, hook)}", found[1] or found[2]
        if name in ("hook_mlp_in", "hook_mlp_out"):
            return f"m{layer}", None
        if name == "hook_resid_post":
            return "logits", None
    raise GraphError(
        f"{hook!r} is no end of an ACDC edge; those are hook_resid_pre, hook_embed, "
        f"attn.hook_result, hook_q_input, hook_k_input, hook_v_input, attn.hook_q, attn.hook_k, "
        f"attn.hook_v, hook_mlp_in, hook_mlp_out and the last hook_resid_post"
    )


def _last(index: Any, hook: Any) -> int:
    entries = getattr(index, "hashable_tuple", index)
    last: Any = entries[-1] if isinstance(entries, tuple | list) and entries else entries
    if not is_index(last):
        raise GraphError(
            f"the index of {hook} must end in a head, such as [None, None, 6], got {index!r}"
        )
    return int(last)


def is_index(index: Any) -> bool:
    """Whether a value is an integer; NumPy's integers are, booleans are not."""
    return hasattr(index, "__index__") and not isinstance(index, bool)
