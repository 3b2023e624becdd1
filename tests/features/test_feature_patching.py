"""Patched features equal the model run with the module in the place of its hook, edited by hand."""

from dataclasses import replace

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT
from tests.features import DATA, EVERY_MODULE
from tests.features.tiny_modules import SITES, module, several
from visit_tl.model.view import ModelView

OTHER = "b a d c e cd ab"
# Largest difference from brute force over all sites, architectures and SAEs: 8e-7.
CLOSE = 5e-6


def metric(logits):
    return logits[0, -1, 3] - logits[0, -1, 7] + logits[0, -2, 5]


def brute_force(model, sae, node, positions, how, prompts=()):
    """The metric with a node replaced: encode, edit, decode, put the error back, in hooks."""
    runs = [values(model, sae, prompt) for prompt in prompts]
    caught = {}

    def catch(tensor, hook):
        caught["x"] = tensor.detach().clone()

    def edit(tensor, hook):
        tensor = tensor.clone()
        source = caught["x"] if sae.hook != sae.hook_out else tensor
        for p in positions:
            run = sae.apply(source[0, p].flatten())
            rest = run.offset if run.skip is None else run.offset + run.skip
            error = tensor[0, p].flatten() - run.reconstruction
            features = run.features.clone()
            new = [r[node.kind][p] for r in runs] or [torch.zeros(())]
            new = torch.stack(new).mean(0) if runs else None
            if node.kind == "feature":
                features[node.neuron] = 0 if new is None else new[node.neuron]
            elif node.kind == "feature_error":
                error = torch.zeros_like(error) if new is None else new
            else:
                rest = torch.zeros_like(rest) if new is None else new
            written = (features @ sae.W_dec) * run.scale + rest + error
            tensor[0, p] = written.reshape(tensor[0, p].shape)
        return tensor

    hooks = [(read_at(model, sae), catch)] if sae.hook != sae.hook_out else []
    # What a bridge calls hook_resid_mid is only what ln2 reads: the stream past it is not changed.
    out = sae.hook_out
    if out.endswith("hook_resid_mid"):
        return through_attn_out(model, sae, edit)
    with torch.no_grad():
        changed = model.run_with_hooks(model.to_tokens(PROMPT), fwd_hooks=[*hooks, (out, edit)])
    return float(metric(changed))


def through_attn_out(model, sae, edit):
    block = sae.hook_out.rpartition(".")[0]
    caught = {}

    def catch(tensor, hook):
        caught["pre"] = tensor.detach().clone()

    def write(tensor, hook):
        mid = caught["pre"] + tensor
        return tensor + (edit(mid, hook) - mid)

    with torch.no_grad():
        hooks = [(f"{block}.hook_resid_pre", catch), (f"{block}.hook_attn_out", write)]
        return float(metric(model.run_with_hooks(model.to_tokens(PROMPT), fwd_hooks=hooks)))


def read_at(model, sae):
    """The hook of a model that holds what a module reads."""
    if sae.hook in model.hook_dict:
        return sae.hook
    if model.cfg.normalization_type != "LN":
        pytest.skip("a HookedTransformer has no hook after the gain of an RMSNorm")
    return sae.hook.replace("mlp.hook_in", "ln2.hook_normalized")


def values(model, sae, prompt):
    """Features, error and rest of a run, at all positions."""
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    run = sae.apply(cache[read_at(model, sae)][0].flatten(1))
    whole = cache[sae.hook_out][0].flatten(1)
    rest = run.offset if run.skip is None else run.offset + run.skip
    return {
        "feature": run.features,
        "feature_error": whole - run.reconstruction,
        "feature_bias": rest,
    }


def nodes_of(view, sae, per_kind=2):
    graph = vt.flow_graph(view.model, PROMPT, saes=sae)
    return [n.id for n in graph.of_kind("feature")][:per_kind] + [
        n.id for n in graph.of_kind("feature_error", "feature_bias")
    ]


def check(view, sae, how="zero", positions=None, **options):
    n = len(view.encode(PROMPT, None).ids)
    at = [n - 1] if positions is None else [p % n for p in positions]
    prompts = options.get("mean_over") or [p for p in [options.get("corrupted")] if p]
    nodes = nodes_of(view, sae)
    assert nodes
    found = vt.causal.effects(
        view.model, PROMPT, metric, nodes=nodes, how=how, saes=sae, verbose=False,
        positions=positions, **options,
    )  # fmt: skip
    for node in nodes:
        wanted = brute_force(view.model, sae, node, at, how, prompts) - found.clean
        assert found[node].value == pytest.approx(wanted, abs=CLOSE), node
    assert any(abs(value) > 1e-4 for value in found.values)


@pytest.mark.parametrize("site", SITES)
def test_a_zeroed_feature_equals_brute_force_at_every_site(native, site):
    view = ModelView(native)
    check(view, module(view, site, 0), positions=[-1, 4])


@pytest.mark.parametrize("site", ["z", "resid_post", "skip"])
def test_a_resampled_or_mean_feature_equals_brute_force(llama, site):
    view = ModelView(llama)
    sae = module(view, site)
    check(view, sae, "resample", corrupted=OTHER, positions=[3, -1])
    check(view, sae, "mean", mean_over=[OTHER, "c d a b e ab dc"])


@pytest.mark.parametrize("folder", EVERY_MODULE)
def test_every_architecture_of_sae_is_patched_exactly(native, folder):
    view = ModelView(native)
    layer = {"layer": 1} if "circuit_tracer" in folder else {}
    sae = vt.features.open(DATA / folder, model_name=view.name, **layer)
    check(view, sae)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
