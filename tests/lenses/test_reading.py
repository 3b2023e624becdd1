"""What is read through a lens, beside TransformerLens's own reading and products by hand."""

import functools

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT
from tests.conftest import made
from tests.features.tiny_modules import module
from tests.lenses.made_lenses import affine, assert_reads, distribution, matrices
from visit_tl import InputError, ModelView, NodeId, Trace
from visit_tl.lenses import Lens

READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]


@functools.cache
def bridge(name):
    return ARCHITECTURES[name].bridge()


def jacobian_lens(model):
    tools = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(tools, "JacobianLens"):
        pytest.skip("JacobianLens came with TransformerLens 4")
    d_model, n_layers = model.cfg.d_model, model.cfg.n_layers
    return tools.JacobianLens(matrices(d_model, n_layers - 1), n_prompts=1, d_model=d_model)


@pytest.mark.parametrize("name", READABLE)
def test_states_read_as_transformer_lens_reads_them_at_every_layer_and_position(name):
    if not tiny.HAS_BRIDGE:
        pytest.skip("TransformerLens 2.x has no bridge")
    if tiny.RELEASE < (4,):
        pytest.skip("JacobianLens came with TransformerLens 4")
    model = bridge(name)
    theirs = jacobian_lens(model)
    table = vt.lens_table(model, PROMPT, lens=theirs, k=5)
    ids = torch.tensor([model.tokenizer(PROMPT, add_special_tokens=False).input_ids])
    ids = torch.cat([torch.zeros(1, len(table.tokens) - ids.shape[1], dtype=torch.long), ids], 1)
    read = theirs.readout(model, ids, return_full_logits=True)
    for layer, logits in read.lens_logits.items():
        for position, row in enumerate(logits):
            target = table["L1.resid_post"].top[0].id
            assert_reads(table[f"L{layer}.resid_post@{position}"], row.double().softmax(-1), target)


@pytest.mark.parametrize("name", ["native", "gpt2", "llama"])
def test_states_parts_and_neurons_of_a_graph_are_read_by_the_formula(name):
    model = made(name)
    view, lens = ModelView(model), affine(model.cfg.d_model, 1)
    graph = vt.flow_graph(model, "a b c d", target=" b", lens=lens)
    trace = Trace.run(view, view.tokens.encode("a b c d", None))
    plain, t, w = vt.flow_graph(model, "a b c d", target=" b"), trace.layers[0], view.weights(0)
    M, b, before = lens.maps[0], lens.biases[0], (lens.maps[-1], lens.biases[-1])

    def reads(node, vector, *how):
        assert_reads(graph[node], distribution(view, vector, *how), graph.target_id)
        assert graph[node].norm == plain[node].norm

    for node, vector, how in (
        ("L0.resid_pre", t.resid_pre, before),
        ("L0.resid_post", t.resid_post, (M, b)),
        ("L0.attn_out", t.attn_out, (M,)),
        ("L0.mlp_out", t.mlp_out, (M,)),
        ("L1.resid_pre", t.resid_post, (M, b)),
        ("L1.resid_post", trace.layers[1].resid_post, ()),
        ("L1.attn_out", trace.layers[1].attn_out, ()),
    ):
        reads(node, vector, *how)
    if t.resid_mid is not None:
        reads("L0.resid_mid", t.resid_mid, M, b)
    heads = view.kv_head(t.values.shape[1])
    for node in graph:
        if node.layer != 0 or node.kind not in ("head", "value", "neuron", "attn_neuron"):
            continue
        if node.kind == "head":
            vector = sum(t.z[node.id.head][i] * w.W_O[node.id.head][i] for i in range(view.d_head))
        elif node.kind == "value":
            value = t.values[node.id.key_position, heads[node.id.head]]
            vector = sum(value[i] * w.W_O[node.id.head][i] for i in range(view.d_head))
        elif node.kind == "neuron":
            vector = w.W_out[node.id.neuron]
        else:
            vector = w.W_O[divmod(node.id.neuron, view.d_head)]
        reads(node.id, vector, M)


def test_features_are_carried_from_the_block_that_their_site_belongs_to():
    model = made("native")
    view, lens = ModelView(model), affine(model.cfg.d_model, 1)
    saes = [module(view, "mlp_out", layer=0), module(view, "resid_pre", layer=1)]
    graph = vt.flow_graph(model, "a b c d", target=" b", lens=lens, saes=saes)
    seen = set()
    for node in graph.of_kind("feature"):
        row = saes[node.id.site == "resid_pre"].W_dec[node.id.neuron]
        assert_reads(node, distribution(view, row, lens.maps[0]), graph.target_id)
        seen.add(node.id.site)
    assert seen == {"mlp_out", "resid_pre"}


