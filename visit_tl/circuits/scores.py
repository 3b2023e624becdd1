"""Scores of heads or edges, from whatever holds them: a graph, an array, a mapping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Float

from visit_tl.circuits.edges import Shape
from visit_tl.circuits.names import Edge, Part, is_edge, parse_end
from visit_tl.circuits.references import Reference
from visit_tl.errors import InputError
from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.records import Node

By = Literal["norm", "prob", "rank", "attention", "attribution", "effect"]
BY: Final[tuple[By, ...]] = get_args(By)
SIGNED: Final = ("attribution", "effect")

Level = Literal["heads", "edges"]


@dataclass(frozen=True)
class Scores:
    """One number a head or an edge.

    Attributes:
        level: Whether heads or edges are scored.
        values: Score of each; those that are not named have none.
        what: What the numbers are, in a few words.
        model: The model that they are of, where that is known.
        absolute: Whether their sizes are to be ranked and not their signed values.
        notes: What had to be left out or put together.
    """

    level: Level
    values: Mapping[Part | Edge, float]
    absolute: bool
    what: str = "score"
    model: str | None = None
    notes: tuple[str, ...] = ()


def read_scores(source: Any, reference: Reference, by: By | None, absolute: bool | None) -> Scores:
    """The scores that something holds, for the heads or edges of a reference's model.

    Args:
        source: A FlowGraph, what `effects` or `edge_effects` measured, an array or tensor or
            nested list [layer, head], or a mapping of heads or of edges in any spelling.
        reference: What they are to be compared with.
        by: Which number of a graph's heads; None is `norm` for a graph, and what anything else
            needs.
        absolute: Whether sizes count and not signs; None is True for attributions and effects.

    Raises:
        InputError: it is none of these, empty, of another model's shape, or holds NaN.
        GraphError: a name cannot be read.
    """
    if isinstance(source, FlowGraph):
        sizes = (by in SIGNED) if absolute is None else absolute
        return _of_graph(source, reference, by or "norm", sizes)
    if by is not None:
        raise InputError(
            f"by = {by!r} chooses a number of a graph's heads, but the scores given are a "
            f"{type(source).__name__}, which has one already: leave it out"
        )
    if (measured := _of_effects(source, reference, absolute)) is not None:
        return measured
    if isinstance(source, Mapping):
        return _of_mapping(source, reference, bool(absolute))
    values = matrix(source)
    check_shape(Shape(*values.shape), reference, "the scores are")
    heads = {Part("head", *at): float(value) for at, value in np.ndenumerate(values)}
    return Scores("heads", _numbers(heads), bool(absolute))


def matrix(scores: Any) -> Float[np.ndarray, "layer head"]:
    """Scores [layer, head] as an array, from an array, a tensor or a nested list.

    Raises:
        InputError: it is not numbers in two dimensions.
    """
    try:
        if hasattr(scores, "detach"):
            scores = scores.detach().cpu().float().numpy()
        values = np.asarray(scores, dtype=float)
    except Exception as error:  # whatever an object of the caller does when it is read
        raise InputError(
            f"scores must be numbers [layer, head], a mapping or a FlowGraph; "
            f"{type(scores).__name__} is none of them ({error})"
        ) from error
    if values.ndim != 2 or not values.size:
        raise InputError(f"scores must be [layer, head], got shape {list(values.shape)}")
    return values


def check_shape(shape: Shape, reference: Reference, whose: str) -> None:
    """Refuse scores of another shape than that of the reference's model.

    Raises:
        InputError: layers or heads differ; names the heads of the reference that are out of range.
    """
    own = reference.shape
    if (shape.n_layers, shape.n_heads) == (own.n_layers, own.n_heads):
        return
    outside = [
        str(head)
        for head in reference.heads
        if head.layer >= shape.n_layers or head.head >= shape.n_heads  # type: ignore[operator]
    ]
    told = (
        f"out of range are {', '.join(outside)}"
        if outside
        else "all its heads are in range, but they are those of another model"
    )
    raise InputError(
        f"{reference.name} is of {reference.model}, {own}, but {whose} of {shape}: {told}. Compare "
        f"with a reference of the same model, or load one of your own from a file"
    )


# --- graphs --------------------------------------------------------------------------------------


def _of_graph(graph: FlowGraph, reference: Reference, by: By, absolute: bool) -> Scores:
    if by not in BY:
        raise InputError(f"by = {by!r} is none of {', '.join(BY)}")
    nodes = graph.of_kind("head")
    check_shape(_shape(graph, nodes), reference, f"the graph is of {graph.model},")
    if by == "rank" and absolute:
        raise InputError("a rank has no sign: leave absolute out, or set it to False")
    size = abs if absolute else float
    values: dict[Part | Edge, float] = {}
    for node in nodes:
        value = _READ[by](node, graph)
        if value is None:
            continue
        head = Part("head", node.id.layer, node.id.head)
        # A head that was followed to several positions counts where it scores highest.
        if head not in values or size(value) > size(values[head]):
            values[head] = value
    if nodes and not values:
        raise InputError(
            f"no head of this graph has an {by}; measure it first, or compare by norm, prob, rank "
            f"or attention"
        )
    spots = {node.id.position for node in nodes} - {None}
    notes = ("of several positions the highest score of a head counts",) if spots else ()
    return Scores("heads", _numbers(values), absolute, by, graph.model, notes)


def _shape(graph: FlowGraph, nodes: tuple[Node, ...]) -> Shape:
    """Layers and heads of a graph's model, the heads as those shown and hidden in one block."""
    layer = graph.layers[0]
    shown = [n for n in nodes if n.layer == layer and n.id.position is None]
    n_heads = len(shown) + graph.hidden[layer].heads
    return Shape(graph.n_layers, n_heads)


