"""Read scores of heads or edges from a graph, measured effects, an array or a mapping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Float

from visit_tl.circuits.references import Reference
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import Shape
from visit_tl.graph.circuit_parts import Edge, Part, is_edge, parse_end
from visit_tl.graph.container import GraphData
from visit_tl.graph.records import Node

By = Literal["norm", "prob", "rank", "attention", "attribution", "effect", "gradient", "reversed"]
BY: Final[tuple[By, ...]] = get_args(By)
SIGNED: Final = ("attribution", "effect")

Level = Literal["heads", "edges"]


@dataclass(frozen=True)
class Scores:
    """One number per head or edge.

    Attributes:
        level: Whether heads or edges are scored.
        values: The scores; a head or edge that is not a key has no score.
        what: What the numbers are, in a few words.
        model: The model that the scores belong to; None if unknown.
        absolute: Whether to rank absolute values instead of signed ones.
        notes: What was left out or combined.
    """

    level: Level
    values: Mapping[Part | Edge, float]
    absolute: bool
    what: str = "score"
    model: str | None = None
    notes: tuple[str, ...] = ()


def read_scores(source: Any, reference: Reference, by: By | None, absolute: bool | None) -> Scores:
    """Read scores for the heads or edges of a reference's model.

    Args:
        source: A FlowGraph, the result of `effects`, `edge_effects` or `composition_scores`, an
            array, tensor or nested list [layer, head], or a mapping of heads or of edges, in any
            spelling, to numbers.
        reference: The reference that the scores will be compared with.
        by: Which value of a graph's heads to use. None is `norm` for a graph; for any other source
            it must be None.
        absolute: Whether absolute values are ranked instead of signed ones; None is True for
            attributions and effects.

    Raises:
        InputError: the source is none of these, is empty, has the shape of another model, or holds
            NaN.
        GraphError: a name cannot be read.
    """
    if isinstance(source, GraphData):
        sizes = (by in SIGNED) if absolute is None else absolute
        return _of_graph(source, reference, by or "norm", sizes)
    if by is not None:
        raise InputError(
            f"by = {by!r} chooses a number of a graph's heads, but the scores given are a "
            f"{type(source).__name__}, which has only one number for each: leave by out"
        )
    if (measured := _of_effects(source, reference, absolute)) is not None:
        return measured
    if isinstance(source, Mapping):
        return _of_mapping(source, reference, bool(absolute))
    values = matrix(source)
    check_shape(Shape(*values.shape), reference, "the scores are")
    heads = {Part("head", *at): float(value) for at, value in np.ndenumerate(values)}
    return Scores("heads", _floats(heads), bool(absolute))


def matrix(scores: Any) -> Float[np.ndarray, "layer head"]:
    """Scores [layer, head] as an array, from an array, a tensor or a nested list.

    Raises:
        InputError: the scores are not a two-dimensional array of numbers.
    """
    try:
        if hasattr(scores, "detach"):
            scores = scores.detach().cpu().float().numpy()
        values = np.asarray(scores, dtype=float)
    except Exception as error:  # converting an object of the caller may raise anything
        raise InputError(
            f"scores must be numbers [layer, head], a mapping or a FlowGraph; "
            f"{type(scores).__name__} is none of them ({error})"
        ) from error
    if values.ndim != 2 or not values.size:
        raise InputError(f"scores must be [layer, head], got shape {list(values.shape)}")
    return values


def check_shape(shape: Shape, reference: Reference, whose: str) -> None:
    """Check that scores have the shape of the reference's model.

    Raises:
        InputError: the number of layers or heads differs; the message names the heads of the
            reference that are out of range.
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


def _of_graph(graph: GraphData, reference: Reference, by: By, absolute: bool) -> Scores:
    if by not in BY:
        raise InputError(f"by = {by!r} is none of {', '.join(BY)}")
    nodes = graph.of_kind("head")
    check_shape(graph_shape(graph, nodes), reference, f"the graph is of {graph.model},")
    if by == "rank" and absolute:
        raise InputError("a rank has no sign: leave absolute out, or set it to False")
    size = abs if absolute else float
    values: dict[Part | Edge, float] = {}
    for node in nodes:
        value = _VALUE_OF[by](node, graph)
        if value is None:
            continue
        head = Part("head", node.id.layer, node.id.head)
        # Of a head at several positions, the highest score counts.
        if head not in values or size(value) > size(values[head]):
            values[head] = value
    if nodes and not values:
        raise InputError(
            f"no head of this graph has {_MISSING.get(by, by)}, or compare by norm, prob, rank or "
            f"attention"
        )
    spots = {node.id.position for node in nodes} - {None}
    notes = ("of several positions the highest score of a head counts",) if spots else ()
    return Scores("heads", _floats(values), absolute, by, graph.model, notes)