def test_experts_and_closed_parts_are_carried_and_routers_are_not():
    record = affine(16, 1).record
    assert record.block_of(NodeId("expert", 0, expert=2)) == 0
    assert record.block_of(NodeId("neuron", 0, neuron=1, expert=2)) == 0
    assert record.block_of(NodeId("opaque", 0)) == 0
    assert record.block_of(NodeId("feature_error", 0, site="resid_pre")) == -1
    assert record.block_of(NodeId("router", 0)) is None


def test_queries_keys_columns_and_inputs_of_sub_blocks_stay_at_the_logit_lens():
    model = made("gpt2")
    lens = affine(16, 1)
    graph, plain = (vt.flow_graph(model, "a b c", target=" b", lens=x) for x in (lens, None))
    kinds = ("attn_in", "query", "head_query", "key", "mlp_in", "neuron_key")
    kept = graph.of_kind(*kinds)
    assert {node.kind for node in kept} == set(kinds)
    for node in kept:
        own = plain[node.id]
        assert node.rank == own.rank and [t.id for t in node.top] == [t.id for t in own.top]
        assert node.prob == pytest.approx(own.prob, rel=1e-5)


def test_parts_carried_sum_to_the_state_carried_with_the_bias_once():
    view, lens = ModelView(made("gpt2")), affine(16, 1)
    t = Trace.run(view, view.tokens.encode("a b c d", None)).layers[0]
    parts = torch.stack([t.resid_pre, t.attn_out, t.mlp_out])
    carried = lens.carry(parts, [0, 0, 0], [False] * 3).sum(0) + lens.biases[0]
    whole = lens.carry(t.resid_post[None], [0], [True])[0]
    torch.testing.assert_close(carried, whole, atol=1e-5, rtol=1e-5)


def test_the_last_state_is_the_models_own_distribution_and_laws_hold_as_before(model):
    d_model = model.cfg.d_model
    graph = vt.flow_graph(model, "a b c d", lens=matrices(d_model, 1))
    plain = vt.flow_graph(model, "a b c d")
    assert plain.lens is None and graph.lens.name == "own lens" and graph.lens.blocks == (0,)
    assert graph.residual_error == plain.residual_error and graph.edges == plain.edges
    last = [node for node in graph if node.id.layer in (None, 1) and node.kind != "resid_pre"]
    for node in last:
        own = plain[node.id]
        assert node.rank == own.rank and node.top[0].id == own.top[0].id
        assert node.prob == pytest.approx(own.prob, rel=1e-4, abs=1e-7)
    assert graph["logits"].prob == pytest.approx(plain["logits"].prob, rel=1e-5)


def test_identity_maps_read_as_the_logit_lens_does():
    model = made("llama")
    graph = vt.flow_graph(model, "a b c d", lens={-1: torch.eye(16), 0: torch.eye(16)})
    for node, own in zip(graph, vt.flow_graph(model, "a b c d"), strict=True):
        assert (node.id, node.rank) == (own.id, own.rank)
        assert node.prob == pytest.approx(own.prob, rel=1e-4, abs=1e-7)


def test_folded_norms_change_nothing_of_what_is_read():
    lens = matrices(16, 1)
    raw, folded = (vt.flow_graph(made(n), "a b c", target=" b", lens=lens)
                   for n in ("llama", "llama-folded"))  # fmt: skip
    for node in raw.of_kind("head", "value", "resid_post", "resid_mid", "mlp_out"):
        assert node.prob == pytest.approx(folded[node.id].prob, rel=1e-3)
        assert node.rank == folded[node.id].rank


def test_several_prompts_read_as_each_alone_and_followed_positions_through_the_lens_too():
    model, lens = made("native"), affine(16, 1)
    texts = ["a b c d", "e a b"]
    alone = [vt.flow_graph(model, text, lens=lens, expand=1) for text in texts]
    assert vt.flow_graphs(model, texts, lens=lens, expand=1, verbose=False) == alone
    several = vt.iter_flow_graphs(model, texts, lens=lens, expand=1, verbose=False)
    assert list(several) == alone
    there = alone[0]["L0.resid_pre@1"]
    view = ModelView(model)
    trace = Trace.run_at(view, view.tokens.encode("a b c d", None), [1])[1]
    probs = distribution(view, trace.layers[0].resid_pre, lens.maps[-1], lens.biases[-1])
    assert_reads(there, probs, alone[0].target_id)
    assert vt.generate(model, "a b", 2, lens=lens, verbose=False)[1].lens == lens.record


