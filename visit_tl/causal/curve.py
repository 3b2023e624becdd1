"""Faithfulness over a budget of edges: CPR and CMD, as the MIB benchmark counts them."""

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
)
from visit_tl.causal.choice import shape_of
from visit_tl.causal.edges import EdgeEffects
from visit_tl.causal.pairs import Pairs
from visit_tl.causal.scored import normalised
from visit_tl.circuits.edges import model_edges
from visit_tl.circuits.names import Edge
from visit_tl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MIB_BUDGETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the model's edges at which MIB measures (MIB_circuit_track/evaluation.py)."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """Faithfulness of the best-scored edges, over how many are kept.

    The area begins at the first budget, and on MIB's grid the two widest steps carry 80% of it.
    Faithfulness is not capped: a circuit that drops what works against the metric goes above 1, so
    CPR has no upper bound.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What ablated parts wrote.
        absolute: Whether edges were ranked by the size of their score, else by the score.
        budgets: Shares of the model's edges, ascending.
        sizes: How many edges each is, rounded down.
        full: The metric of the whole model, pair by pair.
        empty: Of the model with every edge cut.
        values: Of each circuit.
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
        """One row a budget: edges, metric, faithfulness."""
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
    verbose: Flag = True,
) -> FaithfulnessCurve:
    """Keep the best-scored edges, more and more of them, and measure each circuit.

    An edge without a score comes after all that have one; ties keep the order of the forward pass.
    Edges that lead nowhere are not pruned: resampled, they carry what they carried anyway.

    Args:
        model: As for `faithfulness`.
        pairs: As there.
        metric: As there.
        scores: How much each edge matters: effects, or numbers by edge in any spelling. An effect
            is what cutting does, so the signed ranking of MIB's CPR wants it with its sign turned.
        budgets: Shares of the model's edges, in (0, 1] and ascending; at least two.
        absolute: Rank by the size of the score, as MIB does for CMD; False is for CPR.
        how: As there.
        mean_over: As there.
        prepend_bos: As there.
        verbose: As there.

    Raises:
        InputError: as there, or budgets or scores that are none.
    """
    work = Pairs(model, pairs, metric, how, mean_over, prepend_bos)
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
            raise InputError(f"the score of {edge} is of no edge that this model has")
        if score != score or abs(score) == float("inf"):
            raise InputError(f"the score of {edge} is {score}; scores must be finite")

    def key(edge: Edge) -> tuple[bool, float]:
        score = read.get(edge, 0.0)
        return edge not in read, -(abs(score) if absolute else score)

    return sorted(there, key=key)


def area(x: Sequence[float], y: Sequence[float]) -> float:
    """The area under a polygon, by trapezoids on a linear axis."""
    steps = itertools.pairwise(zip(x, y, strict=True))
    return sum(((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in steps), 0.0)
