"""Overlap of the circuits of two tasks: which heads or edges they share, and by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    AnyScores,
    Count,
    Flag,
    Foreign,
    Name,
    Number,
    NumberName,
    Seed,
)
from visit_tl.circuits import metrics
from visit_tl.circuits.circuit_overlap import (
    CircuitOverlap,
    GroupOverlap,
    InLayers,
    SharedItem,
    Weighted,
)
from visit_tl.circuits.overlap_chance import (
    at_least,
    expected_jaccard,
    layered_chances,
    permuted,
    shared_chances,
    weighted_jaccard,
)
from visit_tl.circuits.overlap_sides import Item, Side, read_sides, roles_of
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge, Part

_SHARE = 0.02
"""The share of the heads that count as a circuit by default, as in Merullo et al. 2024."""


@checked
def overlap(
    a: AnyScores,
    b: AnyScores,
    *,
    by: NumberName | None = None,
    absolute: Flag | None = None,
    n: Count | None = None,
    threshold: Number | None = None,
    roles: Foreign = None,
    level: Name | None = None,
    among: Name = "all",
    normalise: Flag = False,
    permutations: Count = 2000,
    seed: Seed = 0,
) -> CircuitOverlap:
    """Compare the circuits of two tasks in one model: which heads or edges do both use?

    Merullo, Eickhoff and Pavlick (2024) ask this of IOI and coloured objects, of the top 2% of
    heads. Each number stands beside chance: the circuit of a as it is, against random ones of the
    size of b. The formulas are in docs/maths.md.

    Args:
        a: A FlowGraph, the result of `effects` or `edge_effects`, HeadScores (means over prompts),
            an array [layer, head], a mapping of heads or edges to numbers; or a reference circuit,
            its name, or the path of one.
        b: The same for the other task.
        by: Which number of a graph's heads, or which score of HeadScores; for a graph, None is
            `norm`.
        absolute: Whether absolute scores count, or only positive ones; None is True for
            attributions and effects.
        n: How many of the highest scores are a circuit. None is as many as the reference has on the
            other side, and 2% of the items where there is none. A reference is taken whole.
        threshold: Instead of n: scores of at least this are a circuit.
        roles: A mapping of heads to the names of their roles, or a reference whose classes are the
            roles. None is the classes of a reference among a and b.
        level: `heads` or `edges`; None is heads where both sides have them.
        among: `all` heads or edges of the model; those without a score are in no circuit and have
            no weight. Or `scored`: only those that both sides have a score for, as for edges of
            which some were measured.
        normalise: Whether to divide the weights of each side by their sum before they are compared,
            as where two tasks have metrics of different units.
        permutations: How many permutations the chance of the weighted index is estimated from.
        seed: Seed of the permutations.

    Raises:
        InputError: the sides are of different models, or of different numbers of layers or heads;
            one has heads and the other edges; n cuts through tied scores, or n and threshold are
            both given; or a side cannot be read.
        GraphError: the name of a head or an edge cannot be read.
    """
    _check_options(n, threshold, level, among)
    first, second, shape, internal = read_sides(a, b, by, absolute, level)
    level = first.scores.level
    universe: Sequence[Item] = shape.heads if level == "heads" else model_edges(shape, internal)
    every, notes = _universe(universe, (first, second), among)
    n = _size(n, (first, second), len(every))
    sets = tuple(side.chosen(n, threshold) & frozenset(every) for side in (first, second))
    weights = tuple(np.array([side.weight(item) for item in every]) for side in (first, second))
    notes += _scales(weights, normalise, (first, second))
    if normalise:
        weights = tuple(own / own.sum() if own.sum() else own for own in weights)
    known = roles_of(roles, (first, second), shape)
    layers = [_layer(item) for item in every]
    in_role = [_role(item, known) for item in every]
    divisions = [["all"] * len(every), layers, in_role]
    groups = _groups(divisions, every, sets, (weights[0], weights[1]), permutations, seed)
    whole = groups[0][0]
    return CircuitOverlap(
        a=first.name,
        b=second.name,
        what=(first.scores.what, second.scores.what),
        level=level,
        model=first.model or second.model,
        n=None if threshold is not None else n,
        threshold=threshold,
        whole=whole,
        expected_jaccard=expected_jaccard(whole.items, whole.a, whole.b),
        in_layers=_chance_in_layers(groups[1], whole.shared),
        layers=groups[1],
        roles=tuple(group for group in groups[2] if group.name),
        items=tuple(
            SharedItem(
                item,
                first.scores.values.get(item),
                second.scores.values.get(item),
                item in sets[0],
                item in sets[1],
                layers[i],
                in_role[i],
            )
            for i, item in enumerate(every)
        ),
        permutations=permutations,
        seed=seed,
        notes=(*first.scores.notes, *second.scores.notes, *notes),
    )


def _check_options(n: int | None, threshold: float | None, level: str | None, among: str) -> None:
    """Refuse options that contradict each other, or are not known."""
    if n is not None and threshold is not None:
        raise InputError("n and threshold both say what a circuit is; give one of them")
    if level not in (None, "heads", "edges"):
        raise InputError(f"level is 'heads' or 'edges', got {level!r}")
    if among not in ("all", "scored"):
        raise InputError(f"among is 'all' or 'scored', got {among!r}")


def _universe(
    universe: Sequence[Item], sides: tuple[Side, Side], among: str
) -> tuple[list[Item], tuple[str, ...]]:
    """The items that are compared, and notes on those without a score.

    Raises:
        InputError: no item has a score on both sides.
    """
    scored = [side for side in sides if side.reference is None]
    if among == "scored":
        kept = [item for item in universe if all(item in s.scores.values for s in scored)]
        if not kept:
            raise InputError("no item has a score on both sides: there is nothing to compare")
        return kept, (f"among the {len(kept)} of {len(universe)} that are scored",)
    notes = []
    for side in scored:
        missing = sum(item not in side.scores.values for item in universe)
        if missing:
            notes.append(f"{missing} of {len(universe)} have no score in {side.name}: in no set")
    return list(universe), tuple(notes)


def _size(n: int | None, sides: tuple[Side, Side], items: int) -> int:
    """How many of the highest scores are a circuit."""
    if n is not None:
        return n
    members = [len(side.scores.values) for side in sides if side.reference is not None]
    return members[0] if members else max(1, round(_SHARE * items))


def _scales(
    weights: tuple[np.ndarray, ...], normalise: bool, sides: tuple[Side, Side]
) -> tuple[str, ...]:
    """A note if the weights of the sides differ in scale, which the weighted index counts."""
    low, high = sorted(float(own.sum()) for own in weights)
    if normalise or high <= 2 * low or any(side.reference is not None for side in sides):
        return ()
    return (
        f"the weights of the two sides sum to {weights[0].sum():.4g} and {weights[1].sum():.4g}, "
        f"which the weighted index counts as a difference; normalise=True compares shares",
    )


def _layer(item: Item) -> str:
    """The layer of a head, or of the part that an edge ends at."""
    part = item.target if isinstance(item, Edge) else item
    return "logits" if part.layer is None else str(part.layer)


def _role(item: Item, roles: Mapping[Part, str]) -> str:
    """The role of a head, or those that an edge joins; empty without one."""
    if not isinstance(item, Edge):
        return roles.get(item, "")
    ends = [
        roles.get(end, "" if end.layer is not None else str(end))
        for end in (item.source, item.target)
    ]
    # Without a role at either end, an edge is only one from the input to the logits.
    named = all(ends) and any(end in roles for end in (item.source, item.target))
    return " -> ".join(ends) if named else ""


def _chance_in_layers(layers: Sequence[GroupOverlap], shared: int) -> InLayers:
    """Chance, if the circuits are random within each layer."""
    chances = layered_chances([(one.items, one.a, one.b) for one in layers])
    return InLayers(sum(k * chance for k, chance in chances.items()), at_least(chances, shared))


def _groups(
    divisions: Sequence[Sequence[str]],
    every: Sequence[Item],
    sets: tuple[frozenset[Item], ...],
    weights: tuple[np.ndarray, np.ndarray],
    permutations: int,
    seed: int,
) -> list[tuple[GroupOverlap, ...]]:
    """The overlap in each group of each division of the items."""
    named = [list(dict.fromkeys(names)) for names in divisions]
    codes = [
        np.array([{g: i for i, g in enumerate(groups)}[name] for name in names])
        for groups, names in zip(named, divisions, strict=True)
    ]
    means, values = permuted(weights[0], weights[1], codes, permutations, seed)
    within = [np.array([item in own for item in every]) for own in sets]
    n, b = len(every), int(within[1].sum())
    found = []
    for which, groups in enumerate(named):
        index = weighted_jaccard(weights[0], weights[1], codes[which])
        rows = []
        for i, name in enumerate(groups):
            here = codes[which] == i
            own, other = (mine & here for mine in within)
            shared, size = int((own & other).sum()), int(here.sum())
            # a as it is, against any b of the same size: what the permutations do too.
            chances = shared_chances(n, int(own.sum()), b)
            weighted = float(index[i])
            rows.append(
                GroupOverlap(
                    name=name,
                    items=size,
                    a=int(own.sum()),
                    b=int(other.sum()),
                    shared=shared,
                    jaccard=metrics.jaccard(np.flatnonzero(own), np.flatnonzero(other)),
                    expected=int(own.sum()) * b / n,
                    p=at_least(chances, shared),
                    weighted=None
                    if np.isnan(weighted)
                    else Weighted(weighted, float(means[which][i]), float(values[which][i])),
                )
            )
        found.append(tuple(rows))
    return found
