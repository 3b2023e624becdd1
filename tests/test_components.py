"""Each einsum beside a loop that does the same, and the conservation laws on every model."""

import pytest
import torch

from tests import tiny
from visit_tl import DecompositionError, ModelView, Trace
from visit_tl.model import components
from visit_tl.xray import conservation as conserve

PROMPT = "a b c d e ab cd"


@pytest.fixture(params=[0, 3, -1])
def traced(model, request):
    view = ModelView(model)
    prompt = view.tokens.encode(PROMPT, None)
    return view, Trace.run(view, prompt, position=request.param)


def cache_of(view, trace):
    return view.model.run_with_cache(torch.tensor([trace.prompt.ids]))[1]


def test_head_outputs_equal_a_loop_over_heads(traced):
    view, trace = traced
    for layer, t in trace.layers.items():
        w = view.weights(layer)
        looped = torch.stack([t.z[h] @ w.W_O[h] for h in range(view.n_heads)])
        torch.testing.assert_close(components.head_outputs(t.z, w.W_O), looped)


def test_memory_values_times_attention_are_the_head_by_loops(traced):
    view, trace = traced
    for layer, t in trace.layers.items():
        w = view.weights(layer)
        group = view.n_heads // t.values.shape[1]
        for h in range(view.n_heads):
            stack = t.values[:, h // group]
            values = components.memory_values(stack, w.W_O[h].expand(len(stack), -1, -1))
            head = sum(t.pattern[h, j] * values[j] for j in range(len(values)))
            torch.testing.assert_close(head, t.z[h] @ w.W_O[h], atol=1e-5, rtol=1e-5)


def scores_of(view, layer, trace):
    """hook_attn_scores of the query row; the native source fires that hook with the pattern."""
    if view.name == "native":
        return None
    return cache_of(view, trace)[f"blocks.{layer}.attn.hook_attn_scores"][0, :, trace.position]


def test_query_times_state_is_the_score_that_the_model_used(traced):
    """q W_K^T . x + q . b_K = score x sqrt(d_head) at the query's own position: no rotation."""
    view, trace = traced
    for layer, t in trace.layers.items():
        scores = scores_of(view, layer, trace)
        if scores is None:
            return
        w = view.weights(layer)
        kv = view.kv_head(w.W_K.shape[0])
        readings = components.query_readings(t.query, w.W_K[kv])
        bias = view.model.blocks[layer].attn.b_K
        extra = 0 if bias is None else (t.query * bias[kv]).sum(-1)
        ours = (readings @ t.attn_in + extra) / view.d_head**0.5
        torch.testing.assert_close(ours, scores[:, trace.position], atol=1e-4, rtol=1e-4)


def test_key_times_state_is_the_score_that_the_model_used_at_every_distance(traced):
    """k W_Q^T . x + k . b_Q = score x sqrt(d_head): the key stands in the query's frame."""
    view, trace = traced
    p = trace.position
    for layer, t in trace.layers.items():
        w = view.weights(layer)
        kv = view.kv_head(w.W_K.shape[0])
        scores = scores_of(view, layer, trace)
        bias = view.model.blocks[layer].attn.b_Q
        for h in range(view.n_heads):
            keys = t.keys[: p + 1, kv[h]]
            readings = components.key_readings(keys, w.W_Q[h].expand(len(keys), -1, -1), t.rotation)
            turned = keys if t.rotation is None else t.rotation.transpose(keys)
            extra = 0 if bias is None else turned @ bias[h]
            ours = (readings @ t.attn_in + extra) / view.d_head**0.5
            torch.testing.assert_close(
                ours.softmax(-1), t.pattern[h, : p + 1], atol=1e-5, rtol=1e-4
            )
            if scores is not None:
                torch.testing.assert_close(ours, scores[h, : p + 1], atol=1e-4, rtol=1e-4)


def test_neurons_times_activation_and_b_out_are_mlp_out_by_a_loop(traced):
    view, trace = traced
    for layer, t in trace.layers.items():
        w = view.weights(layer)
        total = torch.zeros(view.d_model) if w.b_out is None else w.b_out.clone()
        for n in range(len(t.mlp_post)):
            total = total + t.mlp_post[n] * w.W_out[n]
        torch.testing.assert_close(total, t.mlp_out, atol=1e-5, rtol=1e-5)


def test_keys_of_neurons_give_the_pre_activation(traced):
    view, trace = traced
    for layer, t in trace.layers.items():
        bias = view.model.blocks[layer].mlp.b_in
        pre = t.mlp_in @ view.weights(layer).W_in + (0 if bias is None else bias)
        torch.testing.assert_close(pre, t.mlp_pre, atol=1e-5, rtol=1e-5)


def test_attn_neurons_are_the_rows_of_W_O_in_the_order_of_the_concatenated_heads(traced):
    view, trace = traced
    w = view.weights(0)
    rows = components.attn_neurons(w.W_O)
    for h in range(view.n_heads):
        for i in range(view.d_head):
            torch.testing.assert_close(rows[h * view.d_head + i], w.W_O[h, i])


def test_every_block_conserves_and_reports_a_small_error(traced):
    view, trace = traced
    for layer, t in trace.layers.items():
        assert conserve.check_layer(view, layer, t, view.weights(layer)) < 1e-5
    conserve.check_logits(view, trace, trace.layers[1].resid_post)


@pytest.mark.parametrize(
    ("field", "law"),
    [
        ("pattern", "memory values x attention = head"),
        ("attn_out", "heads"),
        ("mlp_post", "neurons"),
        ("resid_post", "resid_post"),
        ("resid_pre", "resid_"),
    ],
)
def test_a_part_that_does_not_belong_is_named(field, law, gpt2_trace):
    from dataclasses import replace

    view, trace = gpt2_trace
    t = trace.layers[1]
    wrong = replace(t, **{field: getattr(t, field) * 1.01})
    with pytest.raises(DecompositionError, match=rf"block 1 of gpt2 .*{law}.* at blocks\.1\."):
        conserve.check_layer(view, 1, wrong, view.weights(1))


def test_logits_that_are_not_the_lens_are_refused(gpt2_trace):
    view, trace = gpt2_trace
    with pytest.raises(DecompositionError, match="does not give the model's own prediction"):
        conserve.check_logits(view, trace, trace.layers[0].resid_post)


@pytest.fixture(scope="module")
def gpt2_trace():
    view = ModelView(tiny.gpt2())
    return view, Trace.run(view, view.tokens.encode(PROMPT, None))
