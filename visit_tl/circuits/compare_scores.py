"""Compare scores of heads or edges with a reference circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import AnyScores, Count, Flag, Number, NumberName, ReferenceName
from visit_tl.circuits import metrics
from visit_tl.circuits.comparison import ClassRecall, Comparison, Scored
from visit_tl.circuits.known_circuits import codings_of, load
from visit_tl.circuits.references import Reference
from visit_tl.circuits.scores import By, Level, Scores, read_scores
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge, Part


@checked
def compare(
    scores: AnyScores,
    reference: Reference | ReferenceName,
    *,
    by: NumberName | None = None,
    absolute: Flag | None = None,
    k: Count | None = None,
    threshold: Number | None = None,
) -> Comparison:
    """Compare scores of heads or edges with a reference circuit.

    Args:
        scores: A FlowGraph; the result of `effects`, `edge_effects` or `composition_scores`; an
            array, tensor or nested list [layer, head]; or a mapping of heads or of edges, in any
            spelling, to numbers.
        reference: A Reference, the name of one, or the path of your own file.
        by: Which value of a graph's heads is the score: `norm` (the default); `prob` of the
            target; `rank` of the target (the best rank scores highest); `attention`, the largest
            attention to any position except a BOS at the beginning; `attribution`; `effect`;
            `gradient`, the norm of its gradient; or `reversed`, that of its reversed attention.
        absolute: Whether to rank absolute values, so that a large negative score also counts. None
            is True for attributions and effects of a graph and for measured effects, else False.
        k: How many of the highest scores count as found; None is the number that the reference has.
        threshold: Items with at least this score count as found; None for no threshold. If
            `absolute` holds, absolute values are compared with it.

    Returns:
        The comparison. Heads or edges of the model without a score rank last, tied.

    Raises:
        InputError: the shape of the scores is not that of the reference's model; the scores hold
            NaN or have another form than those above; the reference lists no heads or edges to
            compare with; or k is out of range.
        GraphError: the name of a head or an edge cannot be read.
    """
    known = reference if isinstance(reference, Reference) else load(reference)
    read = read_scores(scores, known, cast("By | None", by), absolute)
    sizes = read.absolute
    universe, labels = _universe(known, read.level)
    ranked = [_rank_value(read.values.get(item), sizes) for item in universe]
    members = [item in labels for item in universe]
    k = len(labels) if k is None else k
    found = metrics.at_k(ranked, members, k)
    mixed = not all(members)
    unscored = [m for item, m in zip(universe, members, strict=True) if item not in read.values]
    return Comparison(
        reference=known,
        level=read.level,
        what=read.what,
        absolute=sizes,
        model=read.model,
        auroc=metrics.auroc(ranked, members) if mixed else None,
        pessimistic_auc=metrics.pessimistic_auc(ranked, members) if mixed else None,
        average_precision=metrics.average_precision(ranked, members),
        at_k=found,
        at_threshold=(
            None if threshold is None else metrics.at_threshold(ranked, members, threshold)
        ),
        recalls=_recalls(universe, ranked, labels, k),
        unscored=len(unscored),
        unscored_members=sum(unscored),
        items=_items(universe, ranked, read, labels),
        notes=(*read.notes, *_model_notes(known, read)),
    )


def _universe(
    reference: Reference, level: Level
) -> tuple[tuple[Part | Edge, ...], Mapping[Any, str]]:
    """All items that are ranked, and the label of each member."""
    if level == "heads":
        if not reference.heads:
            raise InputError(f"{reference.name} lists no heads to compare scores of heads with")
        return reference.shape.heads, reference.class_of
    if not reference.edges:
        others = [r.name for r in codings_of(reference.circuit) if r.edges]
        known = f"; codings with edges: {', '.join(others)}" if others else ""
        raise InputError(f"{reference.name} lists no edges to compare scores of edges with{known}")
    group = {part: name for name, parts in reference.mlp_groups.items() for part in parts}
    group |= reference.class_of
    labels = {
        e: "inside heads"
        if e.internal
        else f"{group.get(e.source, str(e.source))} -> {group.get(e.target, str(e.target))}"
        for e in reference.edges
    }
    return model_edges(reference.shape, reference.internal), labels


def _rank_value(score: float | None, absolute: bool) -> float:
    if score is None:
        return -math.inf
    return abs(score) if absolute else score


def _recalls(
    universe: tuple[Part | Edge, ...],
    ranked: list[float],
    labels: Mapping[Any, str],
    k: int,
) -> tuple[ClassRecall, ...]:
    recalls = []
    for label in dict.fromkeys(labels.values()):
        own = [labels.get(item) == label for item in universe]
        recalls.append(ClassRecall(label, metrics.expected_hits(ranked, own, k), sum(own)))
    return tuple(recalls)


def _items(
    universe: tuple[Part | Edge, ...],
    ranked: list[float],
    read: Scores,
    labels: Mapping[Any, str],
) -> tuple[Scored, ...]:
    places: dict[float, int] = {}
    for place, score in enumerate(sorted(ranked, reverse=True), start=1):
        places.setdefault(score, place)
    return tuple(
        Scored(
            item=item,
            score=score if item in read.values else None,
            place=places[score],
            member=item in labels,
            label=labels.get(item, ""),
        )
        for item, score in zip(universe, ranked, strict=True)
    )


def _model_notes(reference: Reference, read: Scores) -> tuple[str, ...]:
    """A note if the models' names differ; equal shapes prove nothing (pythia-160m and gpt2)."""
    if read.model in (None, reference.model):
        return ()
    return (f"the scores are of {read.model}, the reference of {reference.model}",)
