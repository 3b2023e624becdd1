"""Families of decoders that differ from the 21 in one respect: laws, predictions, and twins.

The twins know nothing of TransformerLens: what a block adds to the stream, and where its heads
look, is taken from the Hugging Face model alone.
"""

import functools

import pytest
import torch

import visit_tl as vt
from tests.architectures import FAMILIES
from visit_tl import ModelView, Trace
from visit_tl.model import components

pytest.importorskip("transformer_lens.model_bridge")
transformers = pytest.importorskip("transformers")

IDS = [0, 1, 2, 12, 3, 13, 4]
OTHER = [0, 5, 6, 14, 7, 13, 8]
METRIC = vt.causal.logit_difference(3, 4)
NEW = [name for name, row in FAMILIES.items() if row.traits]
# Where TransformerLens and transformers do not know a family, there is nothing to test.
MISSING = [name for name, row in FAMILIES.items() if not hasattr(transformers, row.classes[1])]


@functools.cache
def opened(name):
    """The Hugging Face model's own run, and the same model as a bridge."""
    if name in MISSING:
        pytest.skip(f"this transformers has no {FAMILIES[name].classes[1]}")
    hf = FAMILIES[name].hf_model()
    with torch.no_grad():
        run = hf(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True)
    try:
        return run, FAMILIES[name].bridge(hf)
    except ValueError as error:  # TransformerLens names the families that it has
        pytest.skip(str(error)[:100])


def metric_of(logits):
    return logits[0, -1, 3] - logits[0, -1, 4]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_law_holds_and_patching_runs_rows_alone(name):
    found = vt.check(opened(name)[1])
    assert found.exact, found.verdict
    assert found.max_error < 1e-5
    assert found.patching.startswith("rows")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prediction_is_the_hugging_face_model_s_own(name):
    run, bridge = opened(name)
    graph = vt.flow_graph(bridge, IDS)
    trace = Trace.run(ModelView(bridge), ModelView(bridge).encode(IDS, None))
    torch.testing.assert_close(trace.logits, run.logits[0, -1], rtol=1e-4, atol=1e-4)
    assert graph.nodes[-1].kind == "logits"


@pytest.mark.parametrize("name", NEW)
def test_memories_and_neurons_sum_to_what_the_block_adds(name):
    """Multipliers, norms of values and of heads: against the hidden states of Hugging Face."""
    run, bridge = opened(name)
    view = ModelView(bridge)
    trace = Trace.run(view, view.encode(IDS, None))
    # The last hidden state is after the final norm, so the last block is left out.
    for layer in range(view.n_layers - 1):
        t = trace.layers[layer]
        before, after = run.hidden_states[layer][0, -1], run.hidden_states[layer + 1][0, -1]
        torch.testing.assert_close(t.resid_pre, before, rtol=1e-4, atol=1e-5)
        w = components.stream_weights(view, layer, t)
        added = torch.zeros_like(before)
        for h in range(view.n_heads):
            group = h * t.values.shape[1] // view.n_heads
            for j in range(len(IDS)):
                value = t.values[j, group]
                value = value if t.heads_norm is None else value * t.heads_norm.gain[h]
                attention = run.attentions[layer][0, h, -1, j]
                added = added + attention * (value @ w.W_O[h])
        for bias in (w.b_O, w.b_out):
            added = added if bias is None else added + bias
        for i in range(len(t.mlp_post)):
            added = added + t.mlp_post[i] * w.W_out[i]
        torch.testing.assert_close(added, after - before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NEW)
