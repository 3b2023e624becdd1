"""Scores of heads and the perturbation test, against loops over heads, prompts and shares."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from tests import tiny
from visit_tl import InputError, ModelView, reversed_attention
from visit_tl.gradients import backward_lens
from visit_tl.model.kept_heads import logits_with_heads
from visit_tl.studies import Perturbation, importances, one_matrix_trained, perturbation_test
from visit_tl.studies.head_importance import SCORES

PROMPTS = ["a b c", "abc", "b a e", "d c", "abcd e"]
TARGETS = ["a", "b", "c", "d", "e"]


def by_hand(view, ids, kept):
    """The last logits with some heads off, one prompt and one head at a time."""

    def off(layer):
        def hook(z, hook):
            z = z.clone()
            for head in range(view.n_heads):
                if not kept[layer, head]:
                    z[:, :, head] = 0
            return z

        return hook

    hooks = [(f"blocks.{i}.attn.hook_z", off(i)) for i in range(view.n_layers)]
    return view.run(torch.tensor([ids]), hooks)[0, -1]


def test_heads_that_are_off_write_nothing_at_any_position(model):
    view = ModelView(model)
    kept = torch.rand(5, view.n_layers, view.n_heads, generator=torch.manual_seed(0)) > 0.5
    kept[0], kept[1] = False, True
    ids = [view.tokens.encode(prompt, None).ids for prompt in PROMPTS]
    found = logits_with_heads(view, ids, kept)
    for choice, mask in enumerate(kept):
        for i, own in enumerate(ids):
            torch.testing.assert_close(
                found[choice, i], by_hand(view, own, mask), atol=1e-5, rtol=1e-5
            )
    for i, own in enumerate(ids):
        torch.testing.assert_close(
            found[1, i], view.run(torch.tensor([own]), [])[0, -1], atol=1e-5, rtol=1e-5
        )


def test_batches_of_any_size_give_the_same(native, monkeypatch):
    view = ModelView(native)
    kept = torch.rand(4, view.n_layers, view.n_heads, generator=torch.manual_seed(1)) > 0.5
    ids = [view.tokens.encode(prompt, None).ids for prompt in PROMPTS]
    whole = logits_with_heads(view, ids, kept)
    monkeypatch.setattr(importlib.import_module("visit_tl.model.last_logits"), "_TOKENS_AT_ONCE", 9)
    torch.testing.assert_close(logits_with_heads(view, ids, kept), whole)


def test_zeros_in_z_are_zeros_in_the_rows_of_W_O(native):
    view = ModelView(native)
    kept = torch.ones(1, view.n_layers, view.n_heads, dtype=torch.bool)
    kept[0, 0, 1] = kept[0, 1, 2] = False
    ids = [view.tokens.encode(PROMPTS[0], None).ids]
    found = logits_with_heads(view, ids, kept)
    changed = tiny.native()
    with torch.no_grad():
        for layer, head in ((0, 1), (1, 2)):
            changed.blocks[layer].attn.W_O[head].zero_()
            assert not ModelView(changed).weights(layer).W_O[head].any()
    torch.testing.assert_close(
        found[0, 0], changed(torch.tensor([ids[0]]))[0, -1].detach(), atol=1e-5, rtol=1e-5
    )


def test_the_curves_are_those_of_a_loop(model):
    view = ModelView(model)
    shape = view.n_layers, view.n_heads
    stream = np.random.default_rng(0)
    scores = {"one": stream.random(shape), "two": [stream.random(shape) for _ in range(2)]}
    # Every prompt's target is what the model says, so the accuracy with all heads is 1.
    ids = [view.tokens.encode(prompt, None).ids for prompt in PROMPTS]
    said = [int(view.run(torch.tensor([own]), [])[0, -1].argmax()) for own in ids]
    shares = [0, 30, 50, 100]
    found = perturbation_test(model, scores, PROMPTS, said, shares=shares, task="t", shots=1)

    def curve(grid):
        order = sorted(range(grid.size), key=lambda i: -grid.ravel()[i])
        rows = []
        for p in shares:
            kept = np.zeros(grid.size, bool)
            kept[order[: round(p / 100 * grid.size)]] = True
            kept = kept.reshape(shape)
            rows.append(
                [
                    float(by_hand(view, own, kept).argmax() == t)
                    for own, t in zip(ids, said, strict=True)
                ]
            )
        return np.array(rows)

    np.testing.assert_array_equal(found.right["t", 1, "one"], curve(scores["one"]))
    both = np.mean([curve(grid) for grid in scores["two"]], axis=0)
    np.testing.assert_allclose(found.right["t", 1, "two"], both)
    assert (found.right["t", 1, "one"][-1] == 1).all()
    table = found.to_dataframe()
    assert list(table.columns) == ["task", "shots", "score", "p", "accuracy", "accuracy_se", "n"]
    assert len(table) == 8 and set(table["n"]) == {5}


def test_areas_and_their_errors():
    right = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    one = Perturbation((0.0, 50.0, 100.0), {("t", 0, "reversed"): right})
    row = one.auc().iloc[0]
    low, middle, high = right.mean(1)
    assert row["auc"] == pytest.approx(0.5 * (low + middle) / 2 + 0.5 * (middle + high) / 2)
    assert row["auc_se"] == pytest.approx(np.std([0.75, 0.25, 0], ddof=1) / 3**0.5)
    assert row["base"] == pytest.approx(2 / 3)
    other = Perturbation(one.shares, {("t", 0, "random"): right * 0, ("u", 0, "random"): right})
    more = Perturbation(one.shares, {("u", 0, "reversed"): right})
    table = one.joined(other).joined(more).compared().set_index("score")
    assert table.loc["random", "ahead"] == pytest.approx(row["auc"] / 2)
    assert table.loc["random", "ahead_se"] == pytest.approx(row["auc"] / 2)
    assert table.loc["random", "wins"] == 1 and table.loc["random", "n"] == 2
    with pytest.raises(InputError, match="curves are joined if"):
        one.joined(one)
    with pytest.raises(InputError, match="not every task has a curve of 'reversed'"):
        other.compared()


def test_importances_are_means_of_what_each_prompt_gives(model):
    view = ModelView(model)
    found = importances(model, PROMPTS[:2], TARGETS[:2], verbose=False)
    assert tuple(found) == SCORES
    maps = [reversed_attention(model, p, t) for p, t in zip(PROMPTS[:2], TARGETS[:2], strict=True)]
    norms = np.mean([[[np.linalg.norm(h) for h in layer] for layer in m.maps()] for m in maps], 0)
    np.testing.assert_allclose(found["reversed"], norms, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["forward"], np.mean([m.forward_norms for m in maps], 0))

    def log_p(ids, target, layer=None, head=None, at=None):
        def off(z, hook):
            z = z.clone()
            z[:, at, head] = 0
            return z

        hooks = [] if layer is None else [(f"blocks.{layer}.attn.hook_z", off)]
        row = view.run(torch.tensor([ids]), hooks)[0, -1].float().log_softmax(-1)
        return float(row[view.tokens.single(target)])

    falls = np.zeros((view.n_layers, view.n_heads))
    outputs = np.zeros_like(falls)
    for prompt, target in zip(PROMPTS[:2], TARGETS[:2], strict=True):
        ids = view.tokens.encode(prompt, None).ids
        kept = {}
        hooks = [
            (
                f"blocks.{i}.attn.hook_z",
                lambda z, hook, i=i, kept=kept: kept.__setitem__(i, z[0, -1]),
            )
            for i in range(view.n_layers)
        ]
        view.run(torch.tensor([ids]), hooks)
        for layer in range(view.n_layers):
            for head in range(view.n_heads):
                fall = log_p(ids, target) - log_p(ids, target, layer, head, len(ids) - 1)
                falls[layer, head] += fall / 2
                W_O = view.weights(layer).W_O
                outputs[layer, head] += float((kept[layer][head] @ W_O[head]).norm()) / 2
    np.testing.assert_allclose(found["effect at last"], falls, atol=1e-4)
    np.testing.assert_allclose(found["output"], outputs, rtol=1e-3)


def test_an_estimate_is_the_slope_where_nothing_is_taken_away_yet(native):
    view = ModelView(native)
    ids = view.tokens.encode(PROMPTS[0], None).ids
    target = view.tokens.single("a")

    def log_p(layer, head, at, factor):
        def scale(z, hook):
            z = z.clone()
            z[:, at, head] *= factor
            return z

        hooks = [(f"blocks.{layer}.attn.hook_z", scale)]
        return float(view.run(torch.tensor([ids]), hooks)[0, -1].log_softmax(-1)[target])

    scores = ["attribution", "attribution at last"]
    found = importances(native, [PROMPTS[0]], "a", scores=scores, verbose=False)
    for name, at in zip(scores, (slice(None), -1), strict=True):
        for layer in range(view.n_layers):
            for head in range(view.n_heads):
                up, down = (log_p(layer, head, at, factor) for factor in (1.01, 0.99))
                slope = abs(up - down) / 0.02
                assert found[name][layer, head] == pytest.approx(slope, rel=0.02, abs=2e-3), name


def test_orders_that_nobody_measured(native):
    found = importances(native, ["a b"], "a", scores=["index", "random"], verbose=False)
    assert list(found) == ["index", "random"]
    assert (np.diff(found["index"].ravel()) < 0).all()
    again = importances(native, ["a b"], "a", scores="random", random=1, verbose=False)
    assert not np.array_equal(found["random"], again["random"])


def test_what_cannot_be_tested_is_refused(native):
    view = ModelView(native)
    grid = np.zeros((view.n_layers, view.n_heads))
    with pytest.raises(InputError, match="scores are of reversed, .*; got norm"):
        importances(native, ["a b"], "a", scores="norm")
    with pytest.raises(InputError, match="no prompts were given"):
        importances(native, [], "a")
    with pytest.raises(InputError, match="no prompts were given"):
        perturbation_test(native, {"s": grid}, [], "a")
    with pytest.raises(InputError, match="'s' is \\[1, 1\\]"):
        perturbation_test(native, {"s": np.zeros((1, 1))}, ["a b"], "a")
    with pytest.raises(InputError, match="in ascending order"):
        perturbation_test(native, {"s": grid}, ["a b"], "a", shares=[50, 0])
    with pytest.raises(InputError, match="no scores were given"):
        perturbation_test(native, {}, ["a b"], "a")


def test_training_one_matrix_is_gradient_descent(native):
    view = ModelView(native)
    ids = view.tokens.encode("a b c", None).ids
    target = int(native(torch.tensor([ids]))[0, -1].argsort(descending=True)[1])
    weight = native.blocks[1].mlp.W_out
    before = weight.detach().clone()
    native.zero_grad()
    lens = backward_lens(native, list(ids), target, layers=1, matrices=("W_out",))
    step = lens.factors(1, "W_out").gradient()
    with one_matrix_trained(native, "a b c", target, layer=1, rate=0.01, steps=1) as taken:
        assert taken == 1
        torch.testing.assert_close(weight.detach(), before - 0.01 * step)
    assert torch.equal(weight.detach(), before)
    with one_matrix_trained(native, "a b c", target, layer=1, rate=0.05, steps=200) as taken:
        assert 1 <= taken < 200
        assert int(native(torch.tensor([ids]))[0, -1].argmax()) == target
    assert torch.equal(weight.detach(), before)
    said = int(native(torch.tensor([ids]))[0, -1].argmax())
    with one_matrix_trained(native, "a b c", said, layer=1, rate=1.0) as taken:
        assert taken == 0
