"""Every architecture: what the package says of it beside what the model itself computes.

The references are the Hugging Face model and its modules, which the package does not read.
"""

import functools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT
from visit_tl import ModelError, ModelView, Trace, flow_graph
from visit_tl.lens import readout as lens
from visit_tl.lens.unembed import logits as logits_of
from visit_tl.model import components
from visit_tl.xray import conservation as conserve

pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges to open these with")

READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
# Of 10 tokens: the first, one past a window of 3, and the last.
POSITIONS = [0, 3, -1]
# Largest relative error of any law over every architecture and all 10 positions: 2.9e-7 in float32.
MEASURED = 1e-6
# The same over 316 random shapes of `test_random_shapes_conserve` in both families: 5.5e-7.
MEASURED_OVER_SHAPES = 2e-6


def having(*traits, without=()):
    return [
        name
        for name in READABLE
        if set(traits) <= ARCHITECTURES[name].traits
        and not set(without) & ARCHITECTURES[name].traits
    ]


@functools.cache
def opened(name):
    """The view, and the Hugging Face model's logits from before the bridge wrapped it."""
    architecture = ARCHITECTURES[name]
    hf = architecture.hf_model()
    view_ids = torch.tensor([tiny.tokenizer()(PROMPT)["input_ids"]])
    ids = view_ids if view_ids[0, 0] == 0 else torch.cat((torch.tensor([[0]]), view_ids), 1)
    with torch.no_grad():
        expected = hf(ids).logits[0]
    return ModelView(architecture.bridge(hf)), tuple(ids[0].tolist()), expected


def traced(name, position):
    view, ids, _ = opened(name)
    return view, Trace.run(view, view.tokens.encode(list(ids), None), position=position)


@functools.cache
def cache_of(name):
    view, ids, _ = opened(name)
    with torch.no_grad():
        return view.model.run_with_cache(torch.tensor([ids]))[1]


# --- conservation --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", READABLE)
def test_every_law_holds_in_every_block(name, position):
    view, ids, _ = opened(name)
    graph = flow_graph(view.model, list(ids), position=position)
    assert set(graph.residual_error) == {0, 1}
    assert max(graph.residual_error.values()) < MEASURED < conserve.tolerance(view)
    assert "logits" in graph  # so that check_logits has passed as well


@pytest.mark.parametrize("name", READABLE)
def test_a_prompt_of_one_token_and_one_block_conserve(name):
    view, _, _ = opened(name)
    assert max(flow_graph(view.model, [0]).residual_error.values()) < MEASURED
    for layer in (0, 1):
        graph = flow_graph(view.model, [3, 1, 2], layers=layer)
        assert set(graph.residual_error) == {layer}