def test_key_readings_give_the_attention_of_the_hugging_face_model(name):
    """log A_j - log A_i = s (k_j - k_i) W_Q^T . ln1(x), for rotations and norms in any order."""
    run, bridge = opened(name)
    view = ModelView(bridge)
    trace = Trace.run(view, view.encode(IDS, None))
    for layer, t in trace.layers.items():
        if view.attention_bias(layer, "b_Q") is not None:
            continue  # its share is no reading of the stream
        if t.latent is not None and bool(t.latent[2].any()):
            continue
        weights = components.stream_weights(view, layer, t)
        scaling = bridge.blocks[layer].attn.original_component.scaling
        for h in range(view.n_heads):
            attention = run.attentions[layer][0, h, -1]
            seen = (attention > 1e-6).nonzero().flatten()
            group = h * t.keys.shape[1] // view.n_heads
            norm = t.query_norm
            if norm is not None:
                norm = type(norm)(norm.gain[h], norm.centred, norm.bias, norm.frame)
            rows = components.key_readings(
                t.keys[seen, group], weights.W_Q[h].expand(len(seen), -1, -1), t.rotation, norm
            )
            scores = scaling * (rows @ t.attn_in)
            logs = attention[seen].log()
            torch.testing.assert_close(scores - scores[0], logs - logs[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NEW)
def test_scores_gradients_and_logits_come_apart(name):
    """Each of these calls measures its own laws, and raises where one fails."""
    bridge = opened(name)[1]
    for layer in range(2):
        vt.causal.attention_attribution(bridge, IDS, f"L{layer}H1", -1, len(IDS) - 2)
    vt.causal.attribute(bridge, IDS, 3)
    vt.backward_lens(bridge, IDS, target=3)
    vt.reversed_attention(bridge, IDS, target=3)


@pytest.mark.parametrize("name", NEW)
def test_effects_of_heads_and_memories_are_those_of_plain_hooks(name):
    bridge = opened(name)[1]
    view = ModelView(bridge)
    memory = "L1H2.v5" if "latent" not in FAMILIES[name].traits else "L1H2"
    found = vt.causal.effects(
        bridge, IDS, METRIC, nodes=["L0H1", memory], corrupted=OTHER, verbose=False
    )
    hook_z = "blocks.0.attn.hook_z"
    other = {}
    bridge.run_with_hooks(
        torch.tensor([OTHER]),
        fwd_hooks=[(hook_z, lambda z, hook: other.update(z=z.clone()))],
    )

    def to_other(z, hook):
        z = z.clone()
        heads, new = z.flatten(2).unflatten(2, (4, -1)), other["z"].flatten(2).unflatten(2, (4, -1))
        heads[0, -1, 1] = new[0, -1, 1]
        return heads.view(z.shape)

    with torch.no_grad():
        clean = metric_of(bridge(torch.tensor([IDS])))
        patched = metric_of(bridge.run_with_hooks(torch.tensor([IDS]), [(hook_z, to_other)]))
    assert found["L0H1"].value == pytest.approx(float(patched - clean), abs=1e-4)
    assert found[memory].value != 0
    edges = vt.causal.edge_effects(
        bridge, IDS, METRIC, senders=["L0H1"], corrupted=OTHER, verbose=False
    )
    assert len(edges.to_dataframe()) and view.n_layers == 2


@pytest.mark.parametrize("name", ["granite", "hunyuan", "nanochat", "bitnet"])
def test_under_segments_too(name):
    graph = vt.flow_graph(opened(name)[1], IDS, segments=[(1, 5)], position=2)
    assert graph.segments == ((1, 5),)


def test_a_multiplier_belongs_to_what_is_written_and_to_the_lens():
    """Granite by hand: each head of the Hugging Face model alone, times 0.22; logits over 2."""
    hf = FAMILIES["granite"].hf_model()
    caught = {}
    layer = hf.model.layers[1]
    layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a: caught.update(z=a[0]))
    with torch.no_grad():
        logits = hf(torch.tensor([IDS])).logits[0, -1]
    z, weight = caught["z"][0, -1], layer.self_attn.o_proj.weight.detach()
    bridge = FAMILIES["granite"].bridge(hf)
    graph = vt.flow_graph(bridge, IDS)
    view = ModelView(bridge)
    assert view.multipliers == dict.fromkeys(
        [(i, n) for i in range(2) for n in ("ln1_post", "ln2_post")], 0.22
    )
    for h in range(4):
        alone = torch.zeros_like(z)
        alone[4 * h : 4 * h + 4] = z[4 * h : 4 * h + 4]
        written = 0.22 * (weight @ alone)
        assert graph[f"L1H{h}"].norm == pytest.approx(float(written.norm()), rel=1e-4)
    shares = vt.causal.attribute(bridge, IDS, 3)
    assert shares.total == pytest.approx(float(logits[3]), rel=1e-4)


@pytest.mark.parametrize("name", ["youtu", "youtu-plain", "youtu-one-step"])
def test_latent_attention_by_hand(name):
    """Values and queries of each head from the latents of the Hugging Face modules, one by one."""
    run, bridge = opened(name)
    hf = FAMILIES[name].hf_model()
    view = ModelView(bridge)
    trace = Trace.run(view, view.encode(IDS, None))
    for layer, t in trace.layers.items():
        attn, norm = hf.model.layers[layer].self_attn, hf.model.layers[layer].input_layernorm
        with torch.no_grad():
            x = norm(run.hidden_states[layer][0])
            latent = attn.kv_a_layernorm(attn.kv_a_proj_with_mqa(x)[:, :6])
            both = attn.kv_b_proj(latent).view(len(IDS), 4, 8)
            if attn.q_lora_rank is None:
                q = attn.q_proj(x)
            else:
                q = attn.q_b_proj(attn.q_a_layernorm(attn.q_a_proj(x)))
        torch.testing.assert_close(t.values, both[..., 4:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(t.keys[..., :4], both[..., :4], rtol=1e-4, atol=1e-5)
        # The part without positions comes first, and is the same in every frame.
        q = q.view(len(IDS), 4, 8)[-1]
        torch.testing.assert_close(t.query[:, :4], q[:, :4], rtol=1e-4, atol=1e-5)
        W_Q, W_K, b_Q, b_K = t.latent
        mine = torch.einsum("d,hdo->ho", t.attn_in, W_Q) + b_Q
        torch.testing.assert_close(mine, t.query, rtol=1e-4, atol=1e-5)
        own = torch.einsum("d,hdo->ho", t.attn_in, W_K) + b_K
        torch.testing.assert_close(t.rotation.forward(own), t.keys[-1], rtol=1e-4, atol=1e-5)


def test_what_needs_matrices_of_queries_and_keys_is_refused_for_latent_attention():
    bridge = opened("youtu")[1]
    with pytest.raises(vt.ModelError, match="needs W_Q, W_K and W_V, and blocks.0 of tiny-youtu"):
        vt.circuits.composition_scores(bridge, verbose=False)
    with pytest.raises(vt.InputError, match="has no W_Q; it has W_in"):
        vt.backward_lens(bridge, IDS, target=3, matrices=["W_Q"])
    found = vt.causal.effects(
        bridge, IDS, METRIC, nodes=["L0H1", "L0H1.v2"], corrupted=OTHER, verbose=False
    )
    assert "makes values from a compressed state" in str(found.left_out)


def test_composition_with_norms_after_the_rotation_is_refused():
    with pytest.raises(vt.ModelError, match="after their rotation"):
        vt.circuits.composition_scores(opened("hunyuan")[1], verbose=False)
    vt.circuits.composition_scores(opened("nanochat")[1], verbose=False)  # norms without a gain
