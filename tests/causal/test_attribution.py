"""Direct logit attribution beside loops by hand and beside TransformerLens's own."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.architectures import ARCHITECTURES
from visit_tl import DecompositionError, InputError, ModelView, Trace, flow_graph
from visit_tl.causal.attribution.direct import PARTS, attribute, attribute_trace
from visit_tl.causal.attribution.logit_parts import split_transform
from visit_tl.graph.ids import NodeId

IDS = [0, 3, 5, 7, 11]
TARGET, OTHER = 9, 4
READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
needs_bridge = pytest.mark.skipif(
    tiny.RELEASE < (4,), reason="the architectures are opened as the bridges of TransformerLens 4"
)


def reader_of(view, trace, target, against):
    """What turns a vector of the stream into logits, written out entry by entry in float64."""
    x = trace.layers[view.n_layers - 1].resid_post.double()
    norm = view.final_norm
    mean = x.mean() if norm.kind == "LN" else 0.0
    scale = 1.0 if norm.kind == "none" else ((x - mean).pow(2).mean() + norm.eps).sqrt()
    weight = 1.0 if norm.weight is None else norm.weight.double()
    u = view.W_U[:, target].double() - (0 if against is None else view.W_U[:, against].double())

    def read(part):
        part = part.double()
        centred = part - part.mean() if norm.kind == "LN" else part
        return float((centred / scale * weight) @ u)

    return read


@pytest.mark.parametrize("against", [None, OTHER])
def test_every_share_is_what_a_loop_over_the_trace_gives(model, against):
    view = ModelView(model)
    a = attribute(model, IDS, TARGET, against)
    trace = Trace.run(view, view.tokens.encode(IDS, None))
    read = reader_of(view, trace, TARGET, against)
    assert a["L0.resid_pre"] == pytest.approx(read(trace.layers[0].resid_pre), abs=1e-5)
    for layer, t in trace.layers.items():
        w = view.weights(layer)
        groups = view.n_heads // t.values.shape[1]
        for h in range(view.n_heads):
            assert a[f"L{layer}H{h}"] == pytest.approx(read(t.z[h] @ w.W_O[h]), abs=1e-5)
            for j in range(len(IDS)):
                value = t.pattern[h, j] * t.values[j, h // groups] @ w.W_O[h]
                assert a[f"L{layer}H{h}.v{j}"] == pytest.approx(read(value), abs=1e-5)
            for i in range(view.d_head):
                row = t.z[h, i] * w.W_O[h, i]
                entry = h * view.d_head + i
                assert a[f"L{layer}O{entry}"] == pytest.approx(read(row), abs=1e-5)
        for n in range(len(t.mlp_post)):
            neuron = t.mlp_post[n] * w.W_out[n]
            assert a[f"L{layer}N{n}"] == pytest.approx(read(neuron), abs=1e-5)
        for kind in ("attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post"):
            if getattr(t, kind) is not None:
                expected = read(getattr(t, kind))
                assert a[f"L{layer}.{kind}"] == pytest.approx(expected, abs=1e-5)
        for kind in ("b_O", "b_out"):
            bias = getattr(w, kind)
            expected = 0.0 if bias is None else read(bias)
            assert a[f"L{layer}.{kind}"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("position", [0, 2, -1])
def test_the_parts_sum_to_the_models_own_logit_difference(model, position):
    a = attribute(model, IDS, TARGET, OTHER, position=position)
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))[0, position]
    assert a.total == pytest.approx(float(logits[TARGET] - logits[OTHER]), abs=1e-5)
    assert a["logits"] == a.total
    assert a["final_norm"] == pytest.approx(a.total - a.remainder["b_U"], abs=1e-6)
    table = a.to_dataframe()
    assert table["attribution"].sum() == pytest.approx(a.total, abs=1e-5)
    assert table["share"].sum() == pytest.approx(1.0, abs=1e-4)
    assert set(table["kind"]) <= {*PARTS, "remainder"}
    fine = a.to_dataframe("value", "b_O", "neuron", "b_out")["attribution"].sum()
    rest = a["L0.resid_pre"] + sum(a.remainder.values())
    assert fine + rest == pytest.approx(a.total, abs=1e-5)


@needs_bridge
@pytest.mark.parametrize("name", READABLE)
def test_parts_sum_in_every_architecture(name):
    model = ARCHITECTURES[name].bridge()
    a = attribute(model, IDS, TARGET, OTHER)
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))[0, -1]
    assert a.error < 1e-5
    own = float(logits[TARGET] - logits[OTHER])
    assert a.capped == (name == "gemma2")
    if not a.capped:
        assert a.total == pytest.approx(own, abs=1e-4 * max(1.0, abs(own)))
    else:
        # The cap is known, so each logit before it can be told from the one after it.
        cap = float(model.cfg.output_logits_soft_cap)
        before = cap * torch.atanh(logits.double() / cap)
        assert a.total == pytest.approx(float(before[TARGET] - before[OTHER]), abs=1e-4)


@needs_bridge
def test_a_scale_of_the_logits_is_in_every_share():
    own = ARCHITECTURES["cohere"].config().logit_scale
    assert own == 0.25
    assert split_transform(ModelView(ARCHITECTURES["cohere"].bridge())) == (own, None)
    assert split_transform(ModelView(ARCHITECTURES["llama"].bridge())) == (1.0, None)


def test_heads_equal_those_of_transformer_lens():
    model = tiny.gpt2_folded()
    a = attribute(model, IDS, TARGET, OTHER)
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    heads = cache.stack_head_results(layer=-1, pos_slice=-1)
    theirs = cache.logit_attrs(heads, TARGET, OTHER, pos_slice=-1)[:, 0]
    assert torch.allclose(a.heads().flatten(), theirs.detach(), atol=1e-5)
    stack, labels = cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)
    shares = cache.logit_attrs(stack, TARGET, OTHER, pos_slice=-1)[:, 0].tolist()
    ours = [a["L0.resid_pre"]]
    named = dict(zip(labels, shares, strict=True))
    theirs = [named.pop("embed") + named.pop("pos_embed")]
    for label, share in named.items():
        layer, part = label.split("_", 1)
        if part in ("attn_out", "mlp_out"):
            ours.append(a[f"L{layer}.{part}"])
            theirs.append(share)
    assert len(ours) == 5
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_onto_a_graph_every_node_that_writes_has_its_share(model):
    graph = flow_graph(model, IDS, heads=2, values=2, target=TARGET)
    a = attribute(model, graph)
    assert (a.target_id, a.against_id, a.position) == (TARGET, None, 4)
    drawn = a.onto(graph)
    for node in drawn:
        silent = ("attn_in", "query", "head_query", "key", "mlp_in", "neuron_key")
        assert (node.attribution is None) == (node.kind in silent)
        assert node.attribution is None or node.attribution == a[node.id]
    assert [replace(n, attribution=None) for n in drawn] == list(graph)


def test_the_default_target_is_the_prediction(native):
    with torch.no_grad():
        best = int(native(torch.tensor([IDS]))[0, -1].argmax())
    assert attribute(native, IDS).target_id == best


def test_attention_only_blocks_have_no_mlp_share():
    model = tiny.native(attn_only=True)
    a = attribute(model, IDS, TARGET, OTHER)
    assert all(at.neurons is None for at in a.layers)
    assert set(a.to_dataframe()["kind"]) == {"resid_pre", "head", "b_O", "remainder"}
    with pytest.raises(InputError, match=r"L0\.mlp_out adds nothing directly"):
        a["L0.mlp_out"]


def test_refusals_say_what_is_wrong(native):
    a = attribute(native, IDS, TARGET)
    with pytest.raises(InputError, match=r"L0H1\.q adds nothing directly to the logits"):
        a["L0H1.q"]
    with pytest.raises(InputError, match=r"L7H0 is outside layers 0\.\.1"):
        a["L7H0"]
    with pytest.raises(InputError, match=r"L0H9 is not there"):
        a["L0H9"]
    with pytest.raises(InputError, match="the same token"):
        attribute(native, IDS, TARGET, TARGET)
    with pytest.raises(InputError, match="differ in position"):
        a.onto(flow_graph(native, IDS, position=1))
    with pytest.raises(InputError, match="differ in tokens"):
        a.onto(flow_graph(native, [*IDS[:4], 1]))
    with pytest.raises(InputError, match="the graph is of native"):
        attribute(tiny.native(n_layers=3), flow_graph(native, IDS))


def test_a_pass_without_all_blocks_is_refused(native):
    view = ModelView(native)
    trace = Trace.run(view, view.tokens.encode(IDS, None), layers=[1])
    with pytest.raises(InputError, match="all 2 blocks of a forward pass, got 1 blocks"):
        attribute_trace(view, trace)
    whole = replace(Trace.run(view, view.tokens.encode(IDS, None)), logits=None)
    with pytest.raises(InputError, match="got 2 blocks and no logits"):
        attribute_trace(view, whole)


def test_logits_that_the_parts_do_not_give_are_refused(native):
    view = ModelView(native)
    trace = Trace.run(view, view.tokens.encode(IDS, None))
    wrong = trace.logits.clone()
    wrong[TARGET] += 0.01 * wrong.abs().max()
    with pytest.raises(DecompositionError, match=r"the parts of native sum to .* off by"):
        attribute_trace(view, replace(trace, logits=wrong), TARGET, OTHER)


def test_a_node_at_another_position_adds_nothing_directly(native):
    a = attribute(native, IDS, TARGET)
    assert a[NodeId("head", 0, 1, position=4)] == a["L0H1"]
    with pytest.raises(InputError, match="L0H1@2 adds nothing"):
        a[NodeId("head", 0, 1, position=2)]


def test_the_model_is_left_as_it_was(model):
    hooks = [len(p.fwd_hooks) for p in model.hook_dict.values()]
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    attribute(model, IDS, TARGET)
    assert hooks == [len(p.fwd_hooks) for p in model.hook_dict.values()]
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())
