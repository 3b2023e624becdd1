"""Observed heads, ablated heads and gradients in numbers, against loops and plain hooks."""

import functools

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.sweeps.twins import (
    NAMES,
    cache_of,
    close,
    decoder,
    every,
    lens,
    prompts_of,
    refusals,
    rows,
)
from visit_tl.model.added_attention import pattern_is_used
from visit_tl.model.view import ModelView
from visit_tl.sweeps.gradient_summaries import backward_lens_summary, reversed_attention_summary
from visit_tl.sweeps.head_effects import head_effects
from visit_tl.sweeps.measure import SweptPrompt
from visit_tl.sweeps.observed_heads import observed_heads
from visit_tl.sweeps.registry import studies

WITHOUT_POST_NORMS = [name for name in NAMES if name != "gemma2"]


def written(name, model, cache, layer, head):
    """What a head adds to the stream; under a post-norm, with the gain over the size of the sum."""
    z = cache[f"blocks.{layer}.attn.hook_z"][0, -1]
    attn = model.blocks[layer].attn
    out = z[head] @ attn.W_O[head]
    if name != "gemma2":
        return out
    whole = sum(z[h] @ attn.W_O[h] for h in range(4))
    with torch.no_grad():
        gain = model.blocks[layer].ln1_post(torch.ones(1, 1, len(out)))[0, 0]
    return gain * out / whole.pow(2).mean().sqrt()


@every
def test_observed_heads_equal_loops(name):
    model = decoder(name)
    prompts = prompts_of(model)
    for prompt, table in zip(prompts, rows(model, observed_heads, prompts), strict=True):
        cache, target = cache_of(model, prompt)
        shares = vt.causal.attribute(model, list(prompt.token_ids), target).heads()
        assert len(table) == 8
        for row in table.itertuples():
            vector = written(name, model, cache, row.layer, row.head).detach()
            probs = lens(name, model, vector)
            pattern = cache[f"blocks.{row.layer}.attn.hook_pattern"][0, row.head, -1]
            close(row.norm, vector.norm())
            close(row.prob, probs[target])
            assert row.rank == int((probs > probs[target]).sum())
            close(row.attribution, shares[row.layer, row.head])
            close([row.to_first, row.to_previous, row.to_own], pattern[[0, -2, -1]])


def test_attribution_with_the_scale_of_the_norm_written_out(native):
    prompt = prompts_of(native)[0]
    table = rows(native, observed_heads, [prompt])[0]
    cache, target = cache_of(native, prompt)
    last = cache["blocks.1.hook_resid_post"][0, -1]
    scale = (last.var(correction=0) + native.cfg.eps).sqrt()
    gain = (native.ln_final.weight if tiny.HAS_BRIDGE else native.ln_final.w).detach()
    for row in table.itertuples():
        out = written("native", native, cache, row.layer, row.head).detach()
        share = gain * (out - out.mean()) / scale @ native.W_U[:, target].detach()
        close(row.attribution, share)


def test_a_prompt_of_one_token_has_no_previous_one(native):
    (table,) = rows(native, observed_heads, [SweptPrompt(0, "a", (3,))])
    assert table["to_previous"].isna().all()
    assert (table["to_own"] == 1).all() and (table["to_first"] == 1).all()


def ablated(model, prompt, target, layer, head, how):
    """The log-probability with a plain hook on the whole model."""

    def put(z, hook):
        z = z.clone()
        z[0, -1, head] = z[0, :, head].mean(0) if how == "mean" else 0
        return z

    with torch.no_grad():
        tokens = torch.tensor([prompt.token_ids])
        name = f"blocks.{layer}.attn.hook_z"
        logits = model.run_with_hooks(tokens, fwd_hooks=[] if head is None else [(name, put)])
    return float(logits[0, -1].double().log_softmax(-1)[target])


@pytest.mark.parametrize("how", ["zero", "mean"])
@every
def test_head_effects_equal_plain_hooks(name, how):
    model = decoder(name)
    prompts = prompts_of(model)[:2]
    for prompt, table in zip(
        prompts, rows(model, head_effects.having(how=how), prompts), strict=True
    ):
        _, target = cache_of(model, prompt)
        before = ablated(model, prompt, target, 0, None, how)
        for row in table.itertuples():
            after = ablated(model, prompt, target, row.layer, row.head, how)
            close(row.effect, after - before, 1e-4)


def test_zero_effects_are_those_of_effects(llama):
    prompt = prompts_of(llama)[0]
    table = rows(llama, head_effects, [prompt])[0]
    metric = vt.causal.log_probability(prompt.target)
    own = vt.causal.effects(llama, list(prompt.token_ids), metric, how="zero", verbose=False)
    close(table["effect"].to_numpy().reshape(2, 4), own.heads())


def test_another_ablation_is_refused(native):
    (why,) = refusals(native, head_effects.having(how="resample"))
    assert "'zero' or 'mean'" in why


