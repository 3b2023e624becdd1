"""Attention scores taken apart, against numbers by hand, loops, and the model's own scores."""

import dataclasses
import functools
import json
import math
import warnings

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES, PROMPT
from tests.conftest import made
from visit_tl.causal.qk.score_formula import alibi_slopes

READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
FOLDED = [False, True]
# Largest error of the sum over 21 architectures, raw and folded: 8.6e-6 (Gemma, whose embeddings
# are scaled up).
MEASURED = 3e-5
PAIRS = [(-1, 0), (-1, -1), (-1, -2), (3, 1), (0, 0)]


def why(model, head, query, key, prompt=PROMPT, **options):
    return vt.causal.attention_attribution(model, prompt, head, query, key, **options)


# --- by hand -------------------------------------------------------------------------------------


def hand_made():
    """One block, one head of two entries, no norms: tokens are the unit vectors of the stream."""
    settings = {"d_model": 4, "d_head": 2, "n_heads": 1, "n_layers": 1, "d_mlp": 2, "d_vocab": 4,
                "n_ctx": 8, "act_fn": "relu", "normalization_type": None}  # fmt: skip
    model = tiny.native(**settings)
    model.tokenizer = None
    W_Q = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    W_K = torch.tensor([[1.0, 1.0], [0.0, -1.0], [2.0, 0.0], [0.0, 0.0]])
    b_Q, b_K = torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.0])
    position = torch.zeros(8, 4)
    position[1, 1] = 1.0  # at position 1, what token 1 would be
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn = model.blocks[0].attn
        if tiny.HAS_BRIDGE:
            model.embed.original_component.weight.copy_(torch.eye(4))
            model.pos_embed.original_component.weight.copy_(position)
            for one, weight, bias in ((attn.q, W_Q, b_Q), (attn.k, W_K, b_K)):
                one.original_component.weight.copy_(weight.T)
                one.original_component.bias.copy_(bias)
        else:
            model.embed.W_E.copy_(torch.eye(4))
            model.pos_embed.W_pos.copy_(position)
            attn.W_Q[0], attn.W_K[0] = W_Q, W_K
            attn.b_Q[0], attn.b_K[0] = b_Q, b_K
    return model


def test_every_pair_is_the_number_on_paper():
    """Token 2 at position 1 looks at token 0 at position 0; scores are divided by sqrt(2).

    The query: embed gives (3, 1), pos_embed (0, 2), b_Q (0.5, 0). The key: embed gives (1, 1),
    pos_embed (0, 0), b_K (0, 1).
    """
    found = why(hand_made(), "L0H0", 1, 0, prompt=[0, 2])
    assert found.query_parts == ("embed", "pos_embed", "b_Q")
    assert found.key_parts == ("embed", "pos_embed", "b_K")
    products = np.array([[4.0, 0.0, 1.0], [2.0, 0.0, 2.0], [0.5, 0.0, 0.0]])
    assert found.matrix == pytest.approx(products / math.sqrt(2), abs=1e-6)
    assert found.score == pytest.approx(9.5 / math.sqrt(2), abs=1e-6)
    assert found.scale == pytest.approx(1 / math.sqrt(2))
    assert found.value("pos_embed", "b_K") == pytest.approx(2 / math.sqrt(2), abs=1e-6)
    assert found.marginal("query")["value"].tolist() == pytest.approx(
        [5 / math.sqrt(2), 4 / math.sqrt(2), 0.5 / math.sqrt(2)], abs=1e-6
    )
    assert found.marginal("key")["value"].tolist() == pytest.approx(
        [6.5 / math.sqrt(2), 0.0, 3 / math.sqrt(2)], abs=1e-6
    )
    # To itself: token 2 at position 1 has the key (2, 0) + (0, -1) + (0, 1).
    own = why(hand_made(), "L0H0", 1, 1, prompt=[0, 2])
    assert own.score == pytest.approx((3.5 * 2 + 3 * 0) / math.sqrt(2), abs=1e-6)
    assert found.attention == pytest.approx(1 / (1 + math.exp(own.score - found.score)), abs=1e-6)


