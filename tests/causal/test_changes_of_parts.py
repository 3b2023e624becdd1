"""Changes of experts, of neurons inside them, and of parts that are not opened."""

from __future__ import annotations

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.mixtures import twins
from visit_tl import InputError

pytestmark = [
    pytest.mark.skipif(
        tiny.RELEASE < (4, 3), reason="TransformerLens 4.3 is the first that opens all of these"
    ),
    pytest.mark.filterwarnings("ignore::visit_tl.errors.PerformanceWarning"),
]

IDS = [0, 3, 5, 2, 9, 4, 12, 7]
OTHER, THIRD = [0, 3, 6, 2, 9, 1, 12, 7], [0, 8, 5, 2, 6, 4, 12, 7]
METRIC = vt.causal.logit_difference(3, 4)
NAMES = ("mixtral", "qwen2-moe", "gpt-oss", "llama4", "deepseek-v3", "jamba", "lfm2", "falcon-h1",
         "mamba")  # fmt: skip
GIVEN = {"resample": {"corrupted": OTHER}, "mean": {"mean_over": [OTHER, THIRD]}}
_MADE = {}


def made(name):
    if name not in _MADE:
        _MADE[name] = twins(name)[0]
    return _MADE[name]


def value(model, hooks):
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=hooks)
    return float(logits[0, -1, 3] - logits[0, -1, 4])


def nodes_of(graph):
    """Of each block an expert, a neuron inside one, and the part that is not opened."""
    parts = [n.id for n in graph.nodes if n.id.expert is not None or n.kind == "opaque"]
    found = {(n.kind, n.layer): n for n in parts if n.kind in ("expert", "neuron", "opaque")}
    return [str(one) for one in found.values()]


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("name", NAMES)
def test_one_change_is_what_effects_measures(name, how):
    model, given = made(name), GIVEN.get(how, {})
    nodes = nodes_of(vt.flow_graph(model, IDS))
    assert nodes
    found = vt.causal.effects(model, IDS, METRIC, nodes=nodes, how=how, verbose=False, **given)
    clean = value(model, [])
    for node in map(str, found.ids):
        hooks = vt.causal.change_hooks(model, IDS, [(node, how)], **given)
        assert value(model, hooks) - clean == pytest.approx(found[node].value, abs=2e-4), node
    assert len(found.ids) == len(nodes)


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_is_between_the_run_and_the_run_without(name):
    model = made(name)
    for node in nodes_of(vt.flow_graph(model, IDS)):
        (one,) = vt.causal.change_hooks(model, IDS, [(node, 1.0)])
        assert value(model, [one]) == pytest.approx(value(model, []), abs=2e-4), node
        ((hook, nought),) = vt.causal.change_hooks(model, IDS, [(node, 0.0)])
        ((_, zero),) = vt.causal.change_hooks(model, IDS, [(node, "zero")])
        ((_, half),) = vt.causal.change_hooks(model, IDS, [(node, 0.5)])
        kept = model.run_with_cache(torch.tensor([IDS]))[1][hook]
        assert torch.allclose(nought(kept, None), zero(kept, None), atol=1e-5), node
        middle = (kept + zero(kept, None)) / 2
        assert torch.allclose(half(kept, None), middle, atol=1e-5), node


def test_experts_of_one_block_are_changed_together_and_hooks_may_fire_twice():
    model = made("mixtral")
    graph = vt.flow_graph(model, IDS)
    first, second = (str(n.id) for n in graph.of_kind("expert") if n.layer == 1)
    ((hook, change),) = vt.causal.change_hooks(model, IDS, [(first, "zero"), (second, "zero")])
    kept = model.run_with_cache(torch.tensor([IDS]))[1][hook]
    new = change(kept, None)
    # Both experts of the token are gone, so nothing is left at its position, and nowhere else.
    assert float(new[0, -1].norm()) < 1e-5 < float(kept[0, -1].norm())
    assert torch.equal(new[0, :-1], kept[0, :-1])
    assert torch.equal(change(new, None), new)
    patched = vt.flow_graph(model, IDS, fwd_hooks=[(hook, change)])
    assert patched["L1.mlp_out"].norm == pytest.approx(0, abs=1e-5)


def test_what_cannot_be_changed_is_refused_by_name():
    model = made("mixtral")
    graph = vt.flow_graph(model, IDS)
    expert = next(n.id for n in graph.of_kind("expert") if n.layer == 1)
    for changes, words in (
        ([(str(expert), "zero"), (f"{expert}N0", 2)], "cannot be changed together"),
        ([("L0.router", "zero")], "its weights choose experts"),
        ([("L0.z.F3", "zero")], "L0.z.F3 cannot be changed: .* effects, with saes="),
        ([("L0.z.error", "zero")], "effects, with saes="),
        ([("L0.z.b_dec", "zero")], "effects, with saes="),
        ([("L0.opaque", "zero")], "cannot be changed: block 0 of .* has no"),
        ([("L0E9", "zero")], "block 0 has 4 experts"),
        ([(str(expert), "look away")], "is for a memory value"),
    ):
        with pytest.raises(InputError, match=words):
            vt.causal.change_hooks(model, IDS, changes)


def test_every_kind_of_node_is_changed_or_refused_with_the_reason():
    from visit_tl.causal.patching.change_hooks import _LEFT_OUT, _ORDER
    from visit_tl.graph.ids import KINDS

    assert set(_LEFT_OUT) | set(_ORDER) == set(KINDS) and not set(_LEFT_OUT) & set(_ORDER)
