"""Features as nodes: what they are, that they sum to their site, and what is refused."""

import functools
from dataclasses import replace

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT, READABLE
from tests.features.tiny_modules import module, named_hooks, several
from visit_tl.graph.ids import FEATURE_SITES, NodeId
from visit_tl.lens import readout as lens
from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative
from visit_tl.xray.feature_sites import FeatureSites

# Largest relative error over every architecture and site, and the models of `model`: 1.9e-6 of the
# whole. These random SAEs miss several times the whole, which has to cancel.
MEASURED = 5e-6


@functools.cache
def opened(name):
    return ModelView(ARCHITECTURES[name].bridge())


@pytest.fixture
def native_view(native):
    return ModelView(native)


def the_same_by_loops(view, site, trace):
    """The parts of a site, feature by feature, in the stream: loops over heads and features."""
    t = trace.layers[site.layer]
    w = components.stream_weights(view, site.layer, t)
    run = site.module.apply(site.read(trace)[None])

    def stream(vector):
        if site.site != "z":
            return vector
        heads = vector.reshape(view.n_heads, view.d_head)
        return sum(heads[h] @ w.W_O[h] for h in range(view.n_heads))

    total = torch.zeros(view.model.cfg.d_model)
    for f in range(site.module.n_features):
        total = total + run.features[0, f] * stream(site.module.W_dec[f] * run.scale[0, 0])
    rest = run.offset[0] + (0 if run.skip is None else run.skip[0])
    whole = getattr(t, site.site).flatten()
    error = whole - run.reconstruction[0]
    return total + stream(rest) + stream(error), stream(whole), run


def check_laws(view, modules):
    """Graph, split and loops agree at every site of a model."""
    graph = vt.flow_graph(view.model, PROMPT, saes=modules, features=1000)
    sites = FeatureSites(view, modules)
    prompt = view.encode(PROMPT, None)
    trace = Trace.run(view, prompt, extra=sites.hooks)
    assert len(graph.feature_sets) == len(modules)
    for site in sites.by_place.values():
        t = trace.layers[site.layer]
        w = components.stream_weights(view, site.layer, t)
        split = site.split(trace, w)
        parts = split.activations[split.active] @ split.rows + split.offset + split.error
        ours, whole, run = the_same_by_loops(view, site, trace)
        assert relative(parts, split.whole) < MEASURED
        assert relative(ours, whole) < MEASURED and relative(split.whole, whole) < MEASURED
        shown = {n.id.neuron: n for n in graph.of_kind("feature") if n.id.site == site.site
                 and n.layer == site.layer}  # fmt: skip
        assert sorted(shown) == run.features[0].nonzero()[:, 0].tolist()
        for i, row in zip(split.active.tolist(), split.rows, strict=True):
            assert shown[i].coefficient == pytest.approx(float(run.features[0, i]), abs=1e-6)
            assert shown[i].norm == pytest.approx(float(row.norm()), rel=1e-5)
        own = next(s for s in graph.feature_sets if (s.layer, s.site) == (site.layer, site.site))
        error = (getattr(t, site.site).flatten() - run.reconstruction[0]).norm()
        size = getattr(t, site.site).norm()
        assert own.error_share == pytest.approx(float(error / size), rel=1e-4)
        assert own.explained == pytest.approx(1 - float(error / size) ** 2, rel=1e-3)
        assert own.active == len(shown)
    assert max(graph.residual_error.values()) < MEASURED
    return graph


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
@pytest.mark.parametrize("name", READABLE)
def test_features_bias_and_error_sum_to_their_site_on_every_architecture(name):
    view = opened(name)
    graph = check_laws(view, several(view))
    # What z is decoded to is what the block adds: the parts, and b_O, sum to attn_out.
    into = [e for e in graph.edges_into("L1.attn_out") if e.source.site == "z"]
    assert {e.source.kind for e in into} == {"feature", "feature_error", "feature_bias"}


def test_laws_hold_raw_and_folded_and_in_both_classes(model):
    view = ModelView(model)
    check_laws(view, several(view, 0, ("z", "mlp_out", "resid_pre", "resid_post")))


def test_a_skip_connection_is_part_of_the_bias(native_view):
    graph = check_laws(native_view, [module(native_view, "skip")])
    bias = graph["L1.mlp_out.b_dec"]
    assert bias.hook is None and bias.norm > 0


def test_a_feature_is_read_by_the_lens_as_its_row_of_the_decoder(native_view):
    sae = module(native_view, "resid_post")
    graph = vt.flow_graph(native_view.model, PROMPT, saes=sae, features=4)
    for node in graph.of_kind("feature"):
        row = sae.W_dec[node.id.neuron][None]
        read = lens.read(native_view, row, [graph.target_id], k=5)
        assert [r.id for r in node.top] == read.top_ids[0].tolist()
        assert node.rank == int(read.target_ranks[0, 0])
    assert len(graph.of_kind("feature")) == 4
    assert graph.hidden[1].features == graph.feature_sets[0].active - 4


