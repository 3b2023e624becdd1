"""Mixtures of experts: against loops over the experts of Hugging Face's own modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import visit_tl as vt
from tests import tiny
from tests.mixtures import changed, logits, mlp_of, seen, twins
from visit_tl.errors import GraphError, InputError, ModelError
from visit_tl.graph.ids import NodeId
from visit_tl.model import components
from visit_tl.model.block_parts import parts_of
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.view.text import text

pytestmark = pytest.mark.skipif(
    tiny.RELEASE < (4, 3), reason="TransformerLens 4.3 is the first that opens all of these"
)

IDS = [0, 3, 5, 2, 9, 4, 12, 7]
OTHER = [0, 3, 6, 2, 9, 1, 12, 7]
NAMES = ("mixtral", "olmoe", "qwen2-moe", "gpt-oss", "llama4", "deepseek-v3")
_MADE = {}


def made(name):
    if name not in _MADE:
        _MADE[name] = twins(name)
    return _MADE[name]


def by_hand(name, mlp, x):
    """Each expert's contribution to one row, from formulas of the family, expert by expert."""
    router = mlp.router if hasattr(mlp, "router") else mlp.gate
    raw = x @ router.weight.T + (router.bias if getattr(router, "bias", None) is not None else 0)
    k = 1 if name == "llama4" else 2
    weights = {}
    if name == "llama4":
        weights = {int(e): float(torch.sigmoid(raw[e])) for e in raw.topk(k).indices}
    elif name == "gpt-oss":
        top = raw.topk(k)
        shares = torch.softmax(top.values, 0)
        weights = {int(e): float(w) for e, w in zip(top.indices, shares, strict=True)}
    elif name == "deepseek-v3":
        scores = torch.sigmoid(raw)
        chosen = (scores + router.e_score_correction_bias).topk(k).indices
        whole = scores[chosen].sum()
        scale = router.routed_scaling_factor
        weights = {int(e): float(scores[e] / whole * scale) for e in chosen}
    else:
        probs = torch.softmax(raw, 0)
        top = probs.topk(k)
        whole = top.values.sum() if name == "mixtral" or router.norm_topk_prob else 1.0
        weights = {int(e): float(w / whole) for e, w in zip(top.indices, top.values, strict=True)}
    found = {}
    for e, w in weights.items():
        read = w * x if name == "llama4" else x
        W, out = mlp.experts.gate_up_proj[e], mlp.experts.down_proj[e]
        if name == "gpt-oss":
            both = read @ W + mlp.experts.gate_up_proj_bias[e]
            gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
            hidden = (up + 1) * gate * torch.sigmoid(1.702 * gate)
            found[e] = w * (hidden @ out + mlp.experts.down_proj_bias[e])
        elif name == "llama4":
            gate, up = (read @ W).chunk(2)
            found[e] = (F.silu(gate) * up) @ out
        else:
            gate, up = (W @ read).chunk(2)
            found[e] = w * (out @ (F.silu(gate) * up))
    for attribute in ("shared_expert", "shared_experts"):
        shared = getattr(mlp, attribute, None)
        if shared is not None:
            hidden = F.silu(x @ shared.gate_proj.weight.T) * (x @ shared.up_proj.weight.T)
            gate = getattr(mlp, f"{attribute}_gate", None)
            amount = 1.0 if gate is None else torch.sigmoid(x @ gate.weight[0])
            found[-1] = amount * (hidden @ shared.down_proj.weight.T)
    return found, weights


