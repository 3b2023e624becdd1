"""Which edges of a model are cut, and what their senders write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, get_args

from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import Positions
from visit_tl.causal.residual_writes import Writes, WrittenRun
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import Shape, model_edges
from visit_tl.graph.circuit_parts import Edge, Part, parse_end
from visit_tl.graph.container import GraphData
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

How = Literal["resample", "mean", "zero"]
HOWS: Final[tuple[How, ...]] = get_args(How)


def shape_of(view: ModelView) -> Shape:
    """The heads and MLPs of a model."""
    mlps = not view.attn_only
    return Shape(view.n_layers, view.n_heads, mlps=mlps, parallel=view.parallel and mlps)


def other_writes(
    view: ModelView, clean: WrittenRun, how: str, corrupted: Prompt | None, others: Sequence[Prompt]
) -> tuple[Writes, WrittenRun | None]:
    """What the parts write along cut edges, and the corrupted run if there is one.

    Raises:
        InputError: what `how` needs is missing, or a prompt has another length.
    """
    if how not in HOWS:
        raise InputError(f"how is {how!r}; it must be one of {', '.join(HOWS)}")
    n = clean.kept.n_tokens
    for name, prompts in (
        ("the corrupted prompt", (corrupted,)),
        ("a prompt of mean_over", others),
    ):
        for other in prompts:
            if other is not None and len(other.ids) != n:
                raise InputError(
                    f"{name} has {len(other.ids)} tokens, the clean one {n}; they must have the "
                    f"same number, so that their positions match"
                )
    if how == "resample" and corrupted is None:
        raise InputError("how='resample' needs corrupted=, a prompt of the same number of tokens")
    if how == "mean" and not others:
        raise InputError("how='mean' needs mean_over=, prompts of the same number of tokens")
    ran = None if corrupted is None else WrittenRun(view, corrupted)
    if how == "zero":
        return clean.writes.zero(), ran
    if how == "mean":
        return Writes.mean([WrittenRun(view, other).writes for other in others]), ran
    assert ran is not None
    return ran.writes, ran


def choose(
    shape: Shape,
    edges: GraphData | Iterable[Any] | None,
    senders: Iterable[Any] | None = None,
    receivers: Iterable[Any] | None = None,
) -> tuple[Edge, ...]:
    """The chosen edges: in the order given, or sorted by reader if they were not listed.

    Raises:
        InputError: the model has no such edge, or none is left.
        GraphError: the name of an edge or part cannot be read.
    """
    there = model_edges(shape)
    if isinstance(edges, GraphData):
        shown = {Part("head", n.layer, n.id.head) for n in edges.of_kind("head")}
        keep = {p for e in there for p in (e.source, e.target) if p.kind != "head"} | shown
        chosen = [e for e in there if e.source in keep and e.target in keep]
    elif edges is None:
        chosen = list(there)
    else:
        chosen = list(dict.fromkeys(Edge.parse(edge) for edge in edges))
        known = set(there)
        if unknown := [edge for edge in chosen if edge not in known]:
            raise InputError(
                f"{unknown[0]} is no edge between parts of a model of {shape}"
                f"{' whose attention and MLPs are parallel' if shape.parallel else ''}"
                f"{'' if shape.mlps else ' without MLPs'}"
                f"{'; edges inside a head are not patched' if unknown[0].internal else ''}"
            )
    if senders is not None:
        from_these = {Part.parse(part) for part in senders}
        chosen = [edge for edge in chosen if edge.source in from_these]
    if receivers is not None:
        ends = {parse_end(part) for part in receivers}
        chosen = [e for e in chosen if (e.target, e.input) in ends or (e.target, None) in ends]
    if not chosen:
        raise InputError("no edge is left to measure: senders and receivers share none")
    if edges is not None and not isinstance(edges, GraphData):
        return tuple(chosen)
    return tuple(sorted(chosen, key=lambda e: (e.target.order, e.source.order, e.input or "")))


def positions_of(view: ModelView, positions: Positions | None, n: int) -> list[int]:
    """Positions counted from 0, ascending; None is all of them.

    Raises:
        InputError: there are none, or one is outside the prompt.
    """
    if (chosen := integers_or_none(positions)) is None:
        return list(range(n))
    found = sorted({view.check_position(position, n) for position in chosen})
    if not found:
        raise InputError("positions is empty; None is all of them")
    return found