def test_top_cuts_to_the_largest_pairs_and_one_part_for_the_others():
    found = why(hand_made(), "L0H0", 1, 0, prompt=[0, 2], top=2)
    assert [(p.query, p.key) for p in found.parts] == [
        ("embed", "embed"), ("pos_embed", "embed"), ("others", "others"),
    ]  # fmt: skip
    assert found.parts[-1].value == pytest.approx(3.5 / math.sqrt(2), abs=1e-6)
    assert sum(found.to_dataframe()["share"]) == pytest.approx(1)
    assert len(why(hand_made(), "L0H0", 1, 0, prompt=[0, 2], top=99).parts) == 9


# --- loops ---------------------------------------------------------------------------------------


def loops(name, layer, head, query, key):
    """The matrix of pairs by loops over parts and entries, from hooks and raw parameters."""
    model = made(name)
    view = vt.ModelView(model)
    ids = model.to_tokens(PROMPT)
    _, cache = model.run_with_cache(ids)
    llama = "llama" in name
    sides = {}
    for side, at in (("query", query), ("key", key)):
        parts = {"embed": cache["hook_embed"][0, at]}
        if not llama:
            rows = cache["hook_pos_embed"]
            parts["pos_embed"] = rows.reshape(-1, *rows.shape[-2:])[0, at]
        for before in range(layer):
            w = view.weights(before)
            for h in range(4):
                z = cache[f"blocks.{before}.attn.hook_z"][0, at, h]
                parts[f"L{before}H{h}"] = sum(z[d] * w.W_O[h, d] for d in range(len(z)))
            if w.b_O is not None:
                parts[f"L{before}.b_O"] = w.b_O
            parts[f"L{before}.mlp_out"] = cache[f"blocks.{before}.hook_mlp_out"][0, at]
        x = cache[f"blocks.{layer}.hook_resid_pre"][0, at]
        norm, w = view.norm(layer, "ln1"), view.weights(layer)
        mean = 0.0 if llama else float(x.mean())
        size = math.sqrt(sum(float(v - mean) ** 2 for v in x) / len(x) + norm.eps)
        gain = torch.ones_like(x) if norm.weight is None else norm.weight
        bias = 0.0 if norm.bias is None else norm.bias
        W = w.W_Q[head] if side == "query" else w.W_K[head * len(w.W_K) // 4]
        rows = []
        for part in parts.values():
            centred = part - (0.0 if llama else part.mean())
            rows.append([sum(float(centred[i] * gain[i]) / size * float(W[i, d])
                             for i in range(len(x))) for d in range(W.shape[1])])  # fmt: skip
        rest = model.blocks[layer].attn
        own = getattr(rest, "b_Q" if side == "query" else "b_K", None)
        if not isinstance(bias, float) and bias.any():
            parts["ln1.bias"] = bias
            rows.append((bias @ W).tolist())
        if own is not None and own.any():
            parts["b"] = own
            rows.append(own[head].tolist())
        if llama:
            rows = [turned(row, at) for row in rows]
        sides[side] = list(parts), rows
    (names, q), (others, k) = sides["query"], sides["key"]
    found = [[sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(len(x)) for y in k]
             for x in q]  # fmt: skip
    return names, others, np.array(found)


def turned(row, at):
    """Rotary positions of halves: pair i turns by at / 10000^(2i / d)."""
    half, out = len(row) // 2, list(row)
    for i in range(half):
        angle = at / 10000 ** (i / half)
        a, b = row[i], row[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


@pytest.mark.parametrize("name", ["gpt2", "gpt2-folded", "llama", "llama-folded"])
@pytest.mark.parametrize(("query", "key"), [(5, 2), (6, 6)])
def test_pairs_equal_loops(name, query, key):
    found = why(made(name), "L1H2", query, key)
    names, others, matrix = loops(name, 1, 2, query, key)
    shown = [["b" if n in ("b_Q", "b_K") else n for n in side]
             for side in (found.query_parts, found.key_parts)]  # fmt: skip
    assert shown == [names, others]
    assert found.matrix == pytest.approx(matrix, abs=1e-5 * max(1.0, np.abs(matrix).max()))


# --- every architecture --------------------------------------------------------------------------


@functools.cache
def opened(name, folded):
    pytest.importorskip("transformer_lens.model_bridge", reason="has no bridges to open these with")
    try:
        model = ARCHITECTURES[name].bridge()
        if folded:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.enable_compatibility_mode()
        with torch.no_grad():
            model(torch.tensor([[1, 2, 3]]))
        return vt.ModelView(model)
    except (RuntimeError, vt.ModelError) as error:
        pytest.skip(f"this release cannot run or open it: {error}")


def own_scores(view):
    """The model's scores and attention by layer; None for scores that are not those of it."""
    caught = {}

    def keep(tensor, hook):
        caught[hook.name] = tensor[0].detach().float()

    names = [f"blocks.{i}.attn.hook_{x}" for i in (0, 1) for x in ("attn_scores", "pattern")]
    names = [name for name in names if view.has_hook(name)]
    view.run(view.model.to_tokens(PROMPT), [(name, keep) for name in names])
    found = []
    for i in (0, 1):
        scores, pattern = (
            caught.get(f"blocks.{i}.attn.hook_{x}") for x in ("attn_scores", "pattern")
        )
        if scores is not None:
            hidden = torch.ones(pattern.shape[-2:]).triu(1).bool() | (pattern == 0)
            made = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            scores = scores if torch.allclose(made, pattern, atol=1e-5) else None
        found.append(scores)
    return found


@pytest.mark.parametrize("folded", FOLDED, ids=["raw", "folded"])
@pytest.mark.parametrize("name", READABLE)
def test_pairs_sum_to_the_score_on_every_architecture(name, folded):
    view = opened(name, folded)
    own, measured = own_scores(view), 0
    for layer in (0, 1):
        for head in range(4):
            for query, key in PAIRS:
                try:
                    found = why(view, f"L{layer}H{head}", query, key, neurons=3, top=7)
                except vt.InputError as error:
                    assert "window" in str(error)
                    assert "local" in ARCHITECTURES[name].traits
                    continue
                limit = 1e-4 * max(1.0, abs(found.score))
                assert abs(sum(part.value for part in found.parts) - found.score) < limit
                for side in ("query", "key"):
                    assert abs(found.marginal(side)["value"].sum() - found.score) < limit
                assert found.error < MEASURED
                after = found.score if found.capped is None else found.capped
                if own[layer] is not None:
                    exact = float(own[layer][head, found.query, found.key])
                    assert after == pytest.approx(exact, abs=1e-5 * max(1.0, abs(exact)))
                measured += 1
    assert measured >= 24
    has_cap = "score-softcap" in ARCHITECTURES[name].traits
    assert (found.capped is not None) == has_cap
    assert ("position" in found.query_parts) == ("alibi" in ARCHITECTURES[name].traits)


def test_pairs_sum_to_the_score_in_both_classes(model):
    view = vt.ModelView(model)
    for head in ("L0H1", "L1H0", "L1H3"):
        for query, key in PAIRS:
            found = why(view, head, query, key, neurons=2)
            total = sum(part.value for part in found.parts)
            assert abs(total - found.score) < 1e-4 * max(1.0, abs(found.score))
            scores = own_scores(view)[int(head[1])]
            if scores is None:
                continue
            exact = float(scores[int(head[3]), found.query, found.key])
            assert found.score == pytest.approx(exact, abs=1e-5 * max(1.0, abs(exact)))


@pytest.mark.parametrize("name", ["hooked-alibi"])
def test_linear_biases_of_a_hooked_transformer_are_relative_to_the_query(name):
    if not tiny.HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    view = vt.ModelView(tiny.hooked(positional_embedding_type="alibi", model_name=name))
    found = why(view, "L1H2", 5, 2)
    exact = float(own_scores(view)[1][2, 5, 2])
    assert found.score == pytest.approx(exact, abs=1e-5)
    assert found.value("position", "position") == pytest.approx(-3 * alibi_slopes(4)[2])


def test_slopes_are_those_of_the_paper_also_where_heads_are_no_power_of_two():
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(6) == pytest.approx((1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8))


def test_the_score_of_a_folded_model_is_that_of_the_raw_one():
    for name in ("gpt2", "llama", "gemma2", "stablelm-parallel"):
        raw, fold = (why(opened(name, folded), "L1H1", -1, -2) for folded in FOLDED)
        # Weights that are folded leave differences of attention, not scores, as they are; b_K alone
        # adds the same to all keys.
        assert raw.attention == pytest.approx(fold.attention, abs=1e-5)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x has no TransformerBridge")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen3"])