def graph_shape(graph: GraphData, nodes: tuple[Node, ...]) -> Shape:
    """Layers and heads of a graph's model; heads are counted as shown plus hidden in one block.

    The block with the most counts: a block without attention has none.
    """
    shown = Counter(n.layer for n in nodes if n.id.position is None)
    n_heads = max(shown[layer] + graph.hidden[layer].heads for layer in graph.layers)
    return Shape(graph.n_layers, n_heads)


def _attention(node: Node, graph: GraphData) -> float | None:
    """The largest attention, without a BOS at the beginning, which inactive heads attend to."""
    if node.attention is None:
        return None
    first = int(graph.prepend_bos) + int(graph.bos_in_prompt)
    return max(node.attention[first:], default=0.0)


_VALUE_OF: Final[dict[str, Callable[[Node, GraphData], float | None]]] = {
    "norm": lambda node, graph: node.norm,
    "prob": lambda node, graph: node.prob,
    "rank": lambda node, graph: -float(node.rank),
    "attention": _attention,
    "attribution": lambda node, graph: node.attribution,
    "effect": lambda node, graph: None if node.effect is None else node.effect.value,
    "gradient": lambda node, graph: None if node.gradient is None else node.gradient.norm,
    "reversed": lambda node, graph: None if node.reversed is None else node.reversed.norm,
}


_MISSING: Final = {
    "attribution": "an attribution; measure it first",
    "effect": "an effect; measure it first",
    "gradient": "a gradient; lens.onto(g) puts those of a backward_lens on it",
    "reversed": "reversed attention; reversed.onto(g) puts that of a reversed_attention on it",
}


# --- measured effects ----------------------------------------------------------------------------


def _of_effects(source: Any, reference: Reference, absolute: bool | None) -> Scores | None:
    """The scores of an Effects, EdgeEffects or CompositionScores, with their model; else None."""
    from visit_tl.causal.patching.effects_result import Effects
    from visit_tl.causal.paths.edge_effects_result import EdgeEffects
    from visit_tl.circuits.channels.composition_result import CompositionScores

    if isinstance(source, CompositionScores):
        check_shape(Shape(*source.shape), reference, f"the scores are of {source.model},")
        read = _edges(source.edges, reference, bool(absolute))
        return replace(read, what="composition score", model=source.model)
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
        _refuse_repeated(spelled, edge, key)
        if edge.internal and not reference.internal:
            inside += 1
        else:
            values[edge] = value
    _in_range([end for edge in spelled for end in (edge.source, edge.target)], reference)
    notes = (f"{inside} edges inside heads left out: the coding has none",) if inside else ()
    return Scores("edges", _floats(values), absolute, notes=notes)


def _heads(source: Mapping[Any, Any], reference: Reference, absolute: bool) -> Scores:
    found: dict[tuple[Part, str | None], Any] = {}
    spelled: dict[tuple[Part, str | None], Any] = {}
    for key, value in source.items():
        end = parse_end(key)
        _refuse_repeated(spelled, end, key)
        found[end] = value
    _in_range([part for part, _ in found], reference)
    others = [str(part) for part, _ in found if part.kind != "head"]
    numbers = _floats({end: value for end, value in found.items() if end[0].kind == "head"})
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


def _refuse_repeated(seen: dict[Any, Any], item: Any, key: Any) -> None:
    if item in seen:
        raise InputError(f"{key!r} and {seen[item]!r} are the same head or edge; give it one score")
    seen[item] = key


def _in_range(parts: list[Part], reference: Reference) -> None:
    outside = dict.fromkeys(str(part) for part in parts if not reference.shape.holds(part))
    if outside:
        raise InputError(
            f"{', '.join(outside)} are out of range of {reference.name}, which is of "
            f"{reference.model}, {reference.shape}"
            + ("" if reference.shape.mlps else " and no MLPs")
        )


def _floats(values: Mapping[Any, Any]) -> dict[Any, float]:
    """Convert the scores to floats; raise for NaN and non-numbers, naming the head or edge."""
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
