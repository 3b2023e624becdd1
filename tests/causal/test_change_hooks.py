"""Several changes of one run: alone what `effects` measures, together what loops give."""

import pytest
import torch

import visit_tl as vt
from visit_tl import InputError

PROMPT, OTHER, THIRD = "a b c d", "b a d e", "c c a b"
METRIC = vt.causal.logit_difference(3, 4)
NODES = ("L0H1", "L1H0", "L0.attn_out", "L1.mlp_out", "L0.resid_pre", "L1.resid_post", "L0N3",
         "L1H1.v2", "L1O5", "L1H1.k2", "L0.resid_mid")  # fmt: skip


def value(model, hooks):
    with torch.no_grad():
        logits = model.run_with_hooks(model.to_tokens(PROMPT), fwd_hooks=hooks)
    return float(logits[0, -1, 3] - logits[0, -1, 4])


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_one_change_is_what_effects_measures(model, how):
    given = {"resample": {"corrupted": OTHER}, "mean": {"mean_over": [OTHER, THIRD]}}.get(how, {})
    nodes = [n for n in NODES if n != "L0.resid_mid" or not vt.ModelView(model).parallel]
    found = vt.causal.effects(model, PROMPT, METRIC, nodes=nodes, how=how, verbose=False, **given)
    clean = value(model, [])
    for node in map(str, found.ids):
        hooks = vt.causal.change_hooks(model, PROMPT, [(node, how)], **given)
        assert value(model, hooks) - clean == pytest.approx(found[node].value, abs=2e-4), node


def test_changes_add_up_in_the_order_of_the_forward_pass(model):
    changes = [("L1.mlp_out", 0.5), ("L0H1", "zero"), ("L1H0", -2)]
    hooks = vt.causal.change_hooks(model, PROMPT, changes)
    at, names = len(model.to_tokens(PROMPT)[0]) - 1, {"head": "attn.hook_z", "mlp": "hook_mlp_out"}

    def scaled(head, factor):
        def change(tensor, hook):
            tensor = tensor.clone()
            tensor[(0, at) if head is None else (0, at, head)] *= factor
            return tensor

        return change

    by_hand = [
        (f"blocks.0.{names['head']}", scaled(1, 0.0)),
        (f"blocks.1.{names['head']}", scaled(0, -2.0)),
        (f"blocks.1.{names['mlp']}", scaled(None, 0.5)),
    ]
    assert [name for name, _ in hooks] == [name for name, _ in by_hand]
    assert value(model, hooks) == pytest.approx(value(model, by_hand), abs=2e-4)
    graph = vt.flow_graph(model, PROMPT, fwd_hooks=hooks, heads=99)
    assert graph.patched and graph["L0H1"].norm == pytest.approx(0, abs=1e-6)


def test_where_a_head_looks_is_changed_key_by_key(native):
    kept = {}
    slots = ("pattern", "v", "z")
    native.run_with_hooks(
        native.to_tokens(PROMPT),
        fwd_hooks=[
            (f"blocks.1.attn.hook_{s}", lambda t, hook, s=s: kept.__setitem__(s, t[0].detach()))
            for s in slots
        ],
    )
    at = kept["z"].shape[0] - 1
    weights = [float(w) for w in kept["pattern"][1, at]]
    kv = 1 if kept["v"].shape[1] > 1 else 0
    rows = [kept["v"][j, kv] for j in range(at + 1)]
    changes = [("L1H1.v0", "look away"), ("L1H1.v2", "look away"), ("L1H1.v1", 3.0)]
    left = sum(w for j, w in enumerate(weights) if j not in (0, 2))
    wanted = sum(
        (0 if j in (0, 2) else w / left) * (3.0 if j == 1 else 1.0) * row
        for j, (w, row) in enumerate(zip(weights, rows, strict=True))
    )
    only = vt.causal.change_hooks(native, PROMPT, [("L1H1.v3", "look only")])
    for hooks, z in ((vt.causal.change_hooks(native, PROMPT, changes), wanted), (only, rows[3])):
        ((name, function),) = hooks
        assert name == "blocks.1.attn.hook_z"
        new = function(kept["z"][None].clone(), None)[0, at, 1]
        assert torch.allclose(new, z, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("L0H1", "changes are pairs"),
        ([("L0H1",)], "changes are pairs"),
        ([("L0H1", "nil")], "'nil' is no change of L0H1"),
        ([("L0H1", True)], "is no change"),
        ([("L0H1", float("nan"))], "is no change"),
        ([(None, "zero")], "is no node"),
        ([("L7H1", "zero")], "its layer is outside"),
        ([("L0.attn_in", "zero")], "cannot be changed: it is a function of resid_pre"),
        ([("L0H1", "look away")], "is for a memory value"),
        ([("L0H1", "zero"), ("L0H1", 2)], "L0H1 is changed twice"),
        ([("L0H1", "resample")], "pass corrupted"),
        ([("L0H1", "mean")], "pass mean_over"),
        ([(f"L0H1.v{j}", "look away") for j in range(5)], "would look at nothing"),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(native, changes, words):
    with pytest.raises(InputError, match=words):
        vt.causal.change_hooks(native, PROMPT, changes)


def test_the_model_is_as_it_was(native):
    before = {name: p.detach().clone() for name, p in native.named_parameters()}
    hooks = vt.causal.change_hooks(native, PROMPT, [("L0H1", "zero"), ("L1N2", 2)])
    vt.flow_graph(native, PROMPT, fwd_hooks=hooks)
    assert all(torch.equal(p, before[name]) for name, p in native.named_parameters())
    assert not any(point.fwd_hooks for point in native.hook_dict.values())