@pytest.mark.parametrize("name", NAMES)
def test_experts_are_those_of_loops_over_the_model_s_own_weights(name):
    model, hf = made(name)
    view = ModelView(model)
    t = Trace.run(view, view.tokens.encode(IDS, None)).layers[1]
    mlp = mlp_of(hf, 1)
    read, out = seen(hf, mlp, IDS)
    with torch.no_grad():
        expected, weights = by_hand(name, mlp, read[-1])
    experts = components.stream_experts(view, 1, t)
    assert set(experts.indices) == set(expected)
    for place, e in enumerate(experts.indices):
        torch.testing.assert_close(experts.outputs[place], expected[e], atol=2e-6, rtol=1e-5)
        if e in weights:
            assert float(experts.weights[place]) == pytest.approx(weights[e], rel=1e-5)
    torch.testing.assert_close(sum(expected.values()), out[-1], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(t.mlp_out, out[-1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_is_exact_and_patched_by_rows(name):
    found = vt.check(made(name)[0])
    assert found.verdict == "exact" and found.max_error < 1e-6
    assert found.patching.startswith("rows")
    assert "4 experts" in found.mlp


@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss"])
def test_neurons_inside_chosen_experts_sum_to_them_and_are_pruned_together(name):
    model, _ = made(name)
    graph = vt.flow_graph(model, IDS, neurons=(3, 2))
    for layer in graph.layers:
        kept = [n for n in graph.of_kind("neuron") if n.layer == layer]
        experts = [n for n in graph.of_kind("expert") if n.layer == layer]
        assert len(kept) == 5 and all(n.id.expert is not None for n in kept)
        assert {n.id.expert for n in kept} <= {n.id.expert for n in experts}
        assert graph.hidden[layer].neurons > 0
    whole = vt.flow_graph(model, IDS, neurons=(1000, 1000))
    assert all(hidden.neurons == 0 for hidden in whole.hidden.values())
    view = ModelView(model)
    t = Trace.run(view, view.tokens.encode(IDS, None)).layers[0]
    for place, e in enumerate(t.experts.indices):
        own = [n for n in whole.of_kind("neuron") if n.layer == 0 and n.id.expert == e]
        total = t.experts.b_out[place]
        total = torch.zeros(view.d_model) if total is None else total.clone()
        for node in own:
            total += node.coefficient * t.experts.W_out[place][node.id.neuron]
        torch.testing.assert_close(total, t.experts.outputs[place], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "llama4"])
@pytest.mark.parametrize("how", ["zero", "resample"])
def test_the_effect_of_an_expert_is_that_of_its_contribution_replaced_in_the_model(name, how):
    model, hf = made(name)
    graph = vt.flow_graph(model, IDS)
    nodes = [n.id for n in graph.of_kind("expert") if n.layer == 0]
    options = {"corrupted": OTHER} if how == "resample" else {"how": "zero"}
    found = vt.causal.effects(
        model, IDS, lambda x: x[0, -1, 5], nodes=nodes, verbose=False, **options
    )
    mlp = mlp_of(hf, 0)
    clean = logits(hf, IDS)[5]
    with torch.no_grad():
        own, _ = by_hand(name, mlp, seen(hf, mlp, IDS)[0][-1])
        other, _ = by_hand(name, mlp, seen(hf, mlp, OTHER)[0][-1])
    for node in nodes:
        new = other.get(node.expert, torch.zeros(16)) if how == "resample" else torch.zeros(16)

        def replace(out, delta=new - own[node.expert]):
            out.view(-1, 16)[-1] += delta

        with changed(mlp, replace):
            expected = logits(hf, IDS)[5] - clean
        assert found[node].value == pytest.approx(float(expected), abs=1e-5)


def test_the_effect_of_a_neuron_inside_an_expert():
    model, hf = made("mixtral")
    graph = vt.flow_graph(model, IDS, neurons=(2, 1))
    node = next(n for n in graph.of_kind("neuron") if n.layer == 0)
    found = vt.causal.effects(
        model, IDS, lambda x: x[0, -1, 5], nodes=[node.id], how="zero", verbose=False
    )
    mlp = mlp_of(hf, 0)
    row = mlp.experts.down_proj[node.id.expert][:, node.id.neuron]

    def remove(out):
        out[0, -1] -= node.coefficient * row

    with torch.no_grad(), changed(mlp, remove):
        expected = logits(hf, IDS)[5]
    assert found[node.id].value == pytest.approx(float(expected - logits(hf, IDS)[5]), abs=1e-5)
    screened = vt.causal.effects(
        model, IDS, lambda x: x[0, -1, 5], nodes=graph, how="zero", screen="attribution", top=3,
        verbose=False,
    )  # fmt: skip
    assert "L0.router" in {str(n) for n in screened.left_out}


def test_attribution_of_experts_sums_to_the_mlp_and_to_the_logit():
    model, _ = made("qwen2-moe")
    graph = vt.flow_graph(model, IDS)
    found = vt.causal.attribute(model, graph)
    for layer in range(2):
        experts = [n.id for n in graph.of_kind("expert") if n.layer == layer]
        whole = found[NodeId("mlp_out", layer)]
        assert sum(found[e] for e in experts) == pytest.approx(whole, abs=1e-5)
        own = found.to_dataframe("neuron").query(f"layer == {layer}")["attribution"]
        assert own.sum() == pytest.approx(whole, abs=1e-5)
    assert found.onto(graph)["L0ES0"].attribution == found["L0ES0"]
    assert found.error < 1e-5


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_attention_of_a_mixture_is_measured_as_in_any_model(name):
    model, _ = made(name)
    metric = vt.causal.logit_difference(5, 7)
    edges = vt.causal.edge_effects(
        model, IDS, metric, corrupted=OTHER, senders=["L0H1"], verbose=False
    )
    assert len(edges.edges) > 3 and np.isfinite(edges.values).all()
    maps = vt.reversed_attention(model, IDS, 5)
    assert np.abs(maps.maps()[0].sum(-1)).max() < 1e-5 or name == "gpt-oss"
    lens = vt.backward_lens(model, IDS, 5, check="all")
    assert lens.matrices.keys() == {"W_Q", "W_K", "W_V", "W_O"}
    with pytest.raises(ModelError, match="mixture of experts"):
        vt.backward_lens(model, IDS, 5, matrices=["W_in"])


@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_obeys_segments(name):
    # Its own, so that the way is found with this prompt: which experts other tokens choose moves
    # the last bits of every row.
    model, _ = twins(name)
    graph = vt.flow_graph(model, IDS[:6], segments=[(0, 3), (3, 6)])
    assert max(graph.residual_error.values()) < 1e-5
    assert graph.segments == ((0, 3), (3, 6))


def test_sinks_take_attention_that_goes_to_no_token():
    model, hf = made("gpt-oss")
    graph = vt.flow_graph(model, IDS)
    rows = [sum(n.attention) for n in graph.of_kind("head")]
    assert max(rows) < 0.999
    found = vt.check(model)
    assert "goes to no token" in found.sinks and "sum to less than 1" in str(found)
    assert not vt.check(made("mixtral")[0]).sinks
    assert max(graph.residual_error.values()) < 1e-5


def test_what_the_callers_own_hook_raises_is_passed_on():
    model, _ = twins(
        "mixtral"
    )  # of its own: the run in which its blocks are looked at is the first

    def fail(tensor, hook):
        raise RuntimeError("the caller's own hook failed")

    model.hook_dict["blocks.1.hook_out"].add_hook(fail)
    with pytest.raises(RuntimeError, match="own hook failed"):
        vt.flow_graph(model, IDS)
    model.reset_hooks()
    assert vt.flow_graph(model, IDS) == vt.flow_graph(made("mixtral")[0], IDS)


def test_a_patched_router_is_read_as_it_was_patched():
    model, _ = made("mixtral")

    def other_expert(weights, hook):
        return weights.roll(1, -1)

    graph = vt.flow_graph(
        model, IDS, fwd_hooks=[("blocks.0.mlp.gate.hook_expert_weights", other_expert)]
    )
    plain = vt.flow_graph(model, IDS)
    chosen = {n.id.expert for n in graph.of_kind("expert") if n.layer == 0}
    before = {n.id.expert for n in plain.of_kind("expert") if n.layer == 0}
    assert chosen == {(e + 1) % 4 for e in before}
    assert max(graph.residual_error.values()) < 1e-5


@pytest.mark.parametrize("how", ["zero", 0.5, "look away", "look only"])
def test_a_memory_value_of_latent_attention_is_refused_by_name(how):
    model, _ = made("deepseek-v3")
    with pytest.raises(InputError, match=r"L0H1.v1 cannot be changed: the latent attention of b"):
        vt.causal.change_hooks(model, IDS, [("L0H1.v1", how)])


# The values of latent attention are wider than d_head, so that z is shown in two rows a head.
@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3"])
def test_experts_are_read_from_a_cache(name):
    model, _ = made(name)
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    graph, cached = vt.flow_graph(model, IDS), vt.flow_graph(model, IDS, cache=cache)
    assert [str(n.id) for n in graph.nodes] == [str(n.id) for n in cached.nodes]


@pytest.mark.parametrize("ending", ["json", "html", "svg", "dot", "graphml", "csv"])
def test_a_graph_with_experts_is_saved(ending, tmp_path):
    graph = vt.flow_graph(made("qwen2-moe")[0], IDS)
    path = tmp_path / f"graph.{ending}"
    graph.save(path)
    if ending == "json":
        assert vt.FlowGraph.load(path) == graph
    if ending in ("html", "dot", "graphml", "csv"):
        assert "expert" in path.read_text()


def test_experts_that_no_known_way_reproduces_are_one_closed_mlp(monkeypatch):
    monkeypatch.setattr("visit_tl.model.experts.layouts", lambda raw, n: iter(()))
    model, _ = twins("mixtral")
    assert [part.mlp for part in parts_of(model, "x")] == ["closed", "closed"]
    graph = vt.flow_graph(model, IDS)
    assert not graph.of_kind("expert", "neuron", "router")
    assert "could not be read" in graph["L0.mlp_out"].unopened
    assert "MixtralSparseMoeBlock" in vt.check(model).verdict
    assert "not opened" in text(graph)
    assert graph["L1.mlp_out"].id in {e.target for e in graph.edges_out_of("L1.mlp_in")}


def test_experts_that_are_not_there_are_named():
    model, _ = made("mixtral")
    for node, words in (("L0E9", "4 experts"), ("L0ES0", "0 shared"), ("L0E1N99", "outside 0..39")):
        with pytest.raises(InputError, match=words):
            vt.causal.effects(
                model, IDS, lambda x: x[0, -1, 5], nodes=[node], how="zero", verbose=False
            )
    with (
        pytest.raises(ModelError, match="mixture of experts"),
        vt.gradients.shift(model, IDS, 5, layer=0),
    ):
        pass


@given(
    layer=st.integers(0, 99), expert=st.integers(-9, 999), neuron=st.integers(0, 9999),
    kind=st.sampled_from(["expert", "neuron", "neuron_key", "b_out"]),
    position=st.none() | st.integers(0, 99),
)  # fmt: skip
def test_ids_of_experts_are_read_as_they_are_printed(layer, expert, neuron, kind, position):
    node = NodeId(
        kind, layer, neuron=neuron if "neuron" in kind else None, position=position, expert=expert
    )
    assert NodeId.parse(str(node)) == node


def test_ids_of_experts_by_hand():
    assert str(NodeId("expert", 9, expert=3)) == "L9E3"
    assert str(NodeId("neuron", 9, neuron=120, expert=-1)) == "L9ES0N120"
    assert str(NodeId("neuron_key", 9, neuron=120, expert=3)) == "L9E3N120.k"
    for wrong in ({"kind": "expert", "layer": 1}, {"kind": "head", "layer": 1, "expert": 0}):
        with pytest.raises(GraphError):
            NodeId(**wrong)
