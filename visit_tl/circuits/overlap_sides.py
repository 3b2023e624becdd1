"""The two sides of an overlap: scores or reference circuits, read as sets and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from visit_tl.circuits.known_circuits import load
from visit_tl.circuits.references import Reference
from visit_tl.circuits.scores import By, Level, Scores, graph_shape, matrix, read_scores
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import Shape
from visit_tl.graph.circuit_parts import Edge, Part, is_edge
from visit_tl.graph.container import GraphData

Item = Part | Edge


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: What it is, for tables.
        scores: Its scores; of a reference, 1 for each member.
        reference: The reference; None if it is scores.
    """

    name: str
    scores: Scores
    reference: Reference | None

    @property
    def model(self) -> str | None:
        """The model it belongs to; None if unknown."""
        return self.scores.model

    def weight(self, item: Item) -> float:
        """The absolute score, or the positive part of it; 0 for an item without a score."""
        value = self.scores.values.get(item, 0.0)
        return abs(value) if self.scores.absolute else max(value, 0.0)

    def chosen(self, n: int | None, threshold: float | None) -> frozenset[Item]:
        """The members of a reference; of scores, the n highest or those from a threshold up.

        Raises:
            InputError: fewer than n have a score, or n cuts through tied scores.
        """
        if self.reference is not None:
            return frozenset(self.scores.values)
        size = abs if self.scores.absolute else float
        ranked = sorted(((size(v), i) for i, v in self.scores.values.items()), key=lambda p: -p[0])
        if threshold is not None:
            return frozenset(item for value, item in ranked if value >= threshold)
        assert n is not None
        if n > len(ranked):
            raise InputError(
                f"n is {n}, but only {len(ranked)} {self.scores.level} of {self.name} have a score"
            )
        if n < len(ranked) and ranked[n - 1][0] == ranked[n][0]:
            edge = ranked[n][0]
            low = sum(value > edge for value, _ in ranked)
            high = sum(value >= edge for value, _ in ranked)
            raise InputError(
                f"n = {n} cuts through {high - low} {self.scores.level} of {self.name} that tie at "
                f"{edge:.6g}, so the set is not defined; take n = {low or high} or {high}, or a "
                f"threshold"
            )
        return frozenset(item for _, item in ranked[:n])


def read_sides(
    a: Any, b: Any, by: str | None, absolute: bool | None, wanted: str | None = None
) -> tuple[Side, Side, Shape, bool]:
    """Read both sides, and check that they are of one model.

    Returns:
        The sides, the shape of the model, and whether edges inside heads are counted.

    Raises:
        InputError: a side cannot be read; the sides have different numbers of layers or heads, or
            are of different models; one has heads and the other edges; or neither says how large
            its model is.
    """
    sources = [_opened(source) for source in (a, b)]
    names = [_name(source, which) for source, which in zip(sources, ("a", "b"), strict=True)]
    shapes = [_shape_of(source) for source in sources]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        raise InputError(
            "neither side says how many layers and heads its model has: give scores of heads as an "
            "array [layer, head], or compare with a graph, effects or a reference"
        )
    if len({(shape.n_layers, shape.n_heads) for shape in known}) > 1:
        raise InputError(
            f"{names[0]} is of a model of {shapes[0]}, but {names[1]} of one of {shapes[1]}: "
            f"circuits of different models have no heads in common"
        )
    references = [source for source in sources if isinstance(source, Reference)]
    level = _level(sources, names, wanted)
    shape = references[0].shape if references else known[0]
    internal = any(reference.internal for reference in references)
    frame = Reference("the model", "", "", "a model", shape, {}, internal=internal)
    used = [isinstance(source, GraphData) or _by_name(source) for source in sources]
    if by is not None and not any(used):
        raise InputError(
            f"by = {by!r} chooses a number of a graph's heads or of HeadScores, and neither side "
            f"is one: leave by out"
        )
    first, second = (
        Side(name, _read(source, frame, by, absolute, level), _reference(source))
        for source, name in zip(sources, names, strict=True)
    )
    if None not in (first.model, second.model) and first.model != second.model:
        raise InputError(
            f"{names[0]} is of {first.model}, but {names[1]} of {second.model}. If they are one "
            f"model under two names, give the scores alone, such as effects.heads()"
        )
    return first, second, shape, internal


