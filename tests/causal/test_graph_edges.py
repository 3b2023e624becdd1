"""The edges of a graph, cut: beside patching the hooks that they end at."""

import pytest
import torch

from tests.conftest import made
from visit_tl import InputError, ModelView, flow_graph
from visit_tl.causal.circuit.edge_bundles import bundle
from visit_tl.causal.circuit.edges_of_graph import graph_edge_effects
from visit_tl.causal.metrics import logit_difference
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.graph.circuit_edges import Shape, model_edges
from visit_tl.graph.ids import NodeId

CLEAN, CORRUPTED = [0, 3, 5, 7, 11], [0, 3, 6, 2, 8]
METRIC = logit_difference(9, 4)


def cached(model, ids):
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([ids]))[1]


def patched(model, name, value, at):
    """The metric with one hook given a value at the last position."""

    def put(tensor, hook):
        tensor = tensor.clone()
        tensor[(0, *at)] = value
        return tensor

    with torch.no_grad():
        return float(METRIC(model.run_with_hooks(torch.tensor([CLEAN]), fwd_hooks=[(name, put)])))


def measured(model, position=-1, **how):
    graph = flow_graph(model, CLEAN, heads=2, position=position)
    effects = graph_edge_effects(
        model, graph, METRIC, **({"corrupted": CORRUPTED} | how), verbose=False
    )
    return graph, effects


def test_edges_out_of_one_node_equal_patching_it(model):
    _, effects = measured(model)
    corrupted = cached(model, CORRUPTED)
    view = ModelView(model)
    last = view.n_layers - 1
    for layer in range(view.n_layers):
        at = f"blocks.{layer}"
        out = corrupted[f"{at}.hook_mlp_out"][0, -1]
        expected = patched(model, f"{at}.hook_mlp_out", out, (-1,)) - effects.clean
        ends = f"L{layer}.mlp_out", f"L{layer}.resid_post"
        assert effects[ends] == pytest.approx(expected, abs=2e-5)
    for source, target in effects.ends:
        if (source.kind, target.kind) == ("head", "z"):
            name, h = f"blocks.{source.layer}.attn.hook_z", source.head
            value = corrupted[name][0, -1, h]
            expected = patched(model, name, value, (-1, h)) - effects.clean
            assert effects[source, target] == pytest.approx(expected, abs=2e-5)
    # Past the last block, the stream is the corrupted run's.
    with torch.no_grad():
        whole = float(METRIC(model(torch.tensor([CORRUPTED])))) - effects.clean
    assert effects[f"L{last}.resid_post", "final_norm"] == pytest.approx(whole, abs=2e-5)
    assert effects["final_norm", "logits"] == pytest.approx(whole, abs=2e-5)


@pytest.mark.parametrize("position", [1, 3, -1])
def test_a_query_that_reads_another_stream_equals_patching_the_query(position):
    """In the first block, where the stream is the embedding alone."""
    model = made("gpt2")
    graph, effects = measured(model, position=position)
    corrupted = cached(model, CORRUPTED)["blocks.0.attn.hook_q"]
    p = graph.position
    heads = [node.id.head for node in graph.of_kind("head_query") if node.layer == 0]
    assert heads
    for h in heads:
        value = patched(model, "blocks.0.attn.hook_q", corrupted[0, p, h], (p, h))
        effect = effects["L0.query", f"L0H{h}.q"]
        assert effect == pytest.approx(value - effects.clean, abs=2e-5)


def test_effects_land_on_the_edges_of_the_graph(model):
    graph, effects = measured(model)
    drawn = effects.onto(graph)
    assert [edge.effect is not None for edge in drawn.edges].count(True) == len(effects.ends)
    assert len(effects.ends) + effects.left_out == len(graph.edges)
    for edge in drawn.edges:
        if edge.effect is not None:
            assert edge.effect.exact
            assert edge.effect.value == effects[edge.source, edge.target]
    assert drawn.nodes == graph.nodes
    table = effects.to_dataframe()
    assert len(table) == len(effects.ends)
    assert (table["bundle"] > 0).all()


