"""How the queries and keys of one block become what is scored: its norms, and its rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from weakref import WeakKeyDictionary

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.hooks import ROWS, hook_names, keeper, row_of
from visit_tl.model.norm import FrozenNorm
from visit_tl.model.rotary import Norms, Seen, Way, find_way
from visit_tl.model.rotary_tables import HandedAngles, stored_angles
from visit_tl.model.view import ModelView

# Tokens of the prompt by which a way is found where the caller's own prompt cannot tell.
_PROBED: Final = 8


def normed(
    view: ModelView, layer: int, name: str, x: Float[Tensor, "*pos head d_head"]
) -> tuple[Tensor, FrozenNorm | None]:
    """Queries or keys after their norm, if there is one, and the norm with its scale fixed there.

    Raises:
        ModelError: the norm spans neither one head nor all heads.
    """
    norm = view.head_norm(layer, name)
    if norm is None or norm.kind == "none":
        return x, None
    size = x.shape[-1] if norm.weight is None else norm.weight.numel()
    if size == x.shape[-1] or (norm.weight is not None and norm.weight.shape == x.shape[-2:]):
        return norm(x), norm.freeze(x)
    whole = x.flatten(-2)
    if size != whole.shape[-1] or norm.kind != "RMS":
        raise ModelError(
            f"{name} of blocks.{layer} in {view.name} spans {size} entries, neither one head of "
            f"{x.shape[-1]} nor all {whole.shape[-1]}; its queries and keys cannot be read"
        )
    frozen = norm.freeze(whole)
    return norm(whole).view_as(x), replace(frozen, gain=frozen.gain.view_as(x))


def normed_rows(
    view: ModelView, layer: int, name: str, rows: Float[Tensor, "*pos head d_head"]
) -> Float[Tensor, "*pos head d_head"]:
    """Queries or keys of all positions after the norm `q_norm` or `k_norm`, if there is one."""
    return normed(view, layer, name, rows)[0]


def head_norms(view: ModelView, layer: int) -> Norms | None:
    """The norms of queries and of keys of a block as functions; None if it has neither."""
    if all(view.head_norm(layer, name) is None for name in ("q_norm", "k_norm")):
        return None
    return (
        lambda x: normed_rows(view, layer, "q_norm", x),
        lambda x: normed_rows(view, layer, "k_norm", x),
    )


def scored_by(
    view: ModelView, layer: int, position: int, way: Way, read: dict[str, Tensor]
) -> dict[str, object]:
    """Put queries and keys as they are scored into `read`, and return what made them so.

    The query is in its own frame: what the rotation of the position turns into the scored query.
    """
    rotation = way.at(position)
    own = read["keys"][position]
    if rotation is not None and way.norm_last:
        norms = {}
        for slot, name, x in (("query", "q_norm", read["query"]), ("key", "k_norm", own)):
            after, frozen = normed(view, layer, name, rotation.forward(x))
            norms[slot] = None if frozen is None else frozen.within(rotation)
            if slot == "query":
                read["query"] = rotation.inverse(after)
    else:
        read["query"], query_norm = normed(view, layer, "q_norm", read["query"])
        norms = {"query": query_norm, "key": normed(view, layer, "k_norm", own)[1]}
    if norms["key"] is not None:
        each = view.kv_head(len(own)).to(own.device)
        norms["key"] = replace(norms["key"], gain=norms["key"].gain[each])
    rotated, n = read.get("rotated_keys"), len(read["keys"])
    if rotated is None:
        read["keys"] = way.scored(
            read["keys"], way.each(n), lambda x: normed_rows(view, layer, "k_norm", x)
        )
    else:
        read["keys"] = normed_rows(view, layer, "k_norm", rotated) if way.norm_last else rotated
    return {"rotation": rotation, "query_norm": norms["query"], "key_norm": norms["key"]}


def heads_norm_of(view: ModelView, layer: int, read: Mapping[str, Tensor]) -> FrozenNorm | None:
    """The norm of all heads before W_O with its scale held, `[head, d_head]`; None if none."""
    norm = view.heads_norm(layer)
    if norm is None:
        return None
    values = read["values"][:, view.kv_head(read["values"].shape[1]).to(read["values"].device)]
    heads = einsum(read["pattern"], values, "head pos, pos head d_head -> head d_head")
    frozen = norm.freeze(heads.flatten())
    return replace(frozen, gain=frozen.gain.view_as(heads))


def way_of(
    view: ModelView,
    layer: int,
    position: int,
    seen: int,
    read: Mapping[str, Tensor],
    passed: HandedAngles,
    *,
    elsewhere: bool = False,
) -> Way:
    """How a block makes scored queries and keys, at every position.

    Args:
        view: The model.
        layer: The block.
        position: The position whose query and attention are used to find it.
        seen: How many positions it sees.
        read: What hooks show: `query`, `keys`, `pattern` of the position, and where they fired
            `rotated_query`, `rotated_keys`, `cos`, `sin`.
        passed: Finds rotary angles among what the model passes to its blocks.
        elsewhere: Whether this is the run of `way_elsewhere`.

    Raises:
        ModelError: nothing that was tried reproduces what the model computed.
    """
    if not view.rotary:
        return Way(None, None)
    tables = [(read["cos"], read["sin"])] if "cos" in read else []
    tables = tables or stored_angles(view.model.blocks[layer].attn) or passed(layer)
    device = read["query"].device
    what = Seen(
        query=read["query"],
        keys=read["keys"][:seen],
        pattern=read["pattern"][:, :seen],
        position=position,
        rotated=read.get("rotated_query") if "rotated_keys" in read else None,
        norms=head_norms(view, layer),
        kv_head=view.kv_head(read["keys"].shape[1]).to(device),
        where=f"blocks.{layer}.attn of {view.name}",
    )
    told = None if elsewhere else lambda: way_elsewhere(view, layer).place
    return find_way([(cos.to(device), sin.to(device)) for cos, sin in tables], what, told)


def way_elsewhere(view: ModelView, layer: int) -> Way:
    """The way of a block, found at the last of a few tokens from all over the vocabulary."""
    ids = view.tokens.plain()
    n = min(_PROBED, view.n_ctx)
    tokens = torch.tensor([[ids[(2 * i + 1) * len(ids) // (2 * n)] for i in range(n)]])
    tokens = tokens.to(view.W_U.device)
    names = hook_names(view, layer)
    kept: dict[str, Tensor] = {}
    view.run(tokens, [(name, keeper(kept, name, ROWS[s], [n - 1])) for s, name in names.items()])
    read = {s: row_of(kept[name], ROWS[s], 0) for s, name in names.items() if name in kept}
    return way_of(view, layer, n - 1, n, read, HandedAngles(view, tokens), elsewhere=True)


def norms_come_last(view: ModelView, layer: int) -> bool:
    """Whether a model's norms of queries and keys come after the rotation; asked of one block."""
    if not view.rotary or head_norms(view, layer) is None:
        return False
    if view not in _LAST:
        _LAST[view] = way_elsewhere(view, layer).norm_last
    return _LAST[view]


_LAST: Final[WeakKeyDictionary[ModelView, bool]] = WeakKeyDictionary()
