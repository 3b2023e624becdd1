"""How well scores tell effects: hand-worked cases, and pandas beside the rank correlation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_tl import InputError
from visit_tl.studies import HeadScores, agreement
from visit_tl.studies.agreement import spearman


def record(**values):
    return HeadScores("m", {name: np.asarray(v, dtype=float) for name, v in values.items()})


def test_a_small_case_worked_by_hand():
    scores = record(
        effect=[[[-4, 3, 0, 1]]],  # the two largest in size are heads 0 and 1
        attribution=[[[5, -1, 2, 0]]],  # sizes 5, 1, 2, 0
        rank=[[[0, 7, 9, 50]]],  # in the order of the heads, least first
    )
    table = agreement(scores, "effect", k=2)
    assert list(table.index) == ["rank", "attribution"]
    # Pairs of member and other: 0>2, 0>3, 1<2, 1>3.
    assert table.loc["attribution", "auroc"] == 0.75
    assert table.loc["attribution", "average_precision"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    # Ranks of |effect| 3 2 0 1 and of |attribution| 3 1 2 0.
    assert table.loc["attribution", "spearman"] == pytest.approx(1 - 6 * (0 + 1 + 4 + 1) / 60)
    assert table.loc["rank", "auroc"] == 1.0
    assert table.loc["rank", "auroc_one"] == 1.0  # of one prompt both are the same
    assert table.loc["rank", "spearman"] == pytest.approx(1 - 6 * 2 / 60)


def test_an_effect_whose_sign_changes_is_no_effect_of_the_mean():
    scores = record(effect=[[[9, 1, 0]], [[-9, 1, 0]]], norm=[[[1, 2, 0]], [[3, 2, 0]]])
    table = agreement(scores, "effect", k=1)
    # Means: effect 0, 1, 0; norm 2, 2, 0: the member is tied with one and above the other.
    assert table.loc["norm", "auroc"] == 0.75
    # Single prompts: the member is head 0 both times, second by norm and then first.
    assert table.loc["norm", "auroc_one"] == pytest.approx((0.5 + 1.0) / 2)


def test_only_the_scores_that_are_named():
    scores = record(effect=[[[1, 2]]], a=[[[1, 2]]], b=[[[2, 1]]])
    assert list(agreement(scores, "effect", k=1, names=["b"]).index) == ["b"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_the_rank_correlation_is_that_of_averaged_ranks(pairs):
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(found)
    else:
        ranks = pd.DataFrame({"a": a, "b": b}).rank()
        assert found == pytest.approx(ranks["a"].corr(ranks["b"]), abs=1e-9)


def test_what_was_not_measured_everywhere_is_refused():
    scores = record(effect=[[[1, math.nan]]], norm=[[[1, 2]]])
    with pytest.raises(InputError, match="'effect' was not measured for every head"):
        agreement(scores, "effect", k=1)
    with pytest.raises(InputError, match="'effect' was not measured for every head"):
        agreement(scores, "norm", k=1)


@pytest.mark.parametrize("k", [0, 2])
def test_k_leaves_some_heads_out(k):
    scores = record(effect=[[[1, 2]]], norm=[[[1, 2]]])
    with pytest.raises(
        InputError,
        match=rf"k is {k}; it must be in 1\.\.1|k must be an integer of at least 1, got {k}",
    ):
        agreement(scores, "effect", k=k)