def test_zero_ablation_needs_no_other_prompt(native):
    _, effects = measured(native, corrupted=None, how="zero")
    zeros = torch.zeros(native.cfg.d_model)
    expected = patched(native, "blocks.0.hook_mlp_out", zeros, (-1,)) - effects.clean
    assert effects["L0.mlp_out", "L0.resid_post"] == pytest.approx(expected, abs=2e-5)
    assert effects.corrupted is None


def test_bundles_of_a_cut_through_the_model_hold_every_way_past_it():
    shape = Shape(2, 3)
    edges = set(model_edges(shape))
    # What crosses from block 0 to block 1: 5 senders, to 3 heads x 3 inputs, an MLP, the logits.
    crossing = bundle(shape, NodeId("resid_post", 0), NodeId("resid_pre", 1))
    assert len(crossing) == 5 * (9 + 1 + 1)
    into_heads = bundle(shape, NodeId("resid_pre", 1), NodeId("attn_in", 1))
    past = bundle(shape, NodeId("resid_pre", 1), NodeId("resid_mid", 1))
    assert into_heads | past == crossing
    assert not into_heads & past
    into_mlp = bundle(shape, NodeId("resid_mid", 1), NodeId("mlp_in", 1))
    beyond = bundle(shape, NodeId("resid_mid", 1), NodeId("resid_post", 1))
    heads = bundle(shape, NodeId("z", 1), NodeId("attn_out", 1))
    assert into_mlp | beyond == past | heads
    mlp = bundle(shape, NodeId("mlp_out", 1), NodeId("resid_post", 1))
    assert beyond | mlp == bundle(shape, NodeId("resid_post", 1), NodeId("final_norm"))
    assert crossing | into_mlp | mlp <= edges


def test_edges_of_memories_neurons_and_other_positions_have_no_bundle():
    shape = Shape(2, 3)
    for source, target in (
        (NodeId("value", 0, 1, 2), NodeId("head", 0, 1)),
        (NodeId("neuron", 0, neuron=3), NodeId("mlp_out", 0)),
        (NodeId("b_O", 0), NodeId("attn_out", 0)),
        (NodeId("head", 0, 1, position=2), NodeId("z", 0, position=2)),
    ):
        assert bundle(shape, source, target) == frozenset()


def test_parallel_blocks_have_one_way_past_both(native):
    shape = Shape(2, 2, parallel=True)
    past = bundle(shape, NodeId("resid_pre", 0), NodeId("resid_post", 0))
    assert {str(e.target) for e in past} == {"L1H0", "L1H1", "m1", "logits"}
    assert {str(e.source) for e in past} == {"input"}
    assert shape_of(ModelView(native)).parallel is False


def test_interrupted_it_keeps_what_is_done(native):
    calls = []

    def metric(logits):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return logits[0, -1, 9]

    graph = flow_graph(native, CLEAN)
    effects = graph_edge_effects(native, graph, metric, corrupted=CORRUPTED, verbose=False)
    assert not effects.complete
    assert 0 < len(effects.ends) < len(graph.edges)


def test_refusals_say_what_is_wrong(native):
    graph, effects = measured(native)
    with pytest.raises(InputError, match=r"the edge L0\.z -> L1H0 was not measured"):
        effects["L0.z", "L1H0"]
    with pytest.raises(InputError, match="differ in position; measure this graph"):
        effects.onto(flow_graph(native, CLEAN, position=1))
    with pytest.raises(InputError, match="the graph is of native, the model is gpt2"):
        graph_edge_effects(made("gpt2"), graph, METRIC, corrupted=CORRUPTED)
    with pytest.raises(InputError, match="how='resample' needs corrupted="):
        graph_edge_effects(native, graph, METRIC)