@pytest.mark.parametrize("name", ["gemma2", "gptj", "cohere", "qwen3", "bloom"])
def test_features_are_patched_exactly_on_unlike_architectures(name):
    view = ModelView(ARCHITECTURES[name].bridge())
    for sae in several(view, 0, ("z", "transcoder", "resid_post")):
        check(view, sae)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="has no bridges to open these with")
def test_features_of_heads_whose_values_have_a_width_of_their_own_are_patched_exactly():
    from tests.mixtures import twins

    view = ModelView(twins("deepseek-v3")[0])
    sae = module(view, "z")
    assert sae.d_in == view.z_width(1) != view.n_heads * view.d_head
    sae.require_fit(view)
    check(view, sae)
    graph = vt.flow_graph(view.model, PROMPT, saes=sae)
    assert graph.feature_attribution(graph.of_kind("feature")[0].id).error < CLOSE
    usual = view.n_heads * view.d_head
    with pytest.raises(vt.InputError, match=rf"reads {usual} numbers at .*, where the model has"):
        replace(
            sae, d_in=usual, W_dec=torch.ones(8, usual), b_dec=torch.ones(usual), b_in=None
        ).require_fit(view)


def test_denoising_puts_a_clean_feature_into_the_corrupted_run(native):
    view = ModelView(native)
    sae = module(view, "resid_post", 0)
    found = vt.causal.effects(
        native, PROMPT, metric, nodes=["L0.resid_post.error"], corrupted=OTHER,
        direction="denoise", saes=sae, verbose=False,
    )  # fmt: skip
    own, other = (values(native, sae, p)["feature_error"][-1] for p in (PROMPT, OTHER))

    def edit(tensor, hook):
        tensor = tensor.clone()
        tensor[0, -1] += own - other
        return tensor

    with torch.no_grad():
        changed = native.run_with_hooks(native.to_tokens(OTHER), fwd_hooks=[(sae.hook, edit)])
        before = native(native.to_tokens(OTHER))
    wanted = float(metric(changed) - metric(before))
    assert found.values[0] == pytest.approx(wanted, abs=CLOSE)


def test_a_graph_measures_its_own_features_and_shows_their_effects(native, tmp_path):
    view = ModelView(native)
    sae = module(view, "z")
    graph = vt.flow_graph(native, PROMPT, saes=sae, features=3)
    found = graph.effects(metric, how="zero", verbose=False)
    shown = found.onto(graph)
    node = shown.of_kind("feature")[0]
    assert node.effect is not None and node.effect.exact
    assert shown.features()["effect"].notna().all() and "effect" in shown.text()
    # A loaded graph has no SAE at hand: its features are left out, or measured with saes=.
    loaded = vt.FlowGraph.load(graph.save(tmp_path / "g.json"))
    without = loaded.effects(metric, how="zero", verbose=False, model=native)
    assert "saes=" in without.left_out[node.id]
    again = loaded.effects(metric, how="zero", verbose=False, model=native, saes=sae)
    assert again[node.id] == node.effect


def test_a_graphs_features_are_not_patched_by_an_sae_that_cannot_be_theirs(native):
    view = ModelView(native)
    graph = vt.flow_graph(native, PROMPT, saes=module(view, "z"))
    other = module(view, "z", n=48)
    with pytest.raises(vt.InputError, match=r"are of tiny-z \(standard, 24 features\), and saes="):
        graph.effects(vt.causal.logit_difference(1, 2), how="zero", verbose=False, saes=other)


def test_estimates_choose_which_features_are_measured(native):
    view = ModelView(native)
    graph = vt.flow_graph(native, PROMPT, saes=module(view, "z"), layers="all")
    nodes = [n.id for n in graph.of_kind("feature", "feature_error")]
    found = vt.causal.effects(
        native, PROMPT, metric, nodes=nodes, how="zero", saes=module(view, "z"), top=2,
        screen="attribution", verbose=False,
    )  # fmt: skip
    assert sum(found.exact) == 2 and len(found) == len(nodes)


def test_a_sweep_goes_on_only_with_the_same_sae(native, tmp_path):
    view = ModelView(native)
    asked = {"nodes": ["L1.z.error"], "how": "zero", "verbose": False}
    path = tmp_path / "sweep.json"
    first = vt.causal.effects(native, PROMPT, metric, saes=module(view, "z"), resume=path, **asked)
    again = vt.causal.effects(native, PROMPT, metric, saes=module(view, "z"), resume=path, **asked)
    assert again.values == first.values
    with pytest.raises(vt.FileError):
        vt.causal.effects(
            native, PROMPT, metric, saes=module(view, "z", seed=5), resume=path, **asked
        )


def test_features_that_cannot_be_patched_are_refused_by_name(native):
    view = ModelView(native)
    sae = module(view, "z")
    for nodes, saes, match in (
        (["L1.z.F3"], None, "L1.z.F3 is of an SAE at z of block 1, which was not given"),
        (["L0.z.F3"], sae, "L0.z.F3 is of an SAE at z of block 0"),
        (["L1.z.F99"], sae, "has the features 0..23"),
        (["L1.z.F3"], replace(sae, d_in=3), "does not fit"),
    ):
        with pytest.raises(vt.InputError, match=match):
            vt.causal.effects(native, PROMPT, metric, nodes=nodes, saes=saes, how="zero")
