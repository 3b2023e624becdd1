"""The shift edit: what it writes, that all runs see it, and that nothing of it stays."""

import pytest
import torch

import visit_tl as vt
from tests.conftest import MAKERS, made
from visit_tl import InputError, ModelView
from visit_tl.gradients import Edit, shift, shift_sweep
from visit_tl.model.last_logits import last_logits

PROMPT = "a b c d e"


def logits_of(model, prompt=PROMPT):
    ids = torch.tensor([ModelView(model).tokens.encode(prompt, None).ids])
    with torch.no_grad():
        return model(ids)[0]


def test_w_out_gains_the_activation_times_the_targets_direction(model):
    view = ModelView(model)
    kept = {}
    ids = torch.tensor([view.tokens.encode(PROMPT, None).ids])
    name = "blocks.1.mlp.hook_post"
    with torch.no_grad():
        model.run_with_hooks(
            ids, fwd_hooks=[(name, lambda t, hook: kept.__setitem__("x", t[0, -1].clone()))]
        )
    before = view.weights(1).W_out.clone()
    token = view.tokens.single("b")
    with shift(model, PROMPT, "b", layer=1, eta=0.3):
        change = view.weights(1).W_out - before
    expected = 0.3 * torch.outer(kept["x"], view.W_U[:, token])
    assert torch.allclose(change, expected, atol=1e-5)
    # x (W' - W) D[t] = eta |x|^2 |D[t]|^2
    moved = float(kept["x"] @ change @ view.W_U[:, token])
    assert moved == pytest.approx(
        0.3 * float(kept["x"].norm() ** 2 * view.W_U[:, token].norm() ** 2), rel=1e-3
    )


def test_the_model_is_edited_inside_and_afterwards_the_same_to_the_bit(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clean = logits_of(model)
    with shift(model, PROMPT, "b", layer=1, eta=0.5) as edited:
        assert edited is model
        inside = logits_of(model)
        graph = vt.flow_graph(model, PROMPT, target="b")
        assert graph["logits"].prob == pytest.approx(
            float(inside[-1].softmax(-1)[graph.target_id]), abs=1e-5
        )
        with shift(model, PROMPT, "c", layer=0, eta=1.0):
            pass
        assert torch.equal(logits_of(model), inside)
    assert not torch.equal(inside, clean)
    assert torch.equal(logits_of(model), clean)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_the_edit_is_undone_after_an_error_and_in_inference_mode():
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            model = MAKERS["gpt2"]()
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            with pytest.raises(ZeroDivisionError), shift(model, PROMPT, "b", layer=1):
                raise ZeroDivisionError
            assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_layers_that_are_not_there_are_named():
    with (
        pytest.raises(InputError, match="layer 5 is outside"),
        shift(made("gpt2"), PROMPT, "b", layer=5),
    ):
        pass


def test_a_large_enough_edit_makes_the_target_the_prediction(model):
    token = ModelView(model).tokens.single("b")
    clean = float(logits_of(model)[-1].log_softmax(-1)[token])
    best = max(
        _after(model, layer, eta, token) for layer in (0, 1) for eta in (0.01, 0.03, 0.1, 0.3, 1.0)
    )
    assert best > clean


def _after(model, layer, eta, token):
    with shift(model, PROMPT, "b", layer=layer, eta=eta):
        return float(logits_of(model)[-1].log_softmax(-1)[token])


def test_a_sweep_says_of_each_edit_what_the_edited_model_says(model):
    edit = Edit(PROMPT, "b", ("b c d e", "a"), (("c d", "a"),))
    others = ["d e a", "c"]
    sweep = shift_sweep(model, [edit], layers=[0, 1], etas=(0.1, 1.0), others=others, verbose=False)
    table = sweep.to_dataframe()
    assert len(table) == 5 and table["layer"].isna().sum() == 1
    tokens = ModelView(model).tokens
    clean = torch.stack([logits_of(model, p)[-1] for p in others]).log_softmax(-1)
    row = table[(table.layer == 1) & (table.eta == 1.0)].iloc[0]
    with shift(model, PROMPT, "b", layer=1, eta=1.0):
        said = [int(logits_of(model, p)[-1].argmax()) for p in (PROMPT, *edit.paraphrases, "c d")]
        now = torch.stack([logits_of(model, p)[-1] for p in others]).log_softmax(-1)
    b, a = tokens.single("b"), tokens.single("a")
    assert row["efficacy"] == float(said[0] == b)
    assert row["paraphrase"] == sum(s == b for s in said[1:3]) / 2
    assert row["neighbourhood"] == float(said[3] == a)
    drift = (clean.exp() * (clean - now)).sum(-1).mean()
    assert row["drift"] == pytest.approx(float(drift), rel=1e-3, abs=1e-6)
    assert table[table.layer.isna()]["drift"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert sweep.best()["layer"] in (0, 1)


def test_bad_edits_are_named():
    with pytest.raises(InputError, match="no edits were given"):
        shift_sweep(made("gpt2"), [])
    with pytest.raises(InputError, match=r"edits are visit_tl\.gradients\.Edit, got tuple"):
        shift_sweep(made("gpt2"), [("a", "b")])


def test_prompts_of_many_lengths_are_read_in_their_order():
    model = made("gpt2")
    tokens = ModelView(model).tokens
    prompts = ["a b c", "d", "b c d", "a b", "e"]
    found = last_logits(ModelView(model), [tokens.encode(p, None).ids for p in prompts])
    for row, prompt in zip(found, prompts, strict=True):
        assert torch.allclose(row, logits_of(model, prompt)[-1], atol=1e-5)
