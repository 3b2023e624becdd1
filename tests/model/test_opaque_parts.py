"""Parts that are neither attention nor MLP: one node each, against Hugging Face's own modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.features.tiny_modules import module
from tests.mixtures import changed, layers_of, logits, seen, twins
from visit_tl.errors import ModelError
from visit_tl.graph.circuit_edges import Shape
from visit_tl.graph.circuit_parts import Part
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.view.text import text
from visit_tl.xray.feature_sites import FeatureSites

pytestmark = pytest.mark.skipif(
    tiny.RELEASE < (4, 3), reason="TransformerLens 4.3 is the first that opens all of these"
)

SLOW = pytest.mark.filterwarnings("ignore::visit_tl.errors.PerformanceWarning")

IDS = [0, 3, 5, 2, 9, 4, 12, 7]
OTHER = [0, 3, 6, 2, 9, 1, 12, 7]
# By model: the part of its first block that is not opened, as Hugging Face calls it.
PARTS = {"lfm2": "conv", "jamba": "mamba", "falcon-h1": "mamba", "mamba": "mixer"}
_MADE = {}


def made(name):
    if name not in _MADE:
        _MADE[name] = twins(name)
    return _MADE[name]


def part_of(name):
    return getattr(layers_of(made(name)[1])[0], PARTS[name])


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_not_opened_is_one_node_of_what_its_module_puts_out(name):
    model, hf = made(name)
    graph = vt.flow_graph(model, IDS)
    view = ModelView(model)
    t = Trace.run(view, view.tokens.encode(IDS, None)).layers[0]
    _, out = seen(hf, part_of(name), IDS)
    torch.testing.assert_close(t.opaque, out[-1], atol=1e-6, rtol=1e-5)
    node = graph["L0.opaque"]
    assert node.norm == pytest.approx(float(out[-1].norm()), rel=1e-4)
    assert node.hook.name.endswith(".hook_out") and "(" in node.unopened
    after = t.resid_post if t.resid_mid is None else t.resid_mid
    torch.testing.assert_close(t.resid_pre + t.attn_out + t.opaque, after, atol=1e-5, rtol=1e-4)
    assert max(graph.residual_error.values()) < 1e-5
    with torch.no_grad():
        own = hf(torch.tensor([IDS])).logits[0, -1].softmax(-1)
    assert graph["logits"].top[0].prob == pytest.approx(float(own.max()), abs=1e-5)


@SLOW
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("position", [3, 7])
def test_its_effect_is_that_of_its_output_replaced_in_the_model(name, position):
    model, hf = made(name)
    found = vt.causal.effects(
        model, IDS, lambda x: x[0, -1, 5], nodes=["L0.opaque"], how="zero", positions=position,
        verbose=False,
    )  # fmt: skip

    def remove(out):
        out[0, position] = 0

    with changed(part_of(name), remove):
        expected = logits(hf, IDS)[5]
    expected = float(expected - logits(hf, IDS)[5])
    assert found["L0.opaque"].value == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-6


def test_blocks_around_it_are_drawn_in_full():
    graph = vt.flow_graph(made("lfm2")[0], IDS)
    kinds = [{n.kind for n in graph if n.layer == layer} for layer in (0, 1)]
    assert {"opaque", "neuron", "mlp_out"} <= kinds[0] and "head" not in kinds[0]
    assert {"head", "key", "value", "neuron"} <= kinds[1] and "opaque" not in kinds[1]
    beside = vt.flow_graph(made("falcon-h1")[0], IDS)
    assert {"opaque", "head"} <= {n.kind for n in beside if n.layer == 0}
    assert vt.flow_graph(made("lfm2")[0], IDS, expand=2).columns


def test_a_model_without_attention_has_states_writers_and_a_table_of_states():
    model, _ = made("mamba")
    graph = vt.flow_graph(model, IDS)
    assert {n.kind for n in graph} == {
        "resid_pre", "opaque", "resid_post", "final_norm", "logits",
    }  # fmt: skip
    assert len(vt.lens_table(model, IDS).to_dataframe()) > 0
    assert vt.causal.attribute(model, graph).error < 1e-5


@SLOW
def test_what_only_the_states_around_it_show_is_known_by_difference():
    model, _ = made("rwkv")
    graph = vt.flow_graph(model, IDS)
    node = graph["L0.opaque"]
    assert node.hook is None and "difference" in node.unopened
    assert graph["L0.mlp_out"].unopened.startswith("channel_mix")
    found = vt.causal.effects(
        model, IDS, lambda x: x[0, -1, 5], nodes=["L0.opaque", "L1.opaque"], how="zero",
        verbose=False,
    )  # fmt: skip
    assert "no hook holds" in next(iter(found.left_out.values())) and len(found.ids) == 1


def test_views_tables_and_check_say_what_was_not_opened(tmp_path):
    model, _ = made("lfm2")
    graph = vt.flow_graph(model, IDS)
    words = "conv (Lfm2ShortConv) in block 0"
    assert words in text(graph)
    assert graph.to_dataframe().loc["L0.opaque", "unopened"] == "conv (Lfm2ShortConv)"
    graph.save(tmp_path / "graph.html")
    page = (tmp_path / "graph.html").read_text()
    assert words in page and "not opened" in page
    graph.save(tmp_path / "graph.json")
    assert vt.FlowGraph.load(tmp_path / "graph.json") == graph
    found = vt.check(model)
    assert found.exact and words in found.verdict and "in 1 of 2 blocks" in found.attention
    assert found.patching.startswith("blocks")


def test_attribution_has_a_share_for_it():
    model, _ = made("jamba")
    graph = vt.flow_graph(model, IDS)
    found = vt.causal.attribute(model, graph)
    frame = found.to_dataframe()
    assert found["L0.opaque"] == pytest.approx(
        float(frame.set_index("node").loc["L0.opaque", "attribution"])
    )
    assert frame["attribution"].sum() == pytest.approx(found.total, abs=1e-4)
    assert torch.isnan(found.heads()[0]).all() and not torch.isnan(found.heads()[1]).any()


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_studies_of_heads_say_which_blocks_have_none(name, tmp_path):
    run = vt.sweep(made(name)[0], [IDS], ["head_effects"], tmp_path / "run", verbose=False)
    (error,) = run.table("errors")["error"]
    assert error.startswith("ablating every head needs attention in every block, but blocks.0")


@pytest.mark.parametrize("name", [*PARTS, "rwkv"])
def test_a_state_that_a_change_cancels_is_drawn(name):
    model, _ = made(name)
    for node in ("L0.resid_pre", "L1.resid_mid", "L0.resid_post", "L1.resid_post"):
        if node not in [str(n.id) for n in vt.flow_graph(model, IDS)]:
            continue
        hooks = vt.causal.change_hooks(model, IDS, [(node, "zero")])
        graph = vt.flow_graph(model, IDS, fwd_hooks=hooks)
        assert graph[node].norm < 1e-6
        assert max(graph.residual_error.values()) < 1e-5


@pytest.mark.parametrize("name", ["jamba", "lfm2"])
def test_heads_are_counted_in_a_block_that_has_some(name):
    model, _ = made(name)
    graph = vt.flow_graph(model, IDS)
    names = {"own": (Part("head", 1, 0), Part("head", 1, 3))}
    own = vt.circuits.Reference("own", "own", "heads", graph.model, Shape(2, 4), names)
    assert 0 <= vt.circuits.compare(graph, own).auroc <= 1
    other = replace(own, shape=Shape(3, 4))
    with pytest.raises(vt.InputError, match="of 2 layers x 4 heads"):
        vt.circuits.compare(graph, other)


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_what_needs_attention_everywhere_says_which_blocks_have_none(name):
    model, _ = made(name)
    metric = vt.causal.logit_difference(5, 7)
    calls = [
        lambda: vt.causal.edge_effects(model, IDS, metric, corrupted=OTHER, verbose=False),
        lambda: vt.reversed_attention(model, IDS, 5),
        lambda: vt.attention(model, IDS, "L0H0"),
        lambda: vt.causal.attention_attribution(model, IDS, "L0H0", None, 1),
        lambda: vt.studies.roles(model, verbose=False),
        lambda: vt.flow_graph(model, IDS, segments=[(0, 3), (3, 8)]),
        lambda: vt.circuits.composition_scores(model),
    ]
    for call in calls:
        with pytest.raises(ModelError, match=r"blocks\.0"):
            call()


@SLOW
def test_a_feature_beside_it_is_patched_at_what_adds_to_its_site():
    model, _ = made("lfm2")
    sae = module(ModelView(model), "resid_mid", layer=0)
    graph = vt.flow_graph(model, IDS, saes=sae)
    node, metric = graph.of_kind("feature")[0], vt.causal.log_probability(graph.target_id)
    found = vt.causal.effects(
        model, IDS, metric, nodes=[node.id], saes=sae, how="zero", verbose=False
    )
    change = -node.coefficient * sae.W_dec[node.id.neuron]

    def add(tensor, hook):
        tensor[0, -1] += change
        return tensor

    tokens = torch.tensor([IDS])
    with torch.no_grad():
        hooks = [(graph["L0.opaque"].hook.name, add)]
        runs = model(tokens), model.run_with_hooks(tokens, fwd_hooks=hooks)
    before, after = (run[0, -1].log_softmax(-1)[graph.target_id] for run in runs)
    assert found[node.id].value == pytest.approx(float(after - before), abs=1e-6)
    assert abs(found[node.id].value) > 1e-3


def test_a_site_inside_of_it_is_refused_by_name():
    model, _ = made("lfm2")
    view = ModelView(model)
    closed = replace(view.parts[1], attention=False, opaque_words="attn (Attention): a gate")
    view.parts = (view.parts[0], closed)
    with pytest.raises(vt.InputError, match=r"z of block 1.*attn \(Attention\): a gate"):
        FeatureSites(view, [module(view, "z", layer=1)])