def test_vectors_are_read_after_the_block_that_is_named():
    view, lens = ModelView(made("gpt2")), affine(16, 1)
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(3))
    for parts in (False, True):
        read = vt.read(view, vectors, [4], k=60, lens=lens, block=[-1, 0, 1], parts=parts)
        for i, block in enumerate((-1, 0, None)):
            bias = None if parts or block is None else lens.biases[block]
            probs = distribution(view, vectors[i], lens.maps.get(block), bias)
            torch.testing.assert_close(
                read.top_probs[i].double(), probs[read.top_ids[i]], atol=1e-6, rtol=1e-5
            )
    same = vt.read(view, vectors, lens=lens, block=0)
    torch.testing.assert_close(same.top_probs[1], vt.read(view, vectors[1:2], lens=lens, block=0)
                               .top_probs[0])  # fmt: skip
    for asked, said in (
        ({"lens": lens}, "with block="),
        ({"block": 0}, "given as lens="),
        ({"lens": lens, "block": [0, 0]}, "2 numbers for 3 vectors"),
        ({"lens": matrices(16, 1), "block": -1}, "no map of block -1"),
        ({"lens": lens, "block": 0, "apply_norm": False}, "final norm"),
    ):
        with pytest.raises(InputError, match=said):
            vt.read(view, vectors, **asked)


def test_ranks_by_lens_are_those_of_the_tables():
    model, one, other = made("gpt2"), matrices(16, 1), affine(16, 1)
    found = vt.lens_ranks(model, "a b c", {"mine": one, "other": other}, target=" b", position=1)
    assert found.lenses == ("logit lens", "mine", "other") and found.blocks == (-1, 0, 1)
    for name, lens in zip(found.lenses, (None, one, other), strict=True):
        table = vt.lens_table(model, "a b c", target=" b", lens=lens)
        ranks = found.ranks[found.lenses.index(name)]
        wanted = [table[f"{state}@1"].rank for state in ("L0.resid_pre", "L0.resid_post")]
        assert ranks[1:] == (wanted[1], table["L1.resid_post@1"].rank)
        assert ranks[0] == (None if name == "mine" else wanted[0])
    rows = found.to_dataframe()
    assert len(rows) == 8 and list(rows.columns) == ["lens", "block", "rank", "prob"]
    assert "embedding" in str(found) and "·" in found.text()
    assert [line.name for line in found.figure("dark").data] == list(found.lenses)
    assert vt.lens_ranks(model, "a b", other).lenses == ("logit lens", "affine")
    with pytest.raises(InputError, match="always the first"):
        vt.lens_ranks(model, "a b", {"logit lens": one})
    with pytest.raises(InputError, match="None is itself"):
        vt.lens_ranks(model, "a b", None)


def test_any_form_of_the_same_matrices_reads_the_same(tmp_path):
    model, given = made("gpt2"), matrices(16, 1)
    wanted = vt.flow_graph(model, "a b c", lens=given)
    path = vt.lenses.save(Lens("own lens", given), tmp_path / "mine.safetensors")
    numpy = {block: matrix.numpy() for block, matrix in given.items()}
    for form in (given.get, path, str(path), numpy, vt.lenses.load(path)):
        assert vt.flow_graph(model, "a b c", lens=form) == wanted


@pytest.mark.model
def test_smollm2_reads_as_transformer_lens_reads_it(smol):
    theirs = jacobian_lens(smol)
    prompt = "The capital of Japan is the city of"
    table = vt.lens_table(smol, prompt, lens=theirs)
    ids = torch.tensor([vt.ModelView(smol).encode(prompt, None).ids])
    read = theirs.readout(smol, ids, return_full_logits=True)
    target = table["L29.resid_post"].top[0].id
    for layer, logits in read.lens_logits.items():
        for position, row in enumerate(logits.double()):
            cell, probs = table[f"L{layer}.resid_post@{position}"], row.softmax(-1)
            # Ranks of 49,152 tokens differ where logits are equal in float32.
            assert abs(cell.rank - int((probs > probs[target]).sum())) <= 2
            assert cell.top[0].id == int(row.argmax())
            assert cell.prob == pytest.approx(float(probs[target]), rel=1e-3, abs=1e-9)
