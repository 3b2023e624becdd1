"""Comparisons worked by hand: graphs, arrays and mappings against small references of our own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from visit_tl import flow_graph
from visit_tl.causal.patching.effects_result import Effects
from visit_tl.causal.paths.edge_effects_result import EdgeEffects
from visit_tl.circuits import Edge, Part, Reference, compare, load
from visit_tl.errors import GraphError, InputError
from visit_tl.flow import FlowGraph
from visit_tl.graph.circuit_edges import Shape, model_edges
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Effect, Gradient, Hidden, Node, Reversed, TokenProb


def heads(*names):
    return tuple(Part.parse(name) for name in names)


# Of 3 layers x 2 heads; 3 of 6 heads are in it.
SMALL = Reference(
    name="small-truth",
    circuit="small",
    coding="three heads",
    model="small",
    shape=Shape(3, 2),
    classes={"early": heads("0.1"), "late <i>": heads("2.0", "2.1")},
    mlp_groups={"middle": heads("m1")},
    edges=tuple(map(Edge.parse, ("0.1->2.0.k", "0.1->m1", "m1->2.0.v", "2.0->logits"))),
)
SCORES = [[0.1, 0.9], [0.5, 0.4], [0.5, -2.0]]


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [SCORES, np.array(SCORES), torch.tensor(SCORES)])
def test_an_array_by_hand(given):
    found = compare(given, SMALL, threshold=0.45)
    # 0.9+ > 0.5+ = 0.5 > 0.4 > 0.1 > -2+: of 9 pairs 3, then 2 and a tie, then none.
    assert found.auroc == pytest.approx(5.5 / 9)
    assert found.pessimistic_auc == pytest.approx(5 / 9)
    assert found.average_precision == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert found.chance == 0.5
    assert (found.at_k.selected, found.at_k.hits) == (3, 2)
    assert (found.at_threshold.selected, found.at_threshold.hits) == (3, 2)
    assert found.at_threshold.threshold == 0.45
    assert found.recall_by_class == {"early": 1.0, "late <i>": 0.5}
    assert (found.level, found.what, found.absolute, found.model) == (
        *("heads", "score"),
        *(False, None),
    )
    assert (found.unscored, found.unscored_members, found.notes) == (0, 0, ())
    assert found.coding == "small-truth: three heads"


def test_sizes_instead_of_signs():
    found = compare(SCORES, SMALL, absolute=True, threshold=0.9)
    # 2+ > 0.9+ > 0.5+ = 0.5 > 0.4 > 0.1: of 9 pairs 3, 3, and 2 and a tie.
    assert found.auroc == pytest.approx(8.5 / 9)
    assert found.at_threshold.hits == 2
    assert found.items[5].score == 2.0


def test_k_is_free_and_a_tie_at_its_edge_is_shared():
    found = compare(SCORES, SMALL, k=2)
    assert (found.at_k.selected, found.at_k.hits) == (2, 1.5)
    assert found.recall_by_class == {"early": 1.0, "late <i>": 0.25}
    with pytest.raises(InputError, match=r"k = 7 is outside 1\.\.6"):
        compare(SCORES, SMALL, k=7)


def test_the_ranking_gives_tied_items_one_place():
    frame = compare(SCORES, SMALL).ranking()
    assert list(frame.index) == ["L0H1", "L1H0", "L2H0", "L1H1", "L0H0", "L2H1"]
    assert list(frame["place"]) == [1, 2, 2, 4, 5, 6]
    assert list(frame["member"]) == [True, False, True, False, False, True]
    assert list(frame["class"]) == ["early", "", "late <i>", "", "", "late <i>"]


# --- mappings ------------------------------------------------------------------------------------


def test_heads_in_any_spelling_and_those_without_a_score_are_last():
    found = compare({"a0.h1": 0.9, "2.0": 0.5, (1, 0): 0.5, NodeId("head", 0, 0): 0.1}, SMALL)
    # 2.1 and 1.1 have none: 0.9+ > 0.5+ = 0.5 > 0.1 > {2.1+, 1.1}.
    assert found.auroc == pytest.approx((3 + 2.5 + 0.5) / 9)
    assert found.pessimistic_auc == pytest.approx(5 / 9)
    assert (found.unscored, found.unscored_members) == (2, 1)
    assert [item.place for item in found.items] == [4, 1, 2, 5, 2, 5]
    assert [item.score for item in found.items] == [0.1, 0.9, 0.5, None, 0.5, None]
    assert "2 (the reference has 1): last, tied" in found.text()


def test_of_a_heads_inputs_the_highest_counts_and_what_is_no_head_is_reported():
    given = {"A0.1.Q": -3.0, "A0.1.K": 1.0, "<a2.0_v>": 2.0, "m1": 9.0, "input": 9.0}
    found = compare(given, SMALL)
    assert found.items[1].score == 1.0
    assert found.notes == (
        "2 that are no heads left out: m1, input",
        "of a head's q, k and v the highest score counts",
    )
    assert compare(given, SMALL, absolute=True).items[1].score == 3.0


def test_scores_may_be_tensors_effects_or_infinite():
    given = {
        "0.0": torch.tensor(1.0),
        "0.1": Effect(2.0, True),
        "1.0": math.inf,
        "1.1": np.int64(3),
    }
    assert [i.score for i in compare(given, SMALL).items][:4] == [1.0, 2.0, math.inf, 3.0]


def test_edges_by_hand():
    given = {
        "a0.h1->a2.h0<k>": 5.0,
        ("0.1", "m1"): 4.0,
        "a0.h0->m1": 3.0,
        "m1->logits": 4.0,
        "MLP 1->A2.0.V": 1.0,
    }
    found = compare(given, SMALL)
    n = len(model_edges(SMALL.shape))
    assert (found.level, len(found.items), found.at_k.selected) == ("edges", n, 4)
    assert (found.unscored, found.unscored_members) == (n - 5, 1)
    # Negatives: 3.0, 4.0 and n - 6 without a score. Pairs won by 5, 4, 1 and by none.
    others = n - 4
    won = others + (others - 0.5) + (others - 2) + (n - 6) / 2
    assert found.auroc == pytest.approx(won / (4 * others))
    assert found.pessimistic_auc == pytest.approx((3 * others - 3) / (4 * others))
    assert found.at_k.hits == 2
    assert found.recall_by_class == {
        "early -> late <i>": 1.0,
        "early -> middle": 1.0,
        "middle -> late <i>": 0.0,
        "late <i> -> logits": 0.0,
    }


def test_edges_equal_a_loop_over_all_pairs():
    random = np.random.RandomState(1)
    given = {edge: float(random.randint(0, 4)) for edge in model_edges(SMALL.shape)}
    found = compare(given, SMALL)
    own = [given[e] for e in SMALL.edges]
    others = [s for e, s in given.items() if e not in SMALL.edges]
    pairs = list(itertools.product(own, others))
    assert found.auroc == pytest.approx(
        sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs), abs=1e-12
    )


def test_edges_inside_heads_count_only_in_codings_that_have_them():
    index = (None, None, 1)
    given = {
        ("blocks.0.attn.hook_q", index, "blocks.0.hook_q_input", index): 1.0,
        "a0.h1->m1": 2.0,
    }
    found = compare(given, SMALL)
    assert found.notes == ("1 edges inside heads left out: the coding has none",)
    with_them = replace(SMALL, internal=True)
    more = compare(given, with_them)
    assert (len(more.items), more.notes) == (len(found.items) + 3 * 6, ())


def test_the_published_codings_against_each_other():
    small, large = load("ioi-acdc-182"), load("ioi-acdc-963")
    found = compare(dict.fromkeys(small.edges, 1.0), large, threshold=1.0)
    assert len(found.items) == 32491
    assert (found.at_threshold.precision, found.at_threshold.hits) == (1.0, 182)
    # The 182 win against all others; the 781 tie with all of these.
    assert found.auroc == pytest.approx((182 + 781 / 2) / 963)
    assert found.pessimistic_auc == pytest.approx(182 / 963)


# --- graphs --------------------------------------------------------------------------------------


def node(name, **facts):
    said = (TokenProb("a", 0, 0.5),)
    rest = {"entropy": 1.0, "norm": 1.0, "rank": 0, "prob": 0.1} | facts
    return Node(NodeId.parse(name), said, said, **rest)


def graph(*nodes, n_layers=3, hidden=0, prepend_bos=False, model="small"):
    layers = range(n_layers)
    own = [n for n in nodes if n.id.position is None]
    shown = {layer: sum(n.layer == layer for n in own) for layer in layers}
    return FlowGraph(
        model=model,
        prompt="a b",
        tokens=("a", "b"),
        token_ids=(0, 1),
        prepend_bos=prepend_bos,
        position=1,
        target="a",
        target_id=0,
        target_given=True,
        layers=tuple(layers),
        n_layers=n_layers,
        d_vocab=10,
        pruning={},
        hidden={layer: Hidden(heads=2 + hidden - shown[layer]) for layer in layers},
        residual_error=dict.fromkeys(layers, 0.0),
        nodes=nodes,
        edges=(),
    )


HEADS = (
    node("L0H1", norm=3.0, rank=5, prob=0.2, attention=(0.9, 0.1), attribution=0.5),
    node("L1H0", norm=4.0, rank=0, prob=0.4, attention=(0.4, 0.6), attribution=-0.1),
    node("L2H0", norm=2.0, rank=9, prob=0.1, attention=(0.3, 0.7), attribution=-2.0),
)


@pytest.mark.parametrize(
    ("by", "values"),
    [
        (None, (3, 4, 2)),
        ("norm", (3, 4, 2)),
        ("prob", (0.2, 0.4, 0.1)),
        ("rank", (-5, 0, -9)),
        ("attention", (0.9, 0.6, 0.7)),
        ("attribution", (0.5, 0.1, 2.0)),
    ],
)
def test_a_graphs_heads_by_each_number(by, values):
    found = compare(graph(*HEADS), SMALL, by=by)
    scored = {str(item.item): item.score for item in found.items}
    assert [scored[name] for name in ("L0H1", "L1H0", "L2H0")] == pytest.approx(values)
    assert [name for name, score in scored.items() if score is None] == ["L0H0", "L1H1", "L2H1"]
    assert (found.unscored, found.unscored_members) == (3, 1)
    assert (found.what, found.model) == (by or "norm", "small")
    assert found.absolute is (by == "attribution")
    assert found.notes == ()


def test_signed_attributions_on_demand_and_attention_without_bos():
    found = compare(graph(*HEADS), SMALL, by="attribution", absolute=False)
    assert [item.score for item in found.items] == [None, 0.5, -0.1, None, -2.0, None]
    found = compare(graph(*HEADS, prepend_bos=True), SMALL, by="attention")
    assert [item.score for item in found.items] == [None, 0.1, 0.6, None, 0.7, None]


def test_effects_where_they_were_measured():
    measured = (HEADS[0], replace(HEADS[1], effect=Effect(-0.25, exact=True)), HEADS[2])
    found = compare(graph(*measured), SMALL, by="effect")
    assert [item.score for item in found.items] == [None, None, 0.25, None, None, None]
    assert found.unscored == 5
    with pytest.raises(InputError, match="no head of this graph has an effect; measure it first"):
        compare(graph(*HEADS), SMALL, by="effect")


def test_gradients_and_reversed_attention_where_they_were_measured():
    facts = {"gradient": Gradient(0.25, None), "reversed": Reversed(0.5, (0.0,))}
    measured = (HEADS[0], replace(HEADS[1], **facts), HEADS[2])
    for by, score, call in (("gradient", 0.25, "lens"), ("reversed", 0.5, "reversed")):
        found = compare(graph(*measured), SMALL, by=by)
        assert [item.score for item in found.items] == [None, None, score, None, None, None]
        with pytest.raises(InputError, match=rf"no head of this .* {call}\.onto\(g\) puts th"):
            compare(graph(*HEADS), SMALL, by=by)


def test_a_head_at_several_positions_counts_where_it_scores_highest():
    there = replace(HEADS[0], id=NodeId("head", 0, 1, position=0), norm=7.0)
    found = compare(graph(there, *HEADS), SMALL)
    assert found.items[1].score == 7.0
    assert found.notes == ("of several positions the highest score of a head counts",)


def test_measured_effects_are_taken_as_they_are():
    facts = {"metric": "logit difference", "how": "zero", "token_ids": (0, 1), "complete": True}
    facts |= {"model": "small", "clean": 2.0, "corrupted": None, "positions": (1,)}
    ids = tuple(map(NodeId.parse, ("L0H1", "L1H0", "L0.resid_pre", "L2H1.v0", "L2H1")))
    measured = Effects(
        **facts,
        direction="noise",
        ids=ids,
        values=(-3.0, 0.5, 9.0, 9.0, 1.0),
        exact=(True,) * 5,
        left_out={},
        way="layers",
        n_layers=3,
        n_heads=2,
    )
    found = compare(measured, SMALL)
    assert [item.score for item in found.items] == [None, 3.0, 0.5, None, None, 1.0]
    assert (found.what, found.model) == ("effect on logit difference (zero)", "small")
    assert found.absolute
    signed = compare(measured, SMALL, absolute=False)
    assert [item.score for item in signed.items] == [None, -3.0, 0.5, None, None, 1.0]
    with pytest.raises(InputError, match="the effects are of small, of 3 layers x 3 heads: all"):
        compare(replace(measured, n_heads=3), SMALL)
    with pytest.raises(InputError, match="no head was patched as a whole"):
        compare(replace(measured, ids=ids[2:4], values=(1.0, 1.0), exact=(True, True)), SMALL)
    edges = EdgeEffects(**facts, edges=SMALL.edges[:2], values=(-1.0, 0.5))
    found = compare(edges, SMALL)
    assert (found.level, found.absolute, found.at_k.hits) == (
        "edges",
        True,
        pytest.approx(2.04, 0.1),
    )
    assert [i.score for i in found.items if i.item == SMALL.edges[0]] == [1.0]
    assert found.unscored_members == 2


def test_another_model_of_the_same_shape_is_pointed_out():
    found = compare(graph(*HEADS, model="other"), SMALL)
    assert found.notes == ("the scores are of other, the reference of small",)


def test_a_real_graph_against_a_reference_of_its_shape():
    model = tiny.native()
    found = flow_graph(model, "a b c d e", heads=2, prepend_bos=False)
    own = replace(SMALL, shape=Shape(2, 4), classes={"all": heads("0.0", "1.3")}, edges=())
    result = compare(found, own)
    kept = {str(n.id): n.norm for n in found.of_kind("head")}
    assert kept
    assert {str(i.item): i.score for i in result.items if i.score is not None} == kept
    assert result.unscored == 8 - len(kept) == found.hidden_in_all.heads


# --- shapes that do not fit, and other mistakes --------------------------------------------------


def test_a_reference_of_another_shape_names_the_heads_out_of_range():
    with pytest.raises(
        InputError,
        match=r"small-truth is of small, 3 layers x 2 heads, but the scores are of 2 layers x 2 "
        r"heads: out of range are L2H0, L2H1\. Compare",
    ):
        compare(SCORES[:2], SMALL)
    with pytest.raises(InputError, match="out of range are L0H1, L2H1"):
        compare([[1.0], [2.0], [3.0]], SMALL)
    with pytest.raises(InputError, match="all its heads are in range, but they are those of ano"):
        compare(np.zeros((30, 9)), SMALL)
    with pytest.raises(InputError, match=r"ioi-wang-2022 is of gpt2.* are L0H10, L4H11, L5H9"):
        compare(np.zeros((30, 9)), "ioi-wang-2022")
    with pytest.raises(InputError, match=r"the graph is of small, of 2 layers .* are L2H0, L2H1"):
        compare(graph(*HEADS[:2], n_layers=2), SMALL)
    with pytest.raises(InputError, match="of 3 layers x 3 heads: all its heads are in range"):
        compare(graph(*HEADS, hidden=1), SMALL)


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ({}, {}, "the mapping of scores is empty"),
        ({"3.0": 1.0, "0.2": 1.0}, {}, "L3H0, L0H2 are out of range of small-truth"),
        ({"m3->logits": 1.0}, {}, "m3 are out of range of small-truth, which is of small, 3 lay"),
        ({"0.1": 1.0, "a0.h1": 2.0}, {}, "'a0.h1' and '0.1' are the same head or edge"),
        ({"0.1->m1": 1.0, "a0.h1->m1": 2.0}, {}, "are the same head or edge; give it one score"),
        ({"0.1": 1.0, "0.1->m1": 1.0}, {}, "cannot be mixed: '0.1' and '0.1->m1'"),
        ({"m1": 1.0}, {}, "none of m1 is a head"),
        ({"0.1": None}, {}, "the score of L0H1 is None, not a number"),
        ({"0.1": math.nan}, {}, "the score of L0H1 is NaN"),
        ({"0.1->m1": math.nan}, {}, "the score of L0H1->m1 is NaN"),
        ([[1.0, math.nan], [1.0, 1.0], [1.0, 1.0]], {}, "the score of L0H1 is NaN"),
        ([1.0, 2.0], {}, r"scores must be \[layer, head\], got shape \[2\]"),
        ([[1.0], [1.0, 2.0]], {}, "scores must be numbers"),
        ("ab", {}, "scores must be numbers .* str is none of them"),
        (SCORES, {"by": "norm"}, "by = 'norm' chooses a number of a graph's heads"),
        (SCORES, {"threshold": math.nan}, "threshold must be a finite number"),
        (graph(*HEADS), {"by": "rank", "absolute": True}, "a rank has no sign"),
    ],
)
def test_bad_scores_say_what_is_wrong(scores, options, words):
    with pytest.raises(InputError, match=words):
        compare(scores, SMALL, **options)


def test_names_that_cannot_be_read_and_codings_that_lack_something():
    with pytest.raises(GraphError, match="'x1' is no part of a circuit"):
        compare({"x1": 1.0}, SMALL)
    with pytest.raises(
        InputError,
        match=r"ioi-wang-2022 lists no edges.*: ioi-acdc-1041, ioi-acdc-182, ioi-acdc-963",
    ):
        compare({"a0.h1->m1": 1.0}, "ioi-wang-2022")
    with pytest.raises(InputError, match="small-truth lists no heads to compare scores of heads"):
        compare(SCORES, replace(SMALL, classes={}))
    with pytest.raises(InputError, match="'nothing' is no reference circuit"):
        compare(SCORES, "nothing")


def test_where_everything_is_a_member_there_is_no_auroc():
    found = compare([[0.3]], "tracr-hist-zero")
    assert found.auroc is None
    assert found.pessimistic_auc is None
    assert (found.average_precision, found.at_k.f1) == (1.0, 1.0)
    assert "AUROC              not defined: everything is in the reference" in found.text()


# --- looking -------------------------------------------------------------------------------------


def test_the_table_has_one_row_a_comparison():
    import pandas as pd

    found = [compare(SCORES, SMALL, threshold=0.45), compare(SCORES, SMALL, absolute=True)]
    frame = pd.concat([one.to_dataframe() for one in found])
    assert list(frame.index) == ["small-truth", "small-truth"]
    first = frame.iloc[0]
    assert first["auroc"] == pytest.approx(5.5 / 9)
    assert (first["items"], first["members"], first["k"], first["threshold"]) == (6, 3, 3, 0.45)
    assert first["precision_at_k"] == first["recall_at_k"] == pytest.approx(2 / 3)
    assert first["f1_at_threshold"] == pytest.approx(2 / 3)
    assert first["recall: late <i>"] == 0.5
    assert math.isnan(frame.iloc[1]["threshold"])
    assert list(frame["coding"]) == ["three heads"] * 2


def test_the_text_says_what_the_numbers_are_of():
    found = compare(graph(*HEADS), SMALL, by="attribution", threshold=0.3)
    assert found.text() == "\n".join(
        [
            "reference          small-truth: three heads (small)",
            "scores             sizes of attribution, of small",
            "heads              6, of which the reference has 3",
            "no score           3 (the reference has 1): last, tied",
            "AUROC              0.778",
            "pessimistic AUC    0.667",
            "average precision  0.833 (chance 0.500)",
            "k = 3              precision 0.667, recall 0.667, F1 0.667",
            "from 0.3 up        precision 1.000, recall 0.667, F1 0.800 (2 selected)",
            "  early            1 of 1 at k",
            "  late <i>         1 of 2 at k",
        ]
    )
    assert str(found) == found.text()
    assert "late &lt;i&gt;" in found._repr_html_()
    assert "<i>" not in found._repr_html_()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figures(theme):
    figure = compare({"0.1": 1.0, "1.1": 2.0}, SMALL).figure(theme)
    z = np.array(figure.data[0].z, dtype=float)
    assert z[0, 1] == 1.0
    assert np.isnan(z).sum() == 4
    assert "small-truth" in figure.layout.title.text
    curve = compare({"0.1->m1": 1.0, "m1->logits": 2.0}, SMALL).figure(theme)
    precision, recall = curve.data
    assert (precision.name, recall.name) == ("precision", "recall")
    n = len(model_edges(SMALL.shape))
    assert (list(precision.x)[:2], precision.x[-1], precision.y[0]) == ([1, 2], n, 0.0)
    assert (precision.y[1], recall.y[1]) == (0.5, 0.25)
    assert (precision.y[-1], recall.y[-1]) == (pytest.approx(4 / n), 1.0)
    assert 4 in precision.x