def test_half_precision_sums_up_to_its_rounding(name, dtype):
    found = why(ARCHITECTURES[name].bridge().to(dtype), "L1H2", -1, 2 if name == "gpt2" else -2)
    assert 0 < found.error < (2e-2 if dtype == torch.bfloat16 else 5e-3)


# --- neurons, heads, marginals -------------------------------------------------------------------


def test_neurons_are_taken_out_of_their_mlps_and_the_largest_are_taken():
    plain, split = (why(made("gpt2"), "L1H2", 5, 2, neurons=n) for n in (0, 3))
    view = vt.ModelView(made("gpt2"))
    trace = vt.Trace.run(view, view.encode(PROMPT, None), position=5)
    neurons = [n for n in split.query_parts if "N" in n]
    assert len(neurons) == 3
    rest = next(n for n in split.query_parts if " without 3 neurons" in n)
    table, whole = split.marginal("query").set_index("part")["value"], plain.marginal("query")
    mlp = float(whole.set_index("part")["value"]["L0.mlp_out"])
    assert table[[rest, *neurons]].sum() == pytest.approx(mlp, abs=1e-6)
    every = why(made("gpt2"), "L1H2", 5, 2, neurons=40).marginal("query").set_index("part")["value"]
    sizes = every[[n for n in every.index if "N" in n]].abs().sort_values(ascending=False)
    assert set(neurons) == set(sizes.index[:3])
    assert len(sizes) == 40 == trace.layers[0].mlp_post.numel()
    kinds = split.marginal("query").set_index("part")["kind"]
    assert (kinds[neurons] == "neuron").all() and kinds[rest] == "mlp_out without neurons"