# --- the lens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READABLE)
def test_the_lens_of_the_last_state_is_the_logits_of_the_model(name):
    view, _, expected = opened(name)
    for position in POSITIONS:
        trace = traced(name, position)[1]
        state = trace.layers[1].resid_post[None]
        ours = logits_of(view, view.final_norm(state))[0]
        torch.testing.assert_close(ours, expected[position], atol=1e-5, rtol=1e-4)
        readout = lens.read(view, state, k=3)
        probs = expected[position].softmax(-1)
        assert readout.top_ids[0].tolist() == probs.topk(3).indices.tolist()
        torch.testing.assert_close(readout.top_probs[0], probs.topk(3).values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", having("logit-transform"))
def test_the_scale_or_softcap_of_the_logits_is_not_trivial(name):
    view, _, _ = opened(name)
    transform = view.output_transform
    assert transform is not None
    expected = 3 * math.tanh(10 / 3) if name == "gemma2" else 10 * 0.25
    probe = torch.tensor([[10.0]])
    assert float(transform(probe.clone())) == pytest.approx(expected, rel=1e-5)


# --- parts, by brute force -----------------------------------------------------------------------


def gain(post_norm, sub_block):
    """What a post-norm (RMS) multiplies each entry by; 1 where there is none.

    A constant row of the same mean square has the same scale, and no entry near 0 to divide by.
    """
    if post_norm is None:
        return 1.0
    size = float(sub_block.pow(2).mean().sqrt())
    with torch.no_grad():
        return post_norm.original_component(torch.full_like(sub_block[None], size))[0] / size


def through(linear, rows):
    """Rows through a linear module of the model, less its bias."""
    with torch.no_grad():
        zero = linear(torch.zeros_like(rows[:1]))
        return torch.cat([linear(row[None]) - zero for row in rows])


@pytest.mark.parametrize("position", [3, -1])
@pytest.mark.parametrize("name", READABLE)
def test_heads_values_and_neurons_are_what_a_loop_through_the_modules_gives(name, position):
    view, trace = traced(name, position)
    for layer, t in trace.layers.items():
        block, w = view.model.blocks[layer], components.stream_weights(view, layer, t)
        o = block.attn.o.original_component
        flat = torch.zeros(view.n_heads, view.n_heads * view.d_head)
        at = [slice(h * view.d_head, (h + 1) * view.d_head) for h in range(view.n_heads)]
        for h in range(view.n_heads):
            flat[h, at[h]] = t.z[h]
        with torch.no_grad():
            scale = gain(getattr(block, "ln1_post", None), o(t.z.reshape(1, -1))[0])
        looped = through(o, flat) * scale
        torch.testing.assert_close(
            components.head_outputs(t.z, w.W_O), looped, atol=1e-5, rtol=1e-4
        )
        for h in range(view.n_heads):
            values = t.values[:, view.kv_head(t.values.shape[1])[h]]
            rows = torch.zeros(len(values), flat.shape[1])
            rows[:, at[h]] = values
            ours = components.memory_values(values, w.W_O[h].expand(len(values), -1, -1))
            torch.testing.assert_close(ours, through(o, rows) * scale, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(t.pattern[h] @ ours, looped[h], atol=1e-5, rtol=1e-4)
        out = block.mlp.out.original_component
        with torch.no_grad():
            scale = gain(getattr(block, "ln2_post", None), out(t.mlp_post[None])[0])
        looped = through(out, torch.diag(t.mlp_post)) * scale
        torch.testing.assert_close(t.mlp_post[:, None] * w.W_out, looped, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READABLE)
def test_columns_of_W_in_give_the_pre_activation_by_a_loop(name):
    view, trace = traced(name, -1)
    for layer, t in trace.layers.items():
        W_in, bias = view.weights(layer).W_in, view.model.blocks[layer].mlp.b_in
        for n in range(W_in.shape[1]):
            pre = t.mlp_in @ W_in[:, n] + (0 if bias is None else bias[n])
            torch.testing.assert_close(pre, t.mlp_pre[n], atol=1e-5, rtol=1e-4)


# --- grouped heads -------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [2, -1])
@pytest.mark.parametrize("name", having("grouped"))
def test_grouped_heads_are_the_same_weights_with_a_key_and_value_head_each(name, position):
    view, ids, expected = opened(name)
    architecture = ARCHITECTURES[name]
    wide = architecture.bridge(architecture.expanded())
    shared = flow_graph(view.model, list(ids), position=position)
    alone = flow_graph(wide, list(ids), position=position)
    assert view.weights(0).W_K.shape[0] < ModelView(wide).weights(0).W_K.shape[0] == view.n_heads
    assert [n.id for n in shared] == [n.id for n in alone]
    for a, b in zip(shared, alone, strict=True):
        assert [t.id for t in a.top + a.bottom] == [t.id for t in b.top + b.bottom], a.id
        assert a.rank == b.rank and a.token == b.token
        assert (a.prob, a.norm, a.entropy) == pytest.approx((b.prob, b.norm, b.entropy), abs=1e-4)
        assert a.coefficient == (
            None if b.coefficient is None else pytest.approx(b.coefficient, abs=1e-4)
        )
    assert [(e.source, e.target, e.kind) for e in shared.edges] == [
        (e.source, e.target, e.kind) for e in alone.edges
    ]
    assert [e.score for e in shared.edges] == pytest.approx(
        [e.score for e in alone.edges], abs=1e-4
    )


# --- scores --------------------------------------------------------------------------------------


def scale_of(name, view):
    if "unscaled" in ARCHITECTURES[name].traits:
        return 1.0
    return ARCHITECTURES[name].settings.get("query_pre_attn_scalar", view.d_head) ** -0.5


def slopes(n_heads):
    """ALiBi for a power of two of heads: 2^(-8/n), 2^(-16/n) ... (Press et al., 2022)."""
    return torch.tensor([2.0 ** (-8 * (h + 1) / n_heads) for h in range(n_heads)])


@functools.cache
def falcon_times(name):
    """How often Falcon's eager attention adds ALiBi: with transformers 5 it is in the mask as well.

    That is a fault of that release, but it is what the model computes. Nothing but once and twice
    is accepted, measured as the step between two keys of one head, less their products.
    """
    view, trace = traced(name, -1)
    scores = cache_of(name)["blocks.0.attn.hook_attn_scores"][0, 0, -1]
    t = trace.layers[0]
    rest = scores - t.keys[:, 0] @ t.query[0] * scale_of(name, view)
    times = float(rest[1] - rest[0]) / (float(slopes(view.n_heads)[0]) * scale_of(name, view))
    assert times == pytest.approx(round(times), abs=1e-4)
    assert round(times) in (1, 2)
    return round(times)


def scores_by_keys(name, view, layer, t):
    """k W_Q^T . x + k . b_Q for each head and key, with all that the model does to it."""
    w, attn = view.weights(layer), view.model.blocks[layer].attn
    kv = view.kv_head(t.keys.shape[1])
    rows = []
    for h in range(view.n_heads):
        keys = t.keys[:, kv[h]]
        norm = t.query_norm
        if norm is not None:
            norm = type(norm)(norm.gain[h], norm.centred, norm.bias)
        W_Q = w.W_Q[h].expand(len(keys), -1, -1)
        raw = components.key_readings(keys, W_Q, t.rotation, norm) @ t.attn_in
        carried = keys if t.rotation is None else t.rotation.transpose(keys)
        if norm is not None:
            if norm.bias is not None:
                raw = raw + carried @ norm.bias
            carried = norm.transpose(carried)
        bias = attn.b_Q
        rows.append(raw if bias is None else raw + carried @ bias.reshape(view.n_heads, -1)[h])
    return finished(name, view, torch.stack(rows))


def finished(name, view, raw):
    """Scale, softcap and ALiBi, as each architecture orders them."""
    traits, scale = ARCHITECTURES[name].traits, scale_of(name, view)
    if "alibi" in traits:
        alibi = slopes(view.n_heads)[:, None] * torch.arange(raw.shape[1])
        # Falcon scales the sum, BLOOM the product only.
        times = falcon_times(name) * scale if name.startswith("falcon") else 1
        return raw * scale + alibi * times
    if "score-softcap" in traits:
        cap = ARCHITECTURES[name].settings["attn_logit_softcapping"]
        return torch.tanh(raw * scale / cap) * cap
    return raw * scale


def visible(name, layer, p, n):
    """The keys that the position may look at: none ahead, and in local blocks the last three."""
    j = torch.arange(n)
    local = {"gpt-neo": (1,), "mistral": (0, 1), "gemma2": (0,), "gemma3": (0,)}.get(name, ())
    return (j <= p) & ((j > p - 3) if layer in local else True)


def score_row(name, layer, p):
    """hook_attn_scores; None where a bridge fires it with the finished pattern (eager wrappers)."""
    row = cache_of(name)[f"blocks.{layer}.attn.hook_attn_scores"][0, :, p]
    pattern = cache_of(name)[f"blocks.{layer}.attn.hook_pattern"][0, :, p]
    return None if torch.equal(row, pattern) else row


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", READABLE)
def test_key_times_state_is_the_score_at_every_distance(name, position):
    """Accounted for: query bias, query and key norms, rotary angles, scale, softcap, ALiBi, masks.

    Masked scores are compared as a set of positions: the model holds -inf or the least float there.
    ALiBi is compared up to a constant of the row, which the softmax does not see.
    """
    view, trace = traced(name, position)
    p, n = trace.position, len(trace.prompt.ids)
    for layer, t in trace.layers.items():
        ours = scores_by_keys(name, view, layer, t)
        allowed = visible(name, layer, p, n)
        assert ((t.pattern > 0) == allowed).all()
        hidden = ours.masked_fill(~allowed, -torch.inf)
        torch.testing.assert_close(hidden.softmax(-1), t.pattern, atol=1e-5, rtol=1e-4)
        scores = score_row(name, layer, p)
        if scores is None:
            continue
        assert (scores[:, ~allowed] < -1e30).all()
        ours, scores = ours[:, allowed], scores[:, allowed]
        if "alibi" in ARCHITECTURES[name].traits:
            ours, scores = ours - ours[:, -1:], scores - scores[:, -1:]
        torch.testing.assert_close(ours, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", READABLE)
def test_query_times_state_is_the_score_of_the_own_position(name, position):
    """q W_K^T . x + q . b_K, at a distance of 0, where a rotation changes nothing.

    Held to the keys' reading above, which was held to the model; so also where no score is hooked.
    """
    view, trace = traced(name, position)
    for layer, t in trace.layers.items():
        w, attn = view.weights(layer), view.model.blocks[layer].attn
        kv = view.kv_head(w.W_K.shape[0])
        raw = components.query_readings(t.query, w.W_K[kv], t.key_norm) @ t.attn_in
        carried = t.query if t.key_norm is None else t.key_norm.transpose(t.query)
        if attn.b_K is not None:
            raw = raw + (carried * attn.b_K.reshape(len(w.W_K), -1)[kv]).sum(-1)
        if t.key_norm is not None and t.key_norm.bias is not None:
            raw = raw + (t.query * t.key_norm.bias).sum(-1)
        n = len(trace.prompt.ids)
        ours = finished(name, view, raw[:, None].expand(-1, n))[:, trace.position]
        theirs = scores_by_keys(name, view, layer, t)[:, trace.position]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# --- shape of the graph --------------------------------------------------------------------------


@pytest.mark.parametrize("name", READABLE)
def test_parallel_blocks_have_no_state_between_attention_and_mlp(name):
    view, ids, _ = opened(name)
    graph = flow_graph(view.model, list(ids))
    parallel = "parallel" in ARCHITECTURES[name].traits
    assert view.parallel == parallel
    assert bool(graph.of_kind("resid_mid")) != parallel
    into = {str(e.source) for e in graph.edges if str(e.target) == "L0.mlp_in"}
    assert into == {"L0.resid_pre" if parallel else "L0.resid_mid"}


@pytest.mark.parametrize("name", having("post-norm"))
def test_parts_after_a_post_norm_sum_to_what_is_added_and_before_it_do_not(name):
    view, trace = traced(name, -1)
    for layer, t in trace.layers.items():
        w, bare = components.stream_weights(view, layer, t), view.weights(layer)
        added = t.resid_mid - t.resid_pre
        heads = components.head_outputs(t.z, w.W_O).sum(0)
        rows = (t.z.flatten()[:, None] * components.attn_neurons(w.W_O)).sum(0)
        for total in (heads, rows):
            total = total if w.b_O is None else total + w.b_O
            torch.testing.assert_close(total, added, atol=1e-5, rtol=1e-4)
        neurons = t.mlp_post @ w.W_out + (0 if w.b_out is None else w.b_out)
        torch.testing.assert_close(neurons, t.resid_post - t.resid_mid, atol=1e-5, rtol=1e-4)
        before = components.head_outputs(t.z, bare.W_O).sum(0)
        assert conserve.relative(before, added) > 0.1


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.experts])
def test_what_needs_one_mlp_is_refused_for_experts_by_that_name(name):
    with pytest.raises(ModelError, match=r"of blocks\.0, blocks\.1 of .* is a mixture of experts"):
        ModelView(ARCHITECTURES[name].bridge()).require_neurons("this")


# --- random shapes -------------------------------------------------------------------------------

shapes = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 3),
        "groups": st.integers(1, 3),
        "per_group": st.integers(1, 3),
        "d_head": st.sampled_from([2, 4, 6, 10]),
        "d_mlp": st.integers(1, 33),
        "seed": st.integers(0, 2**20),
        "position": st.integers(-5, 4),
    }
)


def random_gpt2(layers, heads, d_head, d_mlp, seed):
    return tiny.gpt2(seed, n_layer=layers, n_head=heads, n_embd=heads * d_head, n_inner=d_mlp)


def random_llama(layers, groups, heads, d_head, d_mlp, seed):
    return tiny.llama(
        seed,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        hidden_size=heads * d_head,
        intermediate_size=d_mlp,
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
@given(shape=shapes)
def test_random_shapes_conserve(family, shape):
    heads = shape["groups"] * shape["per_group"]
    common = (heads, shape["d_head"], shape["d_mlp"], shape["seed"])
    if family == "gpt2":
        model = random_gpt2(shape["layers"], *common)
    else:
        model = random_llama(shape["layers"], shape["groups"], *common)
    graph = flow_graph(model, [0, 5, 1, 59, 12], position=shape["position"])
    assert len(graph.residual_error) == shape["layers"]
    assert max(graph.residual_error.values()) < MEASURED_OVER_SHAPES < 1e-4
