"""The graph of a run that the caller patched."""

import json

import pytest
import torch

import visit_tl as vt
from visit_tl import InputError
from visit_tl.graph.io.json_format import from_json, to_json

PROMPT = "a b c d"


def double(tensor, hook):
    return tensor * 2


def silence_head(tensor, hook):
    tensor = tensor.clone()
    tensor[:, :, 1] = 0
    return tensor


def test_a_silenced_head_adds_nothing_and_the_laws_hold(model):
    hooks = [("blocks.0.attn.hook_z", silence_head)]
    graph = vt.flow_graph(model, PROMPT, fwd_hooks=hooks, heads=99)
    assert graph["L0H1"].norm == 0 and graph["L0H0"].norm > 0
    assert graph.patched == ("blocks.0.attn.hook_z",)
    assert max(graph.residual_error.values()) < 1e-4
    with torch.no_grad():
        own = model.run_with_hooks(model.to_tokens(PROMPT), fwd_hooks=hooks)[0, -1]
    assert graph.target_id == int(own.argmax())
    assert graph["logits"].prob == pytest.approx(float(own.softmax(-1).max()), abs=1e-5)
    clean = vt.flow_graph(model, PROMPT, heads=99)
    assert clean.patched == () and clean["L0H1"].norm > 0


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_attn_out", "hook_resid_post"])
def test_a_replaced_whole_is_shown_as_it_was_left(model, hook):
    name = f"blocks.1.{hook}"
    graph = vt.flow_graph(model, PROMPT, fwd_hooks=[(name, double)])
    clean = vt.flow_graph(model, PROMPT)
    node = f"L1.{hook.removeprefix('hook_')}"
    assert graph[node].norm == pytest.approx(2 * clean[node].norm, rel=1e-4)
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph
    assert f"patched     {name}" in graph.text()
    assert f"patched run: {name}" in graph.figure().layout.title.text


def test_a_hook_may_be_chosen_by_a_function(native):
    chosen = [(lambda name: name.endswith("attn.hook_z"), silence_head)]
    graph = vt.flow_graph(native, PROMPT, fwd_hooks=chosen, heads=99)
    assert graph["L0H1"].norm == graph["L1H1"].norm == 0
    assert set(graph.patched) >= {"blocks.0.attn.hook_z", "blocks.1.attn.hook_z"}


def test_following_memories_goes_through_the_patched_run(native):
    hooks = [("blocks.0.attn.hook_z", silence_head)]
    graph = vt.flow_graph(native, PROMPT, fwd_hooks=hooks, expand=2)
    alone = vt.flow_graph(native, PROMPT, fwd_hooks=hooks, position=2, target=graph.target_id)
    assert graph["L0.attn_out@2"].rank == alone["L0.attn_out"].rank
    assert graph["L0.attn_out@2"].norm == pytest.approx(alone["L0.attn_out"].norm)


def test_hooks_that_are_not_there_are_named_with_the_nearest(native):
    with pytest.raises(InputError, match=r"no hook 'blocks.0.attn.hook_zz'; did you mean 'blo"):
        vt.flow_graph(native, PROMPT, fwd_hooks=[("blocks.0.attn.hook_zz", double)])
    cache = native.run_with_cache(PROMPT)[1]
    with pytest.raises(InputError, match="a cache is of a run that is over"):
        vt.flow_graph(native, PROMPT, cache=cache, fwd_hooks=[("hook_embed", double)])


@pytest.mark.parametrize(
    "ask",
    [
        lambda graph: graph.attribution(),
        lambda graph: graph.effects(lambda logits: logits.sum(), how="zero"),
        lambda graph: graph.edge_effects(lambda logits: logits.sum(), how="zero"),
        lambda graph: graph.attention(["L0H0"]),
        lambda graph: graph.lens_table(),
    ],
    ids=["attribution", "effects", "edge_effects", "attention", "lens_table"],
)
def test_what_would_need_another_run_is_refused_of_a_patched_one(native, ask):
    graph = vt.flow_graph(native, PROMPT, fwd_hooks=[("blocks.0.attn.hook_z", silence_head)])
    with pytest.raises(vt.GraphError, match="patched run, and running the model again would be"):
        ask(graph)
    with pytest.raises(InputError, match="patched run, and running the model again would be"):
        vt.causal.attribute(native, graph)
