"""Gradients of a model with adapters are those of its merged weights; edits act beneath them."""

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformer_lens.model_bridge", reason="adapters are opened as bridges")

import visit_tl as vt
from tests.model.test_adapters import adapted, both

PROMPT = "a b c d e ab cd"


def test_gradients_and_maps_are_those_of_the_merged_model():
    one, other = both(adapted())
    ours, theirs = (vt.backward_lens(m, PROMPT, "a", check="all") for m in (one, other))
    assert max(ours.errors.values()) < 1e-5
    for layer in (0, 1):
        for matrix in ours.matrices:
            found, expected = (lens.factors(layer, matrix).gradient() for lens in (ours, theirs))
            assert torch.allclose(found, expected, atol=1e-5 * float(expected.norm()) + 1e-9)
    assert ours.adapters and not theirs.adapters
    maps = [vt.reversed_attention(m, PROMPT, "a") for m in (one, other)]
    assert maps[0].norms == pytest.approx(maps[1].norms, rel=1e-3)


def test_flags_of_frozen_weights_and_adapters_stay():
    model, _ = both(adapted())
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    assert len(set(before.values())) == 2  # peft freezes what it adapts
    vt.backward_lens(model, PROMPT, "a", check="all")
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}


def test_the_shift_edit_acts_beneath_the_adapter():
    model, _ = both(adapted())
    view = vt.ModelView(model)
    before = view.weights(1).W_out.clone()
    raw = {name: p.clone() for name, p in model.named_parameters()}
    with vt.gradients.shift(model, PROMPT, "b", layer=1, eta=0.5):
        change = vt.ModelView(model).weights(1).W_out - before
        assert float(change.norm()) > 0
    kept = {}
    ids = torch.tensor([view.tokens.encode(PROMPT, None).ids])
    hook = ("blocks.1.mlp.hook_post", lambda t, hook: kept.__setitem__("x", t[0, -1].detach()))
    model.run_with_hooks(ids, fwd_hooks=[hook])
    token = view.tokens.single("b")
    assert torch.allclose(change, 0.5 * torch.outer(kept["x"], view.W_U[:, token]), atol=1e-4)
    assert all(torch.equal(raw[name], p) for name, p in model.named_parameters())
