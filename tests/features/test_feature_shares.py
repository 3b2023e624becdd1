"""Direct logit attribution of features: by loops, sums to the site, and what is refused by name."""

import functools
from dataclasses import replace

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT, READABLE
from tests.causal.test_attribution import reader_of
from tests.features import DATA, EVERY_MODULE
from tests.features.tiny_modules import SITES, module, several
from visit_tl.graph.ids import FEATURE_KINDS, NodeId
from visit_tl.model import components
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.feature_sites import FeatureSites

TARGET, OTHER = 3, 7
# Largest error over every architecture and site: 1e-6 of the largest part; the random SAEs miss
# several times the whole, which has to cancel.
MEASURED = 5e-6


@functools.cache
def opened(name):
    return ModelView(ARCHITECTURES[name].bridge())


def check_sums(view, modules, **options):
    """Every site's parts have the shares that loops give, and sum to that of the site."""
    found = vt.causal.attribute(view.model, PROMPT, TARGET, OTHER, saes=modules, **options)
    sites = FeatureSites(view, modules)
    trace = Trace.run(view, view.encode(PROMPT, None), extra=sites.hooks,
                      position=options.get("position", -1))  # fmt: skip
    scale = 1.0 if view.output_transform is None else _scale(view)
    read = reader_of(view, trace, TARGET, OTHER)
    assert len(found.features) == len(modules)
    for site in sites.by_place.values():
        t = trace.layers[site.layer]
        w = components.stream_weights(view, site.layer, t)
        run = site.module.apply(site.read(trace)[None])

        def stream(vector, site=site, w=w):
            if site.site != "z":
                return vector
            heads = vector.reshape(view.n_heads, view.d_head)
            return sum(heads[h] @ w.W_O[h] for h in range(view.n_heads))

        whole = getattr(t, site.site).flatten()
        rest = run.offset[0] + (0 if run.skip is None else run.skip[0])
        wanted = {
            NodeId("feature", site.layer, neuron=f, site=site.site): stream(
                run.features[0, f] * run.scale[0, 0] * site.module.W_dec[f]
            )
            for f in range(site.module.n_features)
        }
        wanted[NodeId("feature_bias", site.layer, site=site.site)] = stream(rest)
        wanted[NodeId("feature_error", site.layer, site=site.site)] = stream(
            whole - run.reconstruction[0]
        )
        shares = {node: scale * read(vector) for node, vector in wanted.items()}
        most = max(1.0, *map(abs, shares.values()))
        for node, share in shares.items():
            assert found[node] == pytest.approx(share, abs=MEASURED * most), node
        of_site = found[f"L{site.layer}.{site.site}"]
        assert sum(found[node] for node in shares) == pytest.approx(of_site, abs=MEASURED * most)
        assert of_site == pytest.approx(scale * read(stream(whole)), abs=MEASURED * most)
    return found


def _scale(view):
    from visit_tl.causal.attribution.logit_parts import split_transform

    return split_transform(view)[0]


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
@pytest.mark.parametrize("name", READABLE)
def test_features_error_and_bias_sum_to_their_site_on_every_architecture(name):
    view = opened(name)
    check_sums(view, several(view))
    check_sums(view, several(view, 0, ("z", "mlp_out", "resid_pre")), position=2)


@pytest.mark.parametrize("site", SITES)
def test_sums_hold_raw_and_folded_and_in_both_classes(model, site):
    view = ModelView(model)
    if site == "resid_mid" and view.parallel:
        pytest.skip("has no resid_mid")
    check_sums(view, [module(view, site, 0)])


@pytest.mark.parametrize("folder", EVERY_MODULE)
def test_every_architecture_of_sae_has_exact_shares(native, folder):
    view = ModelView(native)
    layer = {"layer": 1} if "circuit_tracer" in folder else {}
    check_sums(view, [vt.features.open(DATA / folder, model_name=view.name, **layer)])


def test_a_feature_of_the_last_state_moves_the_logits_by_its_share_under_a_frozen_norm(native):
    view = ModelView(native)
    sae = module(view, "resid_post")
    found = vt.causal.attribute(native, PROMPT, TARGET, saes=sae)
    (own,) = found.features
    node = own.ids("feature")[0]
    x = {}

    def take_off(tensor, hook):
        x["before"] = tensor[0, -1].clone()
        run = sae.apply(tensor[0, -1])
        off = run.features[node.neuron] * run.scale * sae.W_dec[node.neuron]
        tensor = tensor.clone()
        tensor[0, -1] -= off
        return tensor

    def old_scale(tensor, hook):
        centred = x["before"] - x["before"].mean()
        tensor = tensor.clone()
        tensor[0, -1] = (centred.pow(2).mean() + view.final_norm.eps).sqrt()
        return tensor

    tokens = native.to_tokens(PROMPT)
    with torch.no_grad():
        hooks = [(sae.hook, take_off), ("ln_final.hook_scale", old_scale)]
        changed = native.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1, TARGET]
        clean = native(tokens)[0, -1, TARGET]
    assert float(clean - changed) == pytest.approx(found[node], abs=1e-5)
    assert abs(found[node]) > 1e-3