def test_the_largest_features_stay_by_activation_times_norm(native_view):
    sae = module(native_view, "attn_out", activation=None)
    every = vt.flow_graph(native_view.model, PROMPT, saes=sae, features=1000)
    few = vt.flow_graph(native_view.model, PROMPT, saes=sae, features=3)
    adds = every.features()["adds"].filter(like="L1.attn_out.F").sort_values(ascending=False)
    assert sorted(adds.index[:3]) == sorted(str(n.id) for n in few.of_kind("feature"))
    none = vt.flow_graph(native_view.model, PROMPT, saes=sae, features=0)
    assert not none.of_kind("feature") and len(none.of_kind("feature_error")) == 1


def test_a_subtracted_feature_promotes_its_bottom_tokens(native_view):
    from visit_tl.features.encoders import TopK

    sae = module(native_view, "resid_post", activation=TopK(8, "magnitude", relu=False))
    graph = vt.flow_graph(native_view.model, PROMPT, saes=sae)
    below = [n for n in graph.of_kind("feature") if n.coefficient < 0]
    assert below and all(n.negative and n.promoted == n.bottom for n in below)


def test_without_saes_a_graph_is_as_it_was(native, tmp_path):
    plain = vt.flow_graph(native, PROMPT)
    beside = vt.flow_graph(native, PROMPT, saes=module(ModelView(native), "z"))
    assert set(plain.nodes) <= set(beside.nodes) and set(plain.edges) <= set(beside.edges)
    json = plain.save(tmp_path / "a.json").read_text()
    page = plain.save(tmp_path / "a.html").read_text()
    for word in ("feature", "site", "explanation", "FEATURES"):
        assert word not in json
    assert "FEATURES" not in page and "feature_error" not in page
    assert "features" not in plain.pruning and "active features" not in plain.text()


def test_decoder_rows_are_not_taken_for_rows_of_weights(native):
    first, second = (module(ModelView(native), "resid_post", seed=s) for s in (0, 7))
    one = vt.flow_graph(native, PROMPT, saes=first, features=1000)
    other = vt.flow_graph(native, PROMPT, saes=second, features=1000)
    both = {n.id for n in one.of_kind("feature")} & {n.id for n in other.of_kind("feature")}
    assert both and all(one[i].top != other[i].top or one[i].norm != other[i].norm for i in both)
    again = vt.flow_graph(native, PROMPT, saes=first, features=1000)
    assert again == one


def test_graphs_of_several_prompts_and_steps_have_features(native):
    view = ModelView(native)
    saes = [module(view, "z"), module(view, "transcoder", 0)]
    graphs = vt.flow_graphs(native, [PROMPT, "a b c"], saes=saes, verbose=False)
    assert graphs == list(vt.iter_flow_graphs(native, [PROMPT, "a b c"], saes=saes, verbose=False))
    assert graphs[0] == vt.flow_graph(native, PROMPT, saes=saes)
    steps = vt.generate(native, PROMPT, 2, saes=saes, verbose=False)
    assert all(len(g.feature_sets) == 2 for g in steps)


def test_a_cache_gives_the_same_features_as_a_run(native):
    view = ModelView(native)
    saes = [module(view, "z"), module(view, "resid_pre", 0)]
    _, cache = native.run_with_cache(native.to_tokens(PROMPT))
    graph = vt.flow_graph(native, PROMPT, cache=cache, saes=saes)
    for node in vt.flow_graph(native, PROMPT, saes=saes).of_kind("feature"):
        assert graph[node.id].coefficient == pytest.approx(node.coefficient, abs=1e-6)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="a bridge has these hooks")
@pytest.mark.parametrize("inner", ["ln2.hook_normalized", "hook_mlp_in", "mlp.hook_in"])
def test_a_transcoder_reads_the_hook_that_it_names(native, inner):
    view = ModelView(native)
    name = f"blocks.1.{inner}"
    transcoder = replace(module(view, "transcoder"), hook=name)
    graph = vt.flow_graph(native, PROMPT, saes=transcoder, features=1000)
    # TransformerLens splits hook_mlp_in off before ln2; bridges have only a hook after it.
    state = "hook_resid_mid" if inner == "hook_mlp_in" else inner
    x = named_hooks(view, native.to_tokens(PROMPT), [f"blocks.1.{state}"])[f"blocks.1.{state}"][-1]
    wanted = transcoder.encode(x)
    shown = {n.id.neuron: n.coefficient for n in graph.of_kind("feature")}
    assert shown == {
        i: pytest.approx(float(wanted[i]), rel=1e-4) for i in wanted.nonzero()[:, 0].tolist()
    }
    source = graph.edges_into(graph.of_kind("feature")[0].id)[0].source
    assert str(source) == ("L1.resid_mid" if inner == "hook_mlp_in" else "L1.mlp_in")