def test_heads_of_a_side_are_their_rows_of_the_marginal_largest_first():
    found = why(made("llama"), "L1H2", 5, 2)
    for side, axis in (("query", 1), ("key", 0)):
        heads = found.by_head(side)
        assert sorted(heads["part"]) == [f"L0H{h}" for h in range(4)]
        assert heads["value"].abs().is_monotonic_decreasing
        sums = dict(zip(found._names(side), found.matrix.sum(axis).tolist(), strict=True))
        assert all(sums[row.part] == pytest.approx(row.value) for row in heads.itertuples())
        assert heads["share"].tolist() == pytest.approx((heads["value"] / found.score).tolist())
    with pytest.raises(vt.InputError, match="no side of a score"):
        found.by_head("value")
    with pytest.raises(vt.InputError, match="wrote nothing that L1H2 reads"):
        found.value("L1H0", "embed")


# --- graphs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    return vt.flow_graph(made("llama"), PROMPT)


def test_a_graph_asks_at_its_own_position_and_keeps_the_run(graph, monkeypatch):
    found = graph.why("L1H2", 2)
    assert (found.query, found.key) == (graph.position, 2)
    assert found.attention == pytest.approx(graph["L1H2"].attention[2])
    monkeypatch.setattr(vt.ModelView, "run", None)  # no further run is made
    again = graph.why("L1H2", 2)
    assert np.array_equal(again.matrix, found.matrix)
    assert graph.why("L0H0", key=1, query=3).query == 3


