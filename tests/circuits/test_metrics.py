"""Metrics against cases worked by hand, against definitions by brute force, and at their edges."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_tl.circuits import metrics
from visit_tl.errors import InputError

INF = math.inf


@st.composite
def cases(draw, most=24):
    """Scores with many ties, infinities among them, and at least one member and one non-member."""
    n = draw(st.integers(2, most))
    score = st.sampled_from([-INF, -2.0, -1.0, 0.0, 0.5, 1.0, INF])
    scores = draw(st.lists(score, min_size=n, max_size=n))
    members = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    members[draw(st.integers(0, n - 1))] = True
    if all(members):
        members[draw(st.integers(0, n - 1))] = False
    return scores, members


def split(scores, members):
    pairs = list(zip(scores, members, strict=True))
    return [s for s, m in pairs if m], [s for s, m in pairs if not m]


def roc_points(scores, members):
    own, others = split(scores, members)
    return [
        (sum(s >= t for s in others) / len(others), sum(s >= t for s in own) / len(own))
        for t in set(scores)
    ]


# --- worked by hand ------------------------------------------------------------------------------

# 4 > 3 > 2 = 2 > 1, members at 4, one of the 2s, and 1.
SCORES = [4.0, 3.0, 2.0, 2.0, 1.0]
MEMBERS = [True, False, True, False, True]


def test_auroc_by_hand():
    # 4 beats both others; 2 loses to 3 and ties with 2; 1 loses to both: 2.5 of 6 pairs.
    assert metrics.auroc(SCORES, MEMBERS) == pytest.approx(2.5 / 6)
    assert metrics.pessimistic_auc(SCORES, MEMBERS) == pytest.approx(2 / 6)


def test_average_precision_by_hand():
    # At 4: 1 of 1; at 2 (two items at once): 2 of 4; at 1: 3 of 5; each gains a third of recall.
    assert metrics.average_precision(SCORES, MEMBERS) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)


def test_at_k_by_hand():
    found = metrics.at_k(SCORES, MEMBERS, 3)
    # The third place goes to either of the tied 2s, one of which is a member.
    assert (found.selected, found.hits, found.members) == (3, 1.5, 3)
    assert found.precision == found.recall == found.f1 == pytest.approx(0.5)
    assert found.threshold is None
    whole = metrics.at_k(SCORES, MEMBERS, 5)
    assert (whole.precision, whole.recall) == (pytest.approx(0.6), 1.0)
    assert whole.f1 == pytest.approx(2 * 0.6 / 1.6)


def test_at_threshold_by_hand():
    found = metrics.at_threshold(SCORES, MEMBERS, 2.0)
    assert (found.selected, found.hits, found.threshold) == (4, 2.0, 2.0)
    assert found.precision == 0.5
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(4 / 7)
    nothing = metrics.at_threshold(SCORES, MEMBERS, 9.0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)


# The values that ACDC's own function gives for these points.
ACDC = [
    ([], 0.0),
    ([(0.5, 0.5)], 1 / 4),
    ([(0.25, 0.25)], 3 / 16),
    ([(0.25, 0.25), (0.5, 0.5)], 5 / 16),
    ([(0.25, 0.25), (0.75, 0.5)], 1 / 4),
]


@pytest.mark.parametrize(("points", "area"), ACDC)
def test_the_pessimistic_area_is_that_of_acdc(points, area):
    assert metrics.pessimistic_area(points) == pytest.approx(area, abs=1e-15)
    assert metrics.pessimistic_area(points[::-1]) == pytest.approx(area, abs=1e-15)


def test_points_that_another_one_beats_do_not_count():
    best = [(0.1, 0.6), (0.3, 0.8)]
    area = 0.2 * 0.6 + 0.7 * 0.8
    assert metrics.pessimistic_area(best) == pytest.approx(area)
    assert metrics.pessimistic_area([*best, (0.2, 0.5), (0.3, 0.7), (0.9, 0.8)]) == (
        pytest.approx(area)
    )


def test_jaccard():
    assert metrics.jaccard("abc", "bcd") == 0.5
    assert metrics.jaccard([1, 1, 2], {3}) == 0
    assert metrics.jaccard([], []) == 1
    assert metrics.jaccard([], [1]) == 0


# --- against the definitions ---------------------------------------------------------------------


@given(cases())
def test_auroc_is_the_share_of_pairs_in_the_right_order(case):
    own, others = split(*case)
    pairs = list(itertools.product(own, others))
    right, tied = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
    assert metrics.auroc(*case) == pytest.approx((right + tied / 2) / len(pairs), abs=1e-12)
    assert metrics.pessimistic_auc(*case) == pytest.approx(right / len(pairs), abs=1e-12)


@given(cases())
def test_auroc_is_the_area_under_the_roc_curve_and_the_pessimistic_one_under_its_steps(case):
    points = sorted([(0.0, 0.0), *roc_points(*case)])
    slopes = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    assert metrics.auroc(*case) == pytest.approx(slopes, abs=1e-12)
    assert metrics.pessimistic_auc(*case) == pytest.approx(
        metrics.pessimistic_area(roc_points(*case)), abs=1e-12
    )


@given(cases(most=7))
def test_at_k_is_the_mean_over_all_orders_of_tied_items(case):
    scores, members = case
    n = len(scores)
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    for k in range(1, n + 1):
        hits = Fraction(sum(members[i] for order in orders for i in order[:k]), len(orders))
        assert metrics.at_k(scores, members, k).hits == pytest.approx(float(hits), abs=1e-12)


@given(cases())
def test_average_precision_sums_precision_over_the_gains_of_recall(case):
    scores, members = case
    own, _ = split(scores, members)
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [m for s, m in zip(scores, members, strict=True) if s >= threshold]
        area += sum(chosen) / len(chosen) * (sum(chosen) / len(own) - recall)
        recall = sum(chosen) / len(own)
    assert metrics.average_precision(scores, members) == pytest.approx(area, abs=1e-12)


@given(cases(), st.randoms(use_true_random=False))
def test_no_metric_knows_the_order_of_the_items(case, random):
    together = list(zip(*case, strict=True))
    random.shuffle(together)
    shuffled = tuple(zip(*together, strict=True))
    for metric in (metrics.auroc, metrics.pessimistic_auc, metrics.average_precision):
        assert metric(*case) == pytest.approx(metric(*shuffled), abs=1e-12)
    for k in (1, len(case[0])):
        assert metrics.at_k(*case, k) == metrics.at_k(*shuffled, k)


@given(cases())
def test_the_bounds_and_the_mirror(case):
    scores, members = case
    low, middle = metrics.pessimistic_auc(*case), metrics.auroc(*case)
    assert 0 <= low <= middle <= 1
    assert metrics.auroc([-s for s in scores], members) == pytest.approx(1 - middle, abs=1e-12)
    assert 0 < metrics.average_precision(*case) <= 1 + 1e-12


@given(cases())
def test_selection_at_a_threshold_counts_by_hand(case):
    scores, members = case
    for threshold in {*scores, 0.25}:
        found = metrics.at_threshold(scores, members, threshold)
        chosen = [m for s, m in zip(scores, members, strict=True) if s >= threshold]
        assert (found.selected, found.hits) == (len(chosen), sum(chosen))
        p, r = found.precision, found.recall
        assert found.f1 == pytest.approx(2 * p * r / (p + r) if p + r else 0)


# --- degenerate and wrong -------------------------------------------------------------------------


def test_all_tied_is_chance():
    scores, members = [7.0] * 5, [True, False, False, True, False]
    assert metrics.auroc(scores, members) == 0.5
    assert metrics.pessimistic_auc(scores, members) == 0.0
    assert metrics.average_precision(scores, members) == pytest.approx(0.4)
    assert metrics.at_k(scores, members, 1).hits == pytest.approx(0.4)


def test_perfect_and_perfectly_wrong():
    members = [True, True, False, False]
    assert metrics.auroc([4, 3, 2, 1], members) == metrics.pessimistic_auc([4, 3, 2, 1], members)
    assert metrics.auroc([4, 3, 2, 1], members) == 1
    assert metrics.average_precision([4, 3, 2, 1], members) == 1
    assert metrics.auroc([1, 2, 3, 4], members) == 0


def test_items_without_a_score_can_be_minus_infinity():
    scores, members = [1.0, -INF, -INF, -INF], [True, True, False, False]
    assert metrics.auroc(scores, members) == pytest.approx((2 + 1) / 4)
    assert metrics.at_k(scores, members, 2).hits == pytest.approx(1 + 1 / 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.auroc([1.0, 2.0], [False, False]), "the AUROC needs at least one member"),
        (lambda: metrics.auroc([1.0, 2.0], [True, True]), "all 2 items are members"),
        (lambda: metrics.pessimistic_auc([1.0], [True]), "the AUC compares members with"),
        (lambda: metrics.average_precision([1.0], [False]), "average precision needs at least"),
        (lambda: metrics.auroc([], []), "none of the 0 items is one"),
        (lambda: metrics.auroc([1.0, math.nan], [True, False]), "score 1 is NaN"),
        (lambda: metrics.auroc([1.0, 2.0], [True]), r"got shapes \(2,\) and \(1,\)"),
        (lambda: metrics.at_k([1.0, 2.0], [True, False], 3), r"k = 3 is outside 1\.\.2"),
        (lambda: metrics.at_k([1.0, 2.0], [True, False], 0), r"k = 0 is outside 1\.\.2"),
        (lambda: metrics.at_k([1.0], [False], 1), "precision and recall needs at least one member"),
        (lambda: metrics.at_threshold([1.0], [True], math.nan), "the threshold is NaN"),
        (lambda: metrics.pessimistic_area([(0.5, 1.5)]), "is not a pair of rates"),
        (lambda: metrics.pessimistic_area([(math.nan, 0.5)]), "is not a pair of rates"),
    ],
)
def test_what_has_no_answer_says_why(call, words):
    with pytest.raises(InputError, match=words):
        call()