def roles_of(roles: Any, sides: tuple[Side, Side], shape: Shape) -> Mapping[Part, str]:
    """The role of each part: as given, or the classes of a reference; empty if there are none.

    Raises:
        InputError: the roles are of another model, or are no mapping.
        GraphError: the name of a head cannot be read.
    """
    if roles is None:
        found = next((side.reference for side in sides if side.reference is not None), None)
        return {} if found is None else _classes(found)
    if isinstance(roles, str | Path):
        roles = load(roles)
    if isinstance(roles, Reference):
        if (roles.shape.n_layers, roles.shape.n_heads) != (shape.n_layers, shape.n_heads):
            raise InputError(
                f"the roles are those of {roles.name}, of {roles.model}, {roles.shape}; the "
                f"circuits are of {shape}"
            )
        return _classes(roles)
    if not isinstance(roles, Mapping):
        raise InputError(
            f"roles are a mapping of heads to names, such as {{'L9H6': 'mover'}}, or a reference; "
            f"got {type(roles).__name__}"
        )
    read = {Part.parse(head): str(role) for head, role in roles.items()}
    if outside := [str(part) for part in read if not shape.holds(part)]:
        raise InputError(f"the roles name {', '.join(outside)}, but the circuits are of {shape}")
    return read


def _classes(reference: Reference) -> dict[Part, str]:
    groups = {part: name for name, parts in reference.mlp_groups.items() for part in parts}
    return {**groups, **reference.class_of}


def _opened(source: Any) -> Any:
    return load(source) if isinstance(source, str | Path) else source


def _reference(source: Any) -> Reference | None:
    return source if isinstance(source, Reference) else None


def _by_name(source: Any) -> bool:
    """Whether it is a `HeadScores`, which has several scores by name."""
    return hasattr(source, "joined") and hasattr(source, "names") and hasattr(source, "mean")


def _name(source: Any, which: str) -> str:
    if isinstance(source, Reference):
        return source.name
    if isinstance(source, Mapping) or not hasattr(source, "model"):
        return f"{which}, {'a mapping' if isinstance(source, Mapping) else 'an array'}"
    return f"{which}, {type(source).__name__}"


def _shape_of(source: Any) -> Shape | None:
    """Layers and heads of the model that it is of; None if it does not say."""
    if isinstance(source, Reference):
        return source.shape
    if isinstance(source, GraphData):
        return graph_shape(source, source.of_kind("head"))
    if _by_name(source):
        return Shape(*source.shape[1:])
    if hasattr(source, "n_layers") and hasattr(source, "n_heads"):
        return Shape(source.n_layers, source.n_heads)
    if isinstance(source, Mapping) or hasattr(source, "edges"):
        return None
    return Shape(*matrix(source).shape)


def _level(sources: list[Any], names: list[str], wanted: str | None) -> Level:
    """Heads or edges: what both sides have.

    Raises:
        InputError: one has heads alone and the other edges alone, or one has nothing.
    """
    has: list[set[Level]] = []
    for source in sources:
        own: set[Level] = {"heads"}
        if isinstance(source, Reference):
            own = {level for level in ("heads", "edges") if getattr(source, level)}  # type: ignore[assignment]
        elif isinstance(source, Mapping):
            own = {"edges"} if any(map(is_edge, source)) else {"heads"}
        elif hasattr(source, "edges") and hasattr(source, "scores"):
            own = {"edges"}
        has.append(own)
    if not (both := has[0] & has[1]):
        told = [" and ".join(sorted(own)) or "neither heads nor edges" for own in has]
        raise InputError(
            f"{names[0]} has {told[0]}, but {names[1]} has {told[1]}: there is nothing to compare"
        )
    if wanted is not None and wanted not in both:
        raise InputError(f"{' and '.join(names)} do not both have {wanted}, but {min(both)}")
    return cast("Level", wanted or ("heads" if "heads" in both else "edges"))


def _read(
    source: Any, frame: Reference, by: str | None, absolute: bool | None, level: Level
) -> Scores:
    if isinstance(source, Reference):
        members = source.heads if level == "heads" else source.edges
        ones = cast("dict[Item, float]", dict.fromkeys(members, 1.0))
        return Scores(level, ones, False, "members", source.model)
    if _by_name(source):
        if by is None:
            raise InputError(
                f"HeadScores has several scores: {', '.join(source.names)}; choose one with by="
            )
        read = read_scores(source.mean(by), frame, None, absolute)
        return Scores(read.level, read.values, read.absolute, by, source.model)
    graph = isinstance(source, GraphData)
    return read_scores(source, frame, cast("By | None", by) if graph else None, absolute)
