"""Metrics of how well scores identify the members of a reference: rank statistics and counts.

Every function takes `scores`, one number per item (larger = more likely a member), and `members`,
one boolean per item. Results never depend on the order of the items. Infinite scores are allowed;
NaN is an error.

| name                | ties                                                                     |
|---------------------|--------------------------------------------------------------------------|
| `auroc`             | a tied pair of a member and a non-member counts one half                 |
| `pessimistic_auc`   | a tied pair counts zero                                                  |
| `average_precision` | tied items enter together, as one step of the threshold                  |
| `at_k`              | the mean over all orders of the tied items, so hits may be a fraction    |
| `at_threshold`      | a score that equals the threshold is selected                            |
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visit_tl.errors import InputError

Numbers = Sequence[float | int] | np.ndarray
Flags = Sequence[bool] | np.ndarray


@dataclass(frozen=True, slots=True)
class Selection:
    """The items that a threshold or a budget k selects, compared with the members.

    Attributes:
        selected: How many items are selected.
        hits: How many selected items are members; a fraction if items tie at the budget's edge.
        members: How many members there are.
        threshold: Items with at least this score are selected; None for a budget.
    """

    selected: int
    hits: float
    members: int
    threshold: float | None = None

    @property
    def precision(self) -> float:
        """Share of the selected items that are members; 0 if nothing is selected."""
        return self.hits / self.selected if self.selected else 0.0

    @property
    def recall(self) -> float:
        """Share of the members that are selected."""
        return self.hits / self.members

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if there is no hit."""
        return 2 * self.hits / (self.selected + self.members)


def at_threshold(scores: Numbers, members: Flags, threshold: float) -> Selection:
    """Select every score greater than or equal to the threshold.

    Raises:
        InputError: there is no member, the threshold or a score is NaN, or the lengths differ.
    """
    values, labels = _checked(scores, members)
    _need(labels, "precision and recall")
    if math.isnan(threshold):
        raise InputError("the threshold is NaN; no score can be compared with it")
    chosen = values >= threshold
    hits = float((chosen & labels).sum())
    return Selection(int(chosen.sum()), hits, int(labels.sum()), float(threshold))


def at_k(scores: Numbers, members: Flags, k: int) -> Selection:
    """Select the k largest scores. Items tied at the edge count by the share of members among them.

    Raises:
        InputError: k is outside 1..n, there is no member, a score is NaN, or the lengths differ.
    """
    values, labels = _checked(scores, members)
    _need(labels, "precision and recall")
    return Selection(k, expected_hits(values, labels, k), int(labels.sum()))


def expected_hits(scores: Numbers, members: Flags, k: int) -> float:
    """Number of members among the k largest scores: the mean over all orders of tied items.

    Raises:
        InputError: k is outside 1..n, a score is NaN, or the lengths differ.
    """
    values, labels = _checked(scores, members)
    if not 1 <= k <= len(values):
        raise InputError(f"k = {k} is outside 1..{len(values)}, the number of items")
    edge = np.sort(values)[-k]
    above, tied = values > edge, values == edge
    room = k - int(above.sum())
    return float((above & labels).sum()) + room * float((tied & labels).sum()) / int(tied.sum())


def auroc(scores: Numbers, members: Flags) -> float:
    """The probability that a member scores higher than a non-member; a tie counts one half.

    This is the rank statistic of Mann and Whitney (1947), with the ranks of tied scores averaged.
    It is the exact area under the ROC curve if tied scores give a sloped segment.

    Raises:
        InputError: there is no member or no non-member, a score is NaN, or the lengths differ.
    """
    below, tied, pairs = _pairs(scores, members, "the AUROC")
    return (2 * below + tied) / (2 * pairs)


def pessimistic_auc(scores: Numbers, members: Flags) -> float:
    """The probability that a member scores higher than a non-member; a tie counts zero.

    Equal to `pessimistic_area` of the ROC points of all thresholds. This is ACDC's AUC for a
    method that scores every item once.

    Raises:
        InputError: there is no member or no non-member, a score is NaN, or the lengths differ.
    """
    below, _, pairs = _pairs(scores, members, "the AUC")
    return below / pairs


def pessimistic_area(points: Sequence[tuple[float, float]]) -> float:
    """ACDC's AUC from the ROC points of several runs (Conmy et al. 2023, Appendix E).

    Dominated points are left out, and (0, 0) and (1, 1) are added. Between two points the curve
    stays at the height of the left one.

    Args:
        points: Pairs of false positive rate and true positive rate, in any order.

    Raises:
        InputError: a rate is NaN or outside 0..1.
    """
    for point in points:
        if not all(0 <= rate <= 1 for rate in point):
            raise InputError(f"the ROC point {tuple(point)} is not a pair of rates in 0..1")
    area = height = 0.0
    for fpr, tpr in sorted({(0.0, 0.0), (1.0, 1.0), *((float(x), float(y)) for x, y in points)}):
        if tpr > height:
            area += (1 - fpr) * (tpr - height)
            height = tpr
    return area


def average_precision(scores: Numbers, members: Flags) -> float:
    """Sum over all thresholds of the precision times the recall gained at that threshold.

    Tied items enter at the same threshold, so their order does not matter. If all scores are tied,
    the result is the share of members.

    Raises:
        InputError: there is no member, a score is NaN, or the lengths differ.
    """
    values, labels = _checked(scores, members)
    _need(labels, "average precision")
    thresholds, step = np.unique(-values, return_inverse=True)
    entered = np.bincount(step, minlength=len(thresholds)).cumsum()
    gained = np.bincount(step, weights=labels, minlength=len(thresholds))
    return float((gained.cumsum() / entered) @ gained / labels.sum())


def jaccard(found: Collection[Any], members: Collection[Any]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    a, b = set(found), set(members)
    return len(a & b) / len(a | b) if a | b else 1.0


def _pairs(scores: Numbers, members: Flags, what: str) -> tuple[int, int, int]:
    """Counts of (member, non-member) pairs: in the right order, tied, and all."""
    values, labels = _checked(scores, members)
    _need(labels, what)
    if labels.all():
        raise InputError(
            f"{what} compares members with non-members, but all {len(labels)} items are members"
        )
    own, others = values[labels], np.sort(values[~labels])
    below = int(np.searchsorted(others, own, side="left").sum())
    not_above = int(np.searchsorted(others, own, side="right").sum())
    return below, not_above - below, len(own) * len(others)


def _checked(scores: Any, members: Any) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(scores, dtype=float), np.asarray(members, dtype=bool)
    if values.ndim != 1 or values.shape != labels.shape:
        raise InputError(
            f"scores and members must be two lists of one length, got shapes {values.shape} and "
            f"{labels.shape}"
        )
    if (bad := np.flatnonzero(np.isnan(values))).size:
        raise InputError(f"score {bad[0]} is NaN; NaN cannot be ranked, so drop or replace it")
    return values, labels


def _need(labels: np.ndarray, what: str) -> None:
    if not labels.any():
        raise InputError(
            f"{what} needs at least one member, but none of the {len(labels)} items is one"
        )