def test_edges_run_from_the_site_through_its_parts_to_the_next_state(native):
    view = ModelView(native)
    ends = {
        "z": ("L1.z", "L1.attn_out"),
        "attn_out": ("L1.attn_out", "L1.resid_mid"),
        "resid_mid": ("L1.resid_mid", "L1.resid_post"),
        "mlp_out": ("L1.mlp_out", "L1.resid_post"),
        "resid_pre": ("L1.resid_pre", "L1.resid_mid"),
        "resid_post": ("L1.resid_post", "final_norm"),
        "transcoder": ("L1.mlp_in", "L1.mlp_out"),
    }
    for site, (source, target) in ends.items():
        graph = vt.flow_graph(native, PROMPT, saes=module(view, site))
        for node in graph.of_kind("feature"):
            (into,), (out,) = graph.edges_into(node.id), graph.edges_out_of(node.id)
            assert (str(into.source), into.kind) == (source, "coefficient")
            assert into.score == node.coefficient
            assert (str(out.target), out.kind) == (target, "sum")
            assert out.score == pytest.approx(abs(node.coefficient) * node.norm, rel=1e-5)
        (error,) = graph.of_kind("feature_error")
        assert [str(e.target) for e in graph.edges_out_of(error.id)] == [target]
    # Between two blocks, and at the end of a graph that stops before the model's last block.
    first = module(view, "resid_post", 0)
    graph = vt.flow_graph(native, PROMPT, saes=first)
    assert {str(e.target) for n in graph.of_kind("feature") for e in graph.edges_out_of(n.id)} == {
        "L1.resid_pre"
    }
    graph = vt.flow_graph(native, PROMPT, saes=first, layers=0)
    assert all(not graph.edges_out_of(n.id) for n in graph.of_kind("feature"))


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_features_of_a_vector_that_was_set_to_zero_cancel_with_the_error(native, site):
    sae = module(ModelView(native), site)
    zero = [(sae.hook, lambda tensor, hook: tensor * 0)]
    graph = vt.flow_graph(native, PROMPT, saes=sae, layers="all", fwd_hooks=zero, features=24)
    parts = {n.kind: n.norm for n in graph.of_kind("feature_error", site)}
    assert parts[site] == 0 and parts["feature_error"] > 0.1
    assert max(graph.residual_error.values()) < MEASURED


@pytest.mark.parametrize(
    "text", ["L9.z.F123", "L0.mlp_out.error", "L3.resid_post.b_dec", "L1.z.F0@4"]
)
def test_ids_of_features_are_read_as_they_are_printed(text):
    node = NodeId.parse(text)
    assert str(node) == text and node.site in FEATURE_SITES
    assert NodeId.parse(str(node.at(None))).at(node.position) == node


@pytest.mark.parametrize(
    "text", ["L9.attn_in.F1", "L9.z.F", "L9.z.F-1", "L9.z.F1.k", "L9.F1", "L9.z.Error", "z.F1"]
)
def test_other_texts_are_no_features(text):
    with pytest.raises(vt.GraphError, match="no node id"):
        NodeId.parse(text)


def test_a_feature_needs_a_site_and_nothing_else_has_one():
    with pytest.raises(vt.GraphError, match="has the site None"):
        NodeId("feature", 1, neuron=2)
    with pytest.raises(vt.GraphError, match="other nodes have None"):
        NodeId("neuron", 1, neuron=2, site="z")
    with pytest.raises(vt.GraphError, match="needs neuron"):
        NodeId("feature", 1, site="z")


def test_what_does_not_fit_the_model_is_refused_by_name(native):
    view = ModelView(native)
    sae = module(view, "resid_post")

    def refused(match, saes, **options):
        with pytest.raises(vt.InputError, match=match):
            vt.flow_graph(native, PROMPT, saes=saes, **options)

    refused("tiny-resid_post is in block 1, outside the graph's layers 0..0", sae, layers=0)
    refused("tiny-resid_post and other both reconstruct", [sae, replace(sae, name="other")])
    refused("blocks are 0..1|does not have", replace(sae, hook="blocks.7.hook_resid_post",
            hook_out="blocks.7.hook_resid_post", layer=7))  # fmt: skip
    refused("'hook_embed', which is in no block; a graph shows features of hooks in blocks",
            replace(sae, hook="hook_embed", hook_out="hook_embed", layer=0))  # fmt: skip
    refused("does not fit native.*12 numbers", replace(sae, d_in=12))
    refused("another block", replace(sae, hook="blocks.0.hook_resid_post", layer=0))
    refused("a graph shows features of", replace(
        sae, hook="blocks.1.mlp.hook_in", hook_out="blocks.1.mlp.hook_in"))  # fmt: skip
    refused("saes is an empty list", [])
    refused("labels name the features of SAEs", None, labels={"1": "a"})
    with pytest.raises(vt.InputError):
        vt.flow_graph(native, PROMPT, saes=3)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
def test_a_parallel_block_has_no_resid_mid_to_reconstruct():
    view = opened("gptj")
    with pytest.raises(vt.InputError, match="no hook blocks.1.hook_resid_mid|parallel"):
        vt.flow_graph(view.model, PROMPT, saes=module(view, "resid_mid"))