def gradients(model, prompt, target, names):
    """Activations and gradients of -log p(target) at some hooks, by autograd."""
    kept = {}

    def keep(tensor, hook, name):
        kept[name] = tensor + 0
        kept[name].retain_grad()
        return kept[name]

    hooks = [(name, functools.partial(keep, name=name)) for name in names]
    with torch.enable_grad():
        logits = model.run_with_hooks(torch.tensor([prompt.token_ids]), fwd_hooks=hooks)
        (-logits[0, -1].log_softmax(-1)[target]).backward()
    # Of a neuron's activation, which a bridge may only show, no gradient is asked.
    found = {n: (x.detach()[0], None if x.grad is None else x.grad[0]) for n, x in kept.items()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("name", WITHOUT_POST_NORMS)
def test_backward_lens_summary_equals_autograd(name, normalise):
    """For the two matrices whose VJP is a gradient at a hook of the stream."""
    model = decoder(name)
    prompts = prompts_of(model)[:2]
    study = backward_lens_summary.having(normalise=normalise)
    for prompt, table in zip(prompts, rows(model, study, prompts), strict=True):
        _, target = cache_of(model, prompt)
        gated = ["W_gate"] if ModelView(model).gated else []
        matrices = ["W_in", *gated, "W_out", "W_Q", "W_K", "W_V", "W_O"]
        assert table["matrix"].tolist() == matrices * 2
        for layer in (0, 1):
            block = f"blocks.{layer}"
            for matrix, into, out in (
                ("W_out", f"{block}.mlp.hook_post", f"{block}.hook_mlp_out"),
                ("W_O", f"{block}.attn.hook_z", f"{block}.hook_attn_out"),
            ):
                found = gradients(model, prompt, target, [into, out])
                row = table[(table["layer"] == layer) & (table["matrix"] == matrix)].iloc[0]
                delta = found[out][1][-1]
                close(row["norm"], delta.norm())
                close(row["input_norm"], found[into][0][-1].norm())
                probs = lens(name, model, delta / delta.norm() if normalise else delta)
                assert row["rank"] == int((probs > probs[target]).sum())


@every
def test_backward_lens_summary_equals_the_lens(name):
    model = decoder(name)
    prompt = prompts_of(model)[0]
    table = rows(model, backward_lens_summary, [prompt])[0]
    own = vt.backward_lens(model, list(prompt.token_ids), prompt.target)
    for row in table.itertuples():
        found = own.matrices[row.matrix]
        close(row.norm, found.norms[row.layer, -1])
        close(row.input_norm, found.input_norms[row.layer, -1])
        assert row.rank == found.ranks[row.layer, -1]


def test_some_matrices_and_vectors_of_zero(native):
    prompt = SweptPrompt(0, "a", (3,), 5)
    (table,) = rows(native, backward_lens_summary.having(matrices="W_out,W_Q"), [prompt])
    assert table["matrix"].tolist() == ["W_out", "W_Q"] * 2
    assert table["rank"].notna().all(), "W_Q is read in its input, which is not 0"
    close(table["norm"][table["matrix"] == "W_Q"], 0.0)
    model = tiny.native(seed=3)
    with torch.no_grad():
        model.unembed.W_U.zero_() if not tiny.HAS_BRIDGE else (
            model.unembed.original_component.weight.zero_()
        )
    (table,) = rows(model, backward_lens_summary.having(matrices="W_out"), [prompt])
    assert table["rank"].isna().all() and (table["norm"] == 0).all()
    (why,) = refusals(native, backward_lens_summary.having(matrices="W_X"))
    assert "'W_X' is no matrix" in why


@every
def test_reversed_attention_summary_equals_autograd(name):
    """R = s A o (E - rowsum(A o E)), with E the gradient at the attention."""
    model = decoder(name)
    if not pattern_is_used(ModelView(model)):
        pytest.skip("this model only shows its attention, so no gradient comes to it")
    scale = 10**-0.5 if name == "gemma2" else model.cfg.d_head**-0.5
    prompts = prompts_of(model)
    for prompt, table in zip(
        prompts, rows(model, reversed_attention_summary, prompts), strict=True
    ):
        _, target = cache_of(model, prompt)
        hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)]
        found = gradients(model, prompt, target, hooks)
        for row in table.itertuples():
            A, E = (x[row.head].double() for x in found[hooks[row.layer]])
            R = scale * A * (E - (A * E).sum(-1, keepdim=True))
            close(row.norm, R.norm())
            close(row.forward_norm, A.norm())


@every
def test_reversed_attention_summary_equals_the_map(name):
    model = decoder(name)
    prompt = prompts_of(model)[0]
    table = rows(model, reversed_attention_summary, [prompt])[0]
    own = vt.reversed_attention(model, list(prompt.token_ids), prompt.target)
    close(table["norm"].to_numpy().reshape(2, 4), own.norms)
    close(table["forward_norm"].to_numpy().reshape(2, 4), own.forward_norms)


def test_models_without_mlp_have_the_matrices_of_attention():
    model = decoder("attn-only")
    (table, *_) = rows(model, backward_lens_summary)
    assert table["matrix"].tolist() == ["W_Q", "W_K", "W_V", "W_O"] * 2
    for study in (observed_heads, head_effects, reversed_attention_summary):
        assert len(rows(model, study)[0]) == 8
    (why,) = refusals(model, backward_lens_summary.having(matrices="W_out"))
    assert "has no W_out" in why


def test_the_model_is_afterwards_without_gradients(native):
    rows(native, backward_lens_summary)
    rows(native, reversed_attention_summary)
    assert all(parameter.grad is None for parameter in native.parameters())


def test_all_are_registered_and_only_those_of_the_paper_say_so():
    known = studies()
    paper = {
        "ln_filter", "ln_top_tokens", "ln_losers", "ln_without_lnf", "regularisation_neurons",
        "neuron_entropy_norm", "outlier_entries",
    }  # fmt: skip
    others = {"observed_heads", "head_effects", "backward_lens_summary",
              "reversed_attention_summary"}  # fmt: skip
    assert paper | others <= known.keys()
    assert all(known[name].paper and known[name].source.startswith("VISIT") for name in paper)
    assert not any(known[name].paper for name in others)
    assert all(known[name].by for name in paper | others)
    assert all(known[name].function.__doc__ for name in paper | others)