def test_a_graph_gives_its_own_features_their_shares(native, tmp_path):
    view = ModelView(native)
    saes = [module(view, "z"), module(view, "transcoder", 0)]
    graph = vt.flow_graph(native, PROMPT, target=TARGET, saes=saes, features=1000)
    found = graph.attribution(against=OTHER)
    assert found.total == pytest.approx(
        vt.causal.attribute(native, PROMPT, TARGET, OTHER).total, abs=1e-6
    )
    shown = found.onto(graph)
    for site in ("z", "mlp_out"):
        parts = [n for n in shown.of_kind(*FEATURE_KINDS) if n.id.site == site]
        own = shown[f"L{parts[0].layer}.{site}"].attribution
        assert sum(n.attribution for n in parts) == pytest.approx(own, abs=1e-5)
    assert shown.features()["attribution"].notna().all()
    table = found.to_dataframe(*FEATURE_KINDS).set_index("node")["attribution"]
    assert table.to_dict() == {str(n.id): n.attribution for n in shown.of_kind(*FEATURE_KINDS)}
    parts = found.to_dataframe()
    assert parts["attribution"].sum() == pytest.approx(found.total, abs=1e-5)
    node = shown.of_kind("feature")[0]
    loaded = vt.FlowGraph.load(shown.save(tmp_path / "shown.json"))
    assert loaded[node.id].attribution == node.attribution
    # A graph that was loaded has no SAE at hand.
    loaded = vt.FlowGraph.load(graph.save(tmp_path / "g.json"))
    without = loaded.attribution(model=native)
    assert without.onto(loaded)[node.id].attribution is None
    with pytest.raises(vt.InputError, match=r"SAE at z of block 1, which is not at hand.*saes="):
        without[str(node.id) if node.id.site == "z" else "L1.z.F0"]
    again = loaded.attribution(model=native, saes=saes, against=OTHER)
    assert again.onto(loaded)[node.id].attribution == node.attribution


def test_shares_that_are_not_there_are_refused_by_name(native):
    view = ModelView(native)
    sae = module(view, "z")
    found = vt.causal.attribute(native, PROMPT, TARGET, saes=sae)
    (own,) = found.features
    off = next(i for i in range(24) if i not in own.active.tolist())
    assert found[f"L1.z.F{off}"] == 0.0
    assert found[f"L1.z.error@{found.position}"] == found["L1.z.error"]
    for node, match in (
        ("L1.z.F24", r"has the features 0\.\.23"),
        ("L1.z.F3@2", "adds nothing directly to the logits at position"),
        ("L0.z.F3", "SAE at z of block 0, which is not at hand"),
        ("L1.mlp_out.error", "SAE at mlp_out of block 1, which is not at hand"),
        ("L9.z.F3", "outside layers"),
    ):
        with pytest.raises(vt.InputError, match=match):
            found[node]
    of_queries = replace(sae, hook="blocks.1.attn.hook_q", hook_out="blocks.1.attn.hook_q")
    with pytest.raises(vt.InputError, match="reconstructs .*hook_q; a graph shows features of"):
        vt.causal.attribute(native, PROMPT, saes=of_queries)


def test_shares_of_another_sae_are_not_laid_onto_a_graph(native):
    view = ModelView(native)
    graph = vt.flow_graph(native, PROMPT, saes=module(view, "z"))
    other = replace(module(view, "z", n=12), name="narrow")
    with pytest.raises(
        vt.InputError,
        match=r"at z of block 1 are of tiny-z \(standard, 24 features\), these shares of narrow",
    ):
        graph.attribution(saes=other).onto(graph)
    # One with as many features has the same ids, and shares that are not those of the graph's.
    twin = replace(module(view, "z", seed=7), name="twin")
    with pytest.raises(vt.InputError, match=r"these shares of twin .* with other weights"):
        graph.attribution(saes=twin).onto(graph)
    with pytest.raises(vt.InputError, match="with other weights"):
        graph.attribution().onto(vt.flow_graph(native, PROMPT, saes=twin))
    again = module(view, "z")
    assert graph.attribution(saes=replace(again, name="moved")).onto(graph).nodes
    # One at another site is none of the graph's business.
    beside = graph.attribution(saes=module(view, "resid_post", n=12)).onto(graph)
    assert all(n.attribution is None for n in beside.of_kind("feature"))