def test_a_changed_model_is_run_again():
    model = tiny.llama()
    graph = vt.flow_graph(model, PROMPT)
    before = graph.why("L1H2", 2)
    attn = model.blocks[1].attn
    with torch.no_grad():
        # HookedTransformer stores the weights of grouped keys in _W_K.
        for parameter in attn.k.parameters() if hasattr(attn, "k") else [attn._W_K]:
            parameter.mul_(2.0)
    assert graph.why("L1H2", 2).score == pytest.approx(2 * before.score, rel=1e-4)
    seen = vt.ModelView(model)
    first = why(seen, "L1H2", 5, 2)
    model.blocks[0].attn.hook_z.add_hook(lambda z, hook: z * 0.5)
    try:
        patched = why(seen, "L1H2", 5, 2)
        with pytest.raises(vt.GraphError, match="hooks left on the model"):
            graph.why("L1H2", 2)
    finally:
        model.reset_hooks()
    assert patched.patched and abs(patched.score - first.score) > 1e-4
    assert patched.error < MEASURED
    assert why(seen, "L1H2", 5, 2).score == first.score


def test_the_view_of_a_model_that_is_gone_is_let_go():
    import gc
    import weakref

    model = tiny.llama()
    graph = vt.flow_graph(model, PROMPT)
    graph.why("L1H2", 2)
    gone = weakref.ref(model)
    del model, graph
    gc.collect()
    assert gone() is None


def test_reasons_are_put_on_a_graph_saved_and_loaded(graph, tmp_path):
    found = graph.why("L1H2", 2, top=3)
    held = found.onto(graph)
    (reason,) = held.reasons
    assert (reason.head, reason.query, reason.key) == (found.head, found.query, 2)
    total = sum(pair.value for pair in reason.pairs) + reason.others
    assert total == pytest.approx(found.score, abs=1e-6)
    assert len(reason.pairs) == 3
    loaded = vt.FlowGraph.load(held.save(tmp_path / "g.json"))
    assert loaded == held != graph
    again = graph.why("L1H2", 2, top=1).onto(held)
    assert len(again.reasons) == 1 and len(again.reasons[0].pairs) == 1
    assert held.subgraph([0]).reasons == () and held.subgraph([1]).reasons == held.reasons
    with pytest.raises(vt.GraphError, match="pass it as model="):
        loaded.why("L1H2", 2)
    assert loaded.why("L1H2", 2, model=made("llama")).score == pytest.approx(found.score)


def test_with_why_has_a_reason_for_every_memory_that_the_graph_shows():
    graph = vt.flow_graph(made("gpt2"), PROMPT, expand=1)
    held = graph.with_why(top=4)
    shown = {
        (n.id.layer, n.id.head, graph.position if n.id.position is None else n.id.position,
         n.id.key_position)
        for n in graph.of_kind("value")
    }  # fmt: skip
    assert {(r.head.layer, r.head.head, r.query, r.key) for r in held.reasons} == shown
    assert any(r.query != graph.position for r in held.reasons)
    for reason in held.reasons[:5]:
        one = graph.why(reason.head, reason.key, reason.query, top=4)
        assert one.reason == reason
    other = next(c.position for c in graph.columns if c.layers)
    kept = held.at(other).reasons
    assert kept and all(r.query == other for r in kept)
    assert all(r.query == graph.position for r in held.at(graph.position).reasons)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "L1.z"}, "no head without a position"),
        ({"head": "L7H0"}, "not in the graph"),
        ({"key": 99}, "outside the"),
        ({"others": 1e3}, "its score is"),
        ({"attention": 1.5}, "outside 0..1"),
        ({"pairs": [{"query": "embed"}]}, "has no 'key'"),
    ],
)
def test_wrong_reasons_in_a_file_are_refused(graph, tmp_path, change, message):
    path = graph.why("L1H2", 2).onto(graph).save(tmp_path / "g.json")
    data = json.loads(path.read_text())
    data["reasons"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(vt.GraphError, match=message):
        vt.FlowGraph.load(path)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "query", "key", "message"),
    [
        ("L1H2", 3, 5, r"the key 5 comes after the query 3, which sees 0\.\.3"),
        ("L1H9", 3, 1, r"L1H9 is not there: .* layers 0\.\.1 of heads 0\.\.3"),
        ("L5H0", 3, 1, r"L5H0 is not there"),
        ("L1.z", 3, 1, r"L1\.z is no head"),
        ("L1H2@3", None, 1, r"give the head as L1H2, and its position as query=3"),
        ("L1H2", 99, 1, r"position 99 is outside the prompt"),
        ("L1H2", 3, -99, r"position -99 is outside the prompt"),
    ],
)
def test_what_does_not_fit_is_refused(graph, head, query, key, message):
    with pytest.raises(vt.InputError, match=message):
        why(made("llama"), head, query, key)
    with pytest.raises(vt.InputError, match=message):
        graph.why(head, key, query)


