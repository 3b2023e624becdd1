"""Faithfulness by number of edges: CPR and CMD, as the MIB benchmark computes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Budgets,
    EdgeScores,
    Flag,
    How,
    MeanOver,
    MetricFunctions,
    Model,
    PromptPairs,
    SegmentsOfEach,
)
from visit_tl.causal.circuit.faithfulness_results import normalised
from visit_tl.causal.circuit.prompt_pairs import Pairs
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.causal.paths.edge_effects_result import EdgeEffects
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge

if TYPE_CHECKING:
    import pandas as pd

MIB_BUDGETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the model's edges at which MIB measures (MIB_circuit_track/evaluation.py)."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """Faithfulness of the best-scored edges, by how many are kept.

    The area starts at the first budget; on MIB's grid, the two widest steps cover 80% of it.
    Faithfulness is not capped: a circuit without the parts that work against the metric can be
    above 1, so CPR has no upper bound.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        absolute: True if edges were ranked by the absolute value of their score, False if by the
            signed score.
        budgets: Shares of the model's edges, ascending.
        sizes: How many edges each budget keeps, rounded down.
        full: The metric of the whole model, pair by pair.
        empty: The metric of the model with every edge cut, pair by pair.
        values: The metric of each circuit, `[budget][pair]`.
    """

    model: str
    metric: str
    how: str
    absolute: bool
    budgets: tuple[float, ...]
    sizes: tuple[int, ...]
    full: tuple[float, ...] = field(repr=False)
    empty: tuple[float, ...] = field(repr=False)
    values: tuple[tuple[float, ...], ...] = field(repr=False)

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """(F(C) - F(empty)) / (F(M) - F(empty)) at each budget, each F a mean over the pairs."""
        full, base = fmean(self.full), fmean(self.empty)
        return tuple(normalised(fmean(values), full, base) for values in self.values)

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under faithfulness; higher is better."""
        return area(self.budgets, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area under |1 - faithfulness|; 0 is best."""
        return area(self.budgets, [abs(1.0 - f) for f in self.faithfulness])

    def to_dataframe(self) -> pd.DataFrame:
        """One row per budget: edges, metric, faithfulness."""
        import pandas as pd

        return pd.DataFrame(
            {
                "budget": self.budgets,
                "edges": self.sizes,
                "metric": [fmean(values) for values in self.values],
                "faithfulness": self.faithfulness,
            }
        ).set_index("budget")


@checked
def faithfulness_curve(
    model: Model,
    pairs: PromptPairs,
    metric: MetricFunctions,
    scores: EdgeScores,
    *,
    budgets: Budgets = MIB_BUDGETS,
    absolute: Flag = True,
    how: How = "resample",
    mean_over: MeanOver | None = None,
    prepend_bos: Flag | None = None,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
) -> FaithfulnessCurve:
    """Measure circuits of the best-scored edges, for growing numbers of edges.

    An edge without a score ranks after all that have one; ties keep the order of the forward pass.
    Edges that are on no path from input to logits are not pruned: with `resample`, such an edge
    does not change the result, because a part that reads only corrupted values writes its corrupted
    value.

    Args:
        model: As for `faithfulness`.
        pairs: As there.
        metric: As there.
        scores: How much each edge matters: effects, or numbers by edge in any spelling. An effect
            is what cutting the edge does, so for MIB's CPR, which ranks by signed score, flip its
            sign.
        budgets: Shares of the model's edges, in (0, 1] and ascending; at least two.
        absolute: Rank by the absolute score, as MIB does for CMD; False ranks by the signed score,
            as for CPR.
        how: As there.
        mean_over: As there.
        prepend_bos: As there.
        segments: As there.
        verbose: As there.

    Raises:
        InputError: as there, or budgets or scores that are not valid.
    """
    work = Pairs(model, pairs, metric, how, mean_over, prepend_bos, segments)
    there = model_edges(shape_of(work.view))
    order = rank(there, scores.scores if isinstance(scores, EdgeEffects) else scores, absolute)
    shares = [float(budget) for budget in budgets]
    if len(shares) < 2 or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
        raise InputError(
            f"budgets must be two or more ascending shares in (0, 1], got {list(budgets)[:12]}"
        )
    sizes = [int(share * len(there)) for share in shares]
    asked = [frozenset(order[:size]) for size in sizes]
    values = work.measure([frozenset(there), frozenset(), *asked], "budgets", verbose)
    return FaithfulnessCurve(
        model=work.view.name,
        metric=work.metric_name,
        how=how,
        absolute=absolute,
        budgets=tuple(shares),
        sizes=tuple(sizes),
        full=values[0],
        empty=values[1],
        values=tuple(values[2:]),
    )


def rank(there: Sequence[Edge], scores: Mapping[Any, float], absolute: bool) -> list[Edge]:
    """The model's edges, best first.

    Raises:
        InputError: a score is not a finite number, or is of an edge that the model does not have.
    """
    read = {Edge.parse(edge): float(score) for edge, score in scores.items()}
    known = set(there)
    for edge, score in read.items():
        if edge not in known:
            raise InputError(f"the score of {edge} is of no edge of this model")
        if score != score or abs(score) == float("inf"):
            raise InputError(f"the score of {edge} is {score}; scores must be finite")

    def key(edge: Edge) -> tuple[bool, float]:
        score = read.get(edge, 0.0)
        return edge not in read, -(abs(score) if absolute else score)

    return sorted(there, key=key)


def area(x: Sequence[float], y: Sequence[float]) -> float:
    """The area under a piecewise linear curve, by the trapezoid rule on a linear axis."""
    steps = itertools.pairwise(zip(x, y, strict=True))
    return sum(((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in steps), 0.0)
