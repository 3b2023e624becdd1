"""Budgets: what is kept is the best by its score, ties go to the lower index, nothing else is."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

import visit_tl as vt
from visit_tl import InputError
from visit_tl.xray import budget as prune

SCORES = hnp.arrays("float32", st.integers(1, 60), elements=st.floats(-9, 9, width=32).map(round))


@given(SCORES, st.integers(0, 70))
def test_kept_heads_are_the_first_of_a_stable_sort(scores, count):
    norms = torch.from_numpy(abs(scores))
    kept = prune.keep_heads(norms, prune.Budget(heads=count)).tolist()
    wanted = sorted(range(len(norms)), key=lambda i: (-float(norms[i]), i))[:count]
    assert kept == sorted(wanted)


@given(SCORES, st.integers(0, 30), st.integers(0, 30))
def test_kept_neurons_are_the_highest_positive_and_the_lowest_negative(scores, high, low):
    coefficients = torch.from_numpy(scores)
    norms = torch.full_like(coefficients, 2.0)
    budget = prune.Budget(high=high, low=low)
    kept = prune.keep_neurons(coefficients, norms, budget).tolist()
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    top = [i for i in order[:high] if scores[i] > 0]
    back = sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))
    bottom = [i for i in back[:low] if scores[i] < 0]
    assert kept == sorted(top + bottom)
    assert len(set(kept)) == len(kept)


@given(SCORES, st.integers(0, 30))
def test_by_activation_the_row_norms_do_not_matter(scores, high):
    coefficients = torch.from_numpy(scores)
    budget = prune.Budget(high=high, low=2, by="activation")
    one = prune.keep_neurons(coefficients, torch.ones(len(scores)), budget)
    other = prune.keep_neurons(coefficients, torch.rand(len(scores)) + 0.1, budget)
    assert torch.equal(one, other)
    order = sorted(range(len(scores)), key=lambda i: (-abs(float(scores[i])), i))
    assert one.tolist() == sorted(i for i in order[: high + 2] if scores[i] != 0)


def test_values_without_attention_are_never_kept():
    pattern = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    rows, positions = prune.keep_values(pattern, prune.Budget(values=2))
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == [(0, 1), (1, 1), (1, 2)]


def test_neurons_as_one_number_are_split_as_the_paper_splits_25():
    assert (prune.budget(neurons=25).high, prune.budget(neurons=25).low) == (18, 7)
    assert (prune.budget(neurons=0).high, prune.budget(neurons=0).low) == (0, 0)
    assert (prune.budget(neurons=(3, 9)).high, prune.budget(neurons=(3, 9)).low) == (3, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 0}, "heads must be an integer of at least 1, got 0"),
        ({"values": -2}, "values must be an integer of at least 1, got -2"),
        ({"neurons": -1}, "neurons must be an integer of at least 0, got -1"),
        ({"neurons": (2, -1)}, "neurons must be an integer of at least 0, got -1"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        prune.budget(**arguments)


PROMPT = "a b c d e"


def test_pruning_is_idempotent_building_again_with_what_was_kept_changes_nothing(model):
    once = vt.flow_graph(model, PROMPT, heads=2, values=1, neurons=5)
    again = vt.flow_graph(model, PROMPT, heads=2, values=1, neurons=5)
    assert once == again


def test_no_node_dangles_and_input_and_output_stay_connected(model):
    graph = vt.flow_graph(model, PROMPT, heads=1, values=1, neurons=2)
    entry, exit_ = graph.nodes[0].id, graph["logits"].id
    assert str(entry) == "L0.resid_pre"
    assert entry in graph.ancestors("logits")
    for node in graph:
        assert node.id == exit_ or graph.edges_out_of(node.id), node.id
        is_source = node.id == entry or node.kind in ("b_O", "b_out")
        assert is_source or graph.edges_into(node.id), node.id


def test_a_larger_budget_keeps_everything_that_a_smaller_one_kept(model):
    small = {n.id for n in vt.flow_graph(model, PROMPT, heads=1, values=1, neurons=(2, 1))}
    large = {n.id for n in vt.flow_graph(model, PROMPT, heads=3, values=3, neurons=(6, 4))}
    assert small < large


def test_shown_and_hidden_add_up_to_all(model):
    graph = vt.flow_graph(model, PROMPT, heads=3, values=2, neurons=(4, 3))
    view = vt.ModelView(model)
    for layer in graph.layers:
        hidden = graph.hidden[layer]
        count = {
            k: sum(n.layer == layer for n in graph.of_kind(k)) for k in ("head", "value", "neuron")
        }
        assert count["head"] + hidden.heads == view.n_heads
        assert count["value"] + hidden.values == 3 * len(graph.tokens)
        assert count["neuron"] + hidden.neurons <= 40


def test_the_paper_preset_keeps_all_heads_and_neurons_by_activation(model):
    graph = vt.flow_graph(model, PROMPT, preset="paper")
    assert len(graph.of_kind("head")) == 2 * 4
    assert graph.pruning["neurons_by"] == "activation"
    trace = vt.Trace.run(vt.ModelView(model), vt.ModelView(model).tokens.encode(PROMPT, None))
    post = trace.layers[1].mlp_post.abs()
    kept = [n.id.neuron for n in graph.of_kind("neuron") if n.layer == 1]
    assert set(kept) == set(post.sort(descending=True, stable=True).indices[:25].tolist())
