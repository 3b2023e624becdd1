"""Overlap of two circuits: by hand, against all subsets, and what cannot be compared."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import visit_tl as vt
from tests import tiny
from visit_tl import InputError
from visit_tl.circuits import Edge, Part, overlap
from visit_tl.circuits.overlap_chance import (
    at_least,
    expected_jaccard,
    layered_chances,
    permuted,
    shared_chances,
    weighted_jaccard,
)
from visit_tl.studies import HeadScores

A = np.array([[3.0, 2.0, 0.5], [0.0, 1.0, -4.0]])
B = np.array([[2.5, 0.0, 0.25], [1.5, 2.0, 0.0]])


def names(parts) -> list[str]:
    return [str(part) for part in parts]


# --- by hand --------------------------------------------------------------------------------------


def test_two_small_circuits_by_hand():
    # A has L0H0, L0H1, L1H1; B has L0H0, L1H0, L1H1: two of four. Of the 20 sets of three out of
    # six, 9 share two with A, 1 all three, 9 one, 1 none.
    found = overlap(A, B, n=3)
    assert names(found.shared) == ["L0H0", "L1H1"]
    whole = found.whole
    assert (whole.items, whole.a, whole.b, whole.shared) == (6, 3, 3, 2)
    assert found.jaccard == 2 / 4 and whole.expected == 1.5 and whole.p == pytest.approx(10 / 20)
    assert found.expected_jaccard == pytest.approx((9 * 1 / 5 + 9 * 2 / 4 + 1) / 20)
    # min: 2.5 + 0 + .25 + 0 + 1 + 0; max: 3 + 2 + .5 + 1.5 + 2 + 0 (the -4 has no weight).
    assert found.weighted.value == pytest.approx(3.75 / 9)


def test_layers_and_roles_by_hand():
    found = overlap(A, B, n=3, roles={"L0H0": "mover", "1.1": "mover", "L0H2": "other"})
    first, second = found.layers
    assert (first.name, first.items, first.a, first.b, first.shared) == ("0", 3, 2, 1, 1)
    assert (second.name, second.items, second.a, second.b, second.shared) == ("1", 3, 1, 2, 1)
    # A's two heads of layer 0 against any three of six: both missed in C(4,3) of 20.
    assert first.jaccard == 1 / 2 and first.expected == 1 and first.p == pytest.approx(16 / 20)
    assert second.expected == 0.5 and second.p == pytest.approx(10 / 20)
    assert first.weighted.value == pytest.approx(2.75 / 5.5)
    mover, other = found.roles
    assert (mover.name, mover.a, mover.b, mover.shared, mover.jaccard) == ("mover", 2, 2, 2, 1)
    assert mover.p == pytest.approx(math.comb(4, 1) / 20)
    assert (other.name, other.a, other.b, other.p, other.jaccard) == ("other", 0, 0, 1, 1)
    # In the same layers: P(the one of B in layer 0 is one of two of three) = 2/3, and the one of A
    # in layer 1 is among two of three: 2/3.
    assert found.in_layers.expected == pytest.approx(4 / 3)
    assert found.in_layers.p == pytest.approx(4 / 9)


def test_absolute_scores_a_threshold_and_shares():
    found = overlap(A, B, threshold=2.0, absolute=True)
    assert [str(one.item) for one in found.items if one.in_a] == ["L0H0", "L0H1", "L1H2"]
    assert [str(one.item) for one in found.items if one.in_b] == ["L0H0", "L1H1"]
    assert found.n is None and found.jaccard == 1 / 4
    assert found.weighted.value == pytest.approx(3.75 / 13)
    whole = overlap(A, 10 * A, n=3, absolute=True, normalise=True)
    assert whole.weighted.value == pytest.approx(1) and whole.notes == ()
    scaled = overlap(A, 10 * A, n=3, absolute=True)
    assert scaled.weighted.value == pytest.approx(0.1)
    assert "sum to 10.5 and 105" in scaled.notes[0] and "normalise=True" in scaled.notes[0]


def test_a_circuit_with_itself_and_empty_ones():
    same = overlap(A, A, n=2)
    assert same.jaccard == same.weighted.value == 1 and same.whole.p == pytest.approx(1 / 15)
    none = overlap(A, B, threshold=99)
    assert none.jaccard == 1 and none.whole.p == 1 and none.expected_jaccard == 1
    zeros = overlap(np.zeros((1, 2)), np.zeros((1, 2)), threshold=1)
    assert zeros.weighted is None and "not defined: nothing has weight" in str(zeros)


def test_edges_by_hand():
    a = {"L0H0->L1H0<q>": 3.0, "L0H1->logits": 2.0, "L0H0->logits": 1.0}
    b = {"L0H0->L1H0<q>": 2.0, "L0H1->logits": 0.0, "L0H0->logits": 1.5}
    reference = vt.circuits.load("tracr-reverse-zero")
    with pytest.raises(InputError, match="neither side says how many layers and heads"):
        overlap(a, b)
    # The reference has both; of the model's edges, 3 of ours are two of its ten.
    ours = {"a0.h0->m0": 3.0, "input->m0": 2.0, "m0->m2": 1.0}
    found = overlap(ours, reference, n=3)
    assert found.level == "edges" and found.model == "tracr-reverse"
    assert names(found.shared) == ["input->m0", "L0H0->m0"]
    assert (found.whole.a, found.whole.b, found.jaccard) == (3, 10, 2 / 11)
    assert found.weighted.value == pytest.approx((1 + 1) / (3 + 2 + 1 + 8))
    # An edge counts in the layer that it ends in, and has the roles of its ends.
    assert [(layer.name, layer.shared) for layer in found.layers if layer.a] == [("0", 2), ("2", 0)]


# --- against all subsets and all permutations -----------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.data())
def test_chances_are_those_of_all_subsets(n, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    every = [len({*range(a)} & {*other}) for other in itertools.combinations(range(n), b)]
    chances = shared_chances(n, a, b)
    counts = Counter(every)
    assert chances == pytest.approx({k: count / len(every) for k, count in counts.items()})
    for k in range(n + 1):
        assert at_least(chances, k) == pytest.approx(sum(e >= k for e in every) / len(every))
    jaccards = [1.0 if not a + b else k / (a + b - k) for k in every]
    assert expected_jaccard(n, a, b) == pytest.approx(sum(jaccards) / len(jaccards))


def test_chances_of_large_sets_sum_to_one():
    chances = shared_chances(32491, 963, 235)
    assert sum(chances.values()) == pytest.approx(1, abs=1e-12)
    assert sum(k * p for k, p in chances.items()) == pytest.approx(963 * 235 / 32491)
    assert at_least(chances, 92) < 1e-70


def test_chances_within_layers_are_those_of_all_choices():
    layers = [(3, 2, 1), (4, 1, 3), (2, 0, 1)]
    each = [
        [len({*range(a)} & {*other}) for other in itertools.combinations(range(n), b)]
        for n, a, b in layers
    ]
    every = [sum(one) for one in itertools.product(*each)]
    expected = {k: count / len(every) for k, count in Counter(every).items()}
    assert {k: p for k, p in layered_chances(layers).items() if p} == pytest.approx(expected)


def test_permutations_come_near_to_all_of_them_and_are_those_of_the_seed():
    stream = np.random.default_rng(1)
    a, b = stream.random(6), stream.random(6)
    groups = np.array([0, 0, 0, 1, 1, 1])
    observed = weighted_jaccard(a, b, groups)
    for group in (0, 1):
        at = groups == group
        low, high = np.minimum(a, b)[at].sum(), np.maximum(a, b)[at].sum()
        assert observed[group] == pytest.approx(low / high)
    every = np.array([
        weighted_jaccard(a, b[list(order)], groups) for order in itertools.permutations(range(6))
    ])  # fmt: skip
    (mean,), (p,) = permuted(a, b, [groups], 4000, 0)
    assert mean == pytest.approx(every.mean(0), abs=0.01)
    assert p == pytest.approx((every >= observed - 1e-12).mean(0), abs=0.03)
    assert np.array_equal(permuted(a, b, [groups], 50, 3)[1], permuted(a, b, [groups], 50, 3)[1])
    assert overlap(A, B, n=3, seed=5).weighted == overlap(A, B, n=3, seed=5).weighted


# --- what holds circuits --------------------------------------------------------------------------


def test_references_are_taken_whole_and_give_their_roles():
    found = overlap("ioi-merullo-2024", "colored-objects-merullo-2024")
    assert names(found.shared) == ["L6H4", "L9H3", "L15H14", "L16H15", "L17H4", "L18H5", "L19H15"]
    assert found.jaccard == 7 / 14 and found.whole.expected == pytest.approx(110 / 384)
    roles = {role.name: (role.a, role.b, role.shared) for role in found.roles}
    assert roles["mover"] == (5, 5, 5) and roles["inhibition"] == (3, 0, 0)
    edges = overlap("ioi-acdc-182", "greater-than-acdc-235", level="edges", permutations=20)
    ioi, greater = (
        set(vt.circuits.load(n).edges) for n in ("ioi-acdc-182", "greater-than-acdc-235")
    )
    assert set(edges.shared) == ioi & greater and edges.whole.items == 32491
    assert {layer.name for layer in edges.layers} == {*map(str, range(12)), "logits"}
    assert "duplicate token -> s-inhibition" in {role.name for role in edges.roles}


def test_scores_against_a_reference_take_as_many_as_it_has():
    scores = np.zeros((12, 12))
    scores[9, 6], scores[9, 9] = 3, 2
    own = scores + np.arange(144)[::-1].reshape(12, 12) / 1e4
    found = overlap(own, "ioi-wang-2022")
    assert (found.whole.a, found.whole.b) == (26, 26) and {"L9H6", "L9H9"} <= {*names(found.shared)}


def test_without_a_reference_two_percent_are_a_circuit():
    stream = np.random.default_rng(0)
    found = overlap(stream.random((12, 12)), stream.random((12, 12)))
    assert (found.n, found.whole.a, found.whole.b) == (3, 3, 3)


@pytest.fixture(scope="module")
def measured():
    native = tiny.native()
    metric = vt.causal.logit_difference(3, 4)
    sweep = {"how": "zero", "verbose": False}
    return vt.causal.effects(native, [0, 1, 2, 3], metric, **sweep), native


def test_effects_graphs_head_scores_and_edge_effects_are_read(measured):
    found, native = measured
    grid = found.heads()
    one = overlap(found, grid, n=2)
    assert one.model == "native" and one.what == ("effect on " + found.metric + " (zero)", "score")
    assert one.whole.a == 2
    scores = HeadScores("native", {"x": np.stack([grid, grid]), "y": np.stack([-grid, grid])})
    both = overlap(scores, found, by="x", n=2, absolute=True)
    assert both.jaccard == 1 and both.weighted.value == pytest.approx(1)
    with pytest.raises(InputError, match="HeadScores has several scores: x, y; choose one"):
        overlap(scores, found)
    graph = vt.flow_graph(native, [0, 1, 2, 3], target=3)
    own = overlap(graph, found, n=1, by="norm")
    assert own.what[0] == "norm" and own.model == "native"
    metric = vt.causal.logit_difference(3, 4)
    cut = ["L0H1->logits", "L0H0->logits", "L0H0->L1H0<q>"]
    edges = vt.causal.edge_effects(
        native, [0, 1, 2, 3], metric, edges=cut, how="zero", verbose=False
    )
    ones = {edge: abs(value) for edge, value in edges.scores.items()}
    with pytest.raises(InputError, match="neither side says"):
        overlap(edges, ones, n=1)
    with pytest.raises(InputError, match=r"has heads, but .* has edges: there is nothing"):
        overlap(found, edges)


def test_items_without_a_score_are_told_or_left_out():
    some = {"L0H0": 1.0, "L0H1": 2.0, "L1H1": 3.0}
    found = overlap(some, B, n=1)
    assert found.whole.items == 6 and "3 of 6 have no score in a, a mapping" in found.notes[0]
    only = overlap(some, B, n=1, among="scored")
    assert only.whole.items == 3 and only.whole.p == pytest.approx(1.0)
    assert names(only.items[i].item for i in range(3)) == ["L0H0", "L0H1", "L1H1"]


# --- what cannot be compared ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (A, np.ones((3, 3)), {}, r"a, an array is of a model of 2 layers x 3 heads, but b, an arr"),
        (A, "ioi-wang-2022", {}, r"but ioi-wang-2022 of one of 12 layers x 12 heads"),
        ("ioi-wang-2022", "ioi-merullo-2024", {}, r"12 layers x 12 heads, but ioi-merullo-2024"),
        (A, B, {"n": 2, "threshold": 1.0}, r"n and threshold both say"),
        (A, B, {"n": 7}, r"n is 7, but only 6 heads of a, an array have a score"),
        (A, np.ones((2, 3)), {"n": 2}, r"cuts through 6 heads of b, .* tie at 1, .* n = 6 or 6"),
        (A, B, {"among": "some"}, r"among is 'all' or 'scored'"),
        (A, B, {"level": "neurons"}, r"level is 'heads' or 'edges'"),
        (A, B, {"level": "edges"}, r"do not both have edges, but heads"),
        (A, B, {"by": "norm"}, r"by = 'norm' chooses a number .* neither side is one"),
        (A, B, {"roles": "ioi-wang-2022"}, r"the roles are those of ioi-wang-2022, of gpt2, 12 la"),
        (A, B, {"roles": {"L9H9": "x"}}, r"the roles name L9H9, but the circuits are of 2 layers"),
        (A, B, {"roles": 3}, r"roles are a mapping of heads to names"),
        (np.full((2, 3), np.nan), B, {}, r"NaN"),
        ("no-such", B, {}, r"'no-such' is no reference circuit"),
    ],
)
def test_what_cannot_be_compared_is_named(a, b, options, message):
    with pytest.raises(InputError, match=message):
        overlap(a, b, **options)


def test_results_of_two_models_are_refused_by_name():
    one = HeadScores("pythia", {"x": A[None]})
    other = HeadScores("gpt2", {"x": B[None]})
    with pytest.raises(InputError, match=r"is of pythia, but b, HeadScores of gpt2. If they are"):
        overlap(one, other, by="x", n=3)


# --- to look at -----------------------------------------------------------------------------------


def test_tables_text_and_notebook_tell_the_same():
    found = overlap(A, B, n=3, roles={"L0H0": "<b>mover"})
    table = found.to_dataframe()
    assert list(table["of"]) == ["all", "layer", "layer", "role"]
    assert table.loc[0, "jaccard"] == 0.5 and table.loc[0, "p"] == pytest.approx(0.5)
    assert list(found.members().index) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    text = str(found)
    assert "2 (by chance 1.5, p 0.50; in the same layers 1.33, p 0.44)" in text
    assert "in both" in text and "L0H0, L1H1" in text
    assert "&lt;b&gt;mover" in found._repr_html_() and "<b>mover" not in found._repr_html_()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_has_every_item_once_and_the_counts_of_each_layer(theme):
    found = overlap(A, B, n=3)
    figure = found.figure(theme)
    marks = {t.name: list(zip(t.x, t.y, strict=True)) for t in figure.data if t.type == "scatter"}
    assert marks["both"] == [(0, "0"), (1, "1")]
    assert marks["a alone"] == [(1, "0")] and marks["b alone"] == [(0, "1")]
    bars = {t.name: list(t.x) for t in figure.data if t.type == "bar"}
    assert bars == {"both": [1, 1], "a alone": [1, 0], "b alone": [0, 1]}
    assert marks["shared by chance"] == [(1.0, "0"), (0.5, "1")]
    edges = overlap("ioi-acdc-182", "greater-than-acdc-235", level="edges", permutations=5)
    drawn = [t for t in edges.figure(theme).data if t.type == "bar"]
    assert sum(sum(t.x) for t in drawn if t.name == "both") == len(edges.shared)
    with pytest.raises(InputError, match="theme"):
        found.figure("blue")


def test_parts_and_edges_are_the_packages_own():
    assert all(isinstance(part, Part) for part in overlap(A, B, n=3).shared)
    shared = overlap("ioi-acdc-182", "ioi-acdc-182", level="edges", permutations=2).shared
    assert all(isinstance(edge, Edge) for edge in shared)


def test_any_integer_is_a_seed():
    scores = np.arange(6.0).reshape(2, 3)
    one, same, other = (
        vt.circuits.overlap(scores, scores**2, n=2, permutations=50, seed=seed)
        for seed in (-3, -3, 3)
    )
    assert one.whole.weighted == same.whole.weighted != other.whole.weighted