def _attention(node: Node, graph: FlowGraph) -> float | None:
    """The largest attention, but for BOS at the beginning, on which idle heads rest."""
    if node.attention is None:
        return None
    first = int(graph.prepend_bos) + int(graph.bos_in_prompt)
    return max(node.attention[first:], default=0.0)


_READ: Final[dict[str, Callable[[Node, FlowGraph], float | None]]] = {
    "norm": lambda node, graph: node.norm,
    "prob": lambda node, graph: node.prob,
    "rank": lambda node, graph: -float(node.rank),
    "attention": _attention,
    "attribution": lambda node, graph: node.attribution,
    "effect": lambda node, graph: None if node.effect is None else node.effect.value,
}


# --- measured effects ----------------------------------------------------------------------------


def _of_effects(source: Any, reference: Reference, absolute: bool | None) -> Scores | None:
    """The scores of an Effects or EdgeEffects, which know their model; None for anything else."""
    from visit_tl.causal.edges import EdgeEffects
    from visit_tl.causal.measured import Effects

    sizes = True if absolute is None else absolute
    if isinstance(source, EdgeEffects):
        read = _edges(source.scores, reference, sizes)
    elif isinstance(source, Effects):
        shape = Shape(source.n_layers, source.n_heads)
        check_shape(shape, reference, f"the effects are of {source.model},")
        own = [i for i in source.ids if i.kind == "head" and getattr(i, "position", None) is None]
        if not own:
            raise InputError("no head was patched as a whole, so there is no effect to compare")
        read = _heads({i: source[i].value for i in own}, reference, sizes)
    else:
        return None
    return replace(read, what=f"effect on {source.metric} ({source.how})", model=source.model)


# --- mappings ------------------------------------------------------------------------------------


def _of_mapping(source: Mapping[Any, Any], reference: Reference, absolute: bool) -> Scores:
    if not source:
        raise InputError("the mapping of scores is empty: there is nothing to compare")
    kinds = {is_edge(key) for key in source}
    if len(kinds) > 1:
        part, edge = (
            next(key for key in source if is_edge(key) is wanted) for wanted in (False, True)
        )
        raise InputError(f"scores of heads and of edges cannot be mixed: {part!r} and {edge!r}")
    read = _edges if kinds == {True} else _heads
    return read(source, reference, absolute)


def _edges(source: Mapping[Any, Any], reference: Reference, absolute: bool) -> Scores:
    values: dict[Part | Edge, float] = {}
    spelled: dict[Edge, Any] = {}
    inside = 0
    for key, value in source.items():
        edge = Edge.parse(key)
        _once(spelled, edge, key)
        if edge.internal and not reference.internal:
            inside += 1
        else:
            values[edge] = value
    _in_range([end for edge in spelled for end in (edge.source, edge.target)], reference)
    notes = (f"{inside} edges inside heads left out: the coding has none",) if inside else ()
    return Scores("edges", _numbers(values), absolute, notes=notes)


def _heads(source: Mapping[Any, Any], reference: Reference, absolute: bool) -> Scores:
    found: dict[tuple[Part, str | None], Any] = {}
    spelled: dict[tuple[Part, str | None], Any] = {}
    for key, value in source.items():
        end = parse_end(key)
        _once(spelled, end, key)
        found[end] = value
    _in_range([part for part, _ in found], reference)
    others = [str(part) for part, _ in found if part.kind != "head"]
    numbers = _numbers({end: value for end, value in found.items() if end[0].kind == "head"})
    notes = [f"{len(others)} that are no heads left out: {', '.join(others)}"] if others else []
    if any(read is not None for _, read in numbers):
        notes.append("of a head's q, k and v the highest score counts")
    size = abs if absolute else float
    values: dict[Part | Edge, float] = {}
    for (part, _), value in numbers.items():
        if part not in values or size(value) > size(values[part]):
            values[part] = value
    if not values:
        raise InputError(f"none of {', '.join(others)} is a head: there is nothing to compare")
    return Scores("heads", values, absolute, notes=tuple(notes))


def _once(seen: dict[Any, Any], item: Any, key: Any) -> None:
    if item in seen:
        raise InputError(f"{key!r} and {seen[item]!r} are one and the same; give it one score")
    seen[item] = key


def _in_range(parts: list[Part], reference: Reference) -> None:
    outside = dict.fromkeys(str(part) for part in parts if not reference.shape.holds(part))
    if outside:
        raise InputError(
            f"{', '.join(outside)} are out of range of {reference.name}, which is of "
            f"{reference.model}, {reference.shape}"
            + ("" if reference.shape.mlps else " and no MLPs")
        )


def _numbers(values: Mapping[Any, Any]) -> dict[Any, float]:
    """The scores as floats; NaN and what is no number are refused by name."""
    numbers = {}
    for item, value in values.items():
        try:
            numbers[item] = float(getattr(value, "value", value))
        except (TypeError, ValueError):
            raise InputError(f"the score of {_name(item)} is {value!r}, not a number") from None
        if math.isnan(numbers[item]):
            raise InputError(
                f"the score of {_name(item)} is NaN, which cannot be ranked; drop it or replace it"
            )
    return numbers


def _name(item: Any) -> str:
    return str(item[0]) if isinstance(item, tuple) else str(item)