def test_results_do_not_go_onto_graphs_of_something_else(graph):
    other = vt.flow_graph(made("llama"), "a b c")
    found = graph.why("L1H2", 2)
    with pytest.raises(vt.InputError, match="differ in tokens"):
        found.onto(other)
    with pytest.raises(vt.InputError, match="differ in model"):
        found.onto(vt.flow_graph(made("gpt2"), PROMPT))
    small = vt.flow_graph(made("llama"), PROMPT, heads=1)
    pruned = next(f"L1H{h}" for h in range(4) if f"L1H{h}" not in small)
    with pytest.raises(vt.InputError, match="not in this graph, so it has no place"):
        small.why(pruned, 2).onto(small)
    with pytest.raises(vt.InputError, match="the graph is of"):
        why(made("gpt2"), "L1H2", None, 2, prompt=dataclasses.replace(graph, d_vocab=61))


def test_positions_after_ln1_are_refused_by_name():
    if not tiny.HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = tiny.hooked(positional_embedding_type="shortformer", model_name="short")
    with pytest.raises(vt.ModelError, match="shortformer"):
        why(model, "L1H2", 5, 2)


def test_under_segments_a_later_key_of_the_segment_has_a_score():
    found = why(made("llama"), "L1H2", 2, 4, segments=[(1, 6)])
    assert found.key == 4 and found.attention > 0 and found.segments == ((1, 6),)
    assert abs(found.matrix.sum() - found.score) < 1e-5


# --- views ---------------------------------------------------------------------------------------


def test_text_figure_and_table_say_the_same():
    found = why(made("gpt2"), "L1H2", 5, 2, neurons=2, top=5)
    said = str(found)
    assert "L1H2 looks from" in said and "before the softmax" in said
    assert all(pair.query in said and pair.key in said for pair in found.parts)
    assert found._repr_html_().startswith("<pre>")
    drawn = found.figure(rows=4)
    names = drawn.layout.yaxis.ticktext
    assert len(names) == 5 and names[-1].endswith("others")
    cells = np.array([[float(x.replace("−", "-")) for x in row] for row in drawn.data[0].text])
    assert cells.sum() == pytest.approx(found.score, abs=0.005 * cells.size)
    assert sum(drawn.data[1].x) == pytest.approx(found.score, abs=1e-4)
    assert sum(drawn.data[2].y) == pytest.approx(found.score, abs=1e-4)
    assert found.figure(theme="dark", rows=99).layout.height > drawn.layout.height
    with pytest.raises(vt.InputError, match="no theme"):
        found.figure(theme="pink")
    with pytest.raises(vt.InputError, match="rows is 0"):
        found.figure(rows=0)


@pytest.mark.model
def test_a_real_head_is_taken_apart(smol):
    graph = vt.flow_graph(smol, "When Mary and John went to the store, John gave a drink to")
    found = graph.why("L23H0", 2)
    assert found.error < 1e-6
    assert abs(sum(part.value for part in found.parts) - found.score) < 1e-4
