"""Circuits beside a forward pass written out edge by edge, and beside TransformerLens's own."""

import itertools
import random
import re
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.conftest import made
from visit_tl import InputError, ModelView, flow_graph
from visit_tl.causal.circuit.candidates import candidate, without
from visit_tl.causal.circuit.circuit_run import CircuitRun
from visit_tl.causal.circuit.faithfulness_by_size import MIB_BUDGETS, area, faithfulness_curve, rank
from visit_tl.causal.circuit.faithfulness_scores import completeness, faithfulness, minimality
from visit_tl.causal.metrics import logit_difference
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.causal.paths.path_patching import edge_effects
from visit_tl.causal.residual_writes import Writes, WrittenRun
from visit_tl.circuits.known_circuits import load
from visit_tl.graph.circuit_edges import Shape, model_edges
from visit_tl.graph.circuit_parts import Edge, Part

CLEAN, CORRUPTED = [0, 3, 5, 7, 11], [0, 3, 6, 2, 11]
PAIRS = [(CLEAN, CORRUPTED), ([0, 4, 8, 1, 2], [0, 5, 8, 6, 2])]
OTHERS = [CORRUPTED, [0, 1, 2, 4, 8], [0, 9, 9, 1, 3]]
METRIC = logit_difference(9, 4)
HEADS = ["0.1", "0.3", "1.0"]
READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
needs_bridge = pytest.mark.skipif(
    tiny.RELEASE < (4,), reason="the architectures are opened as the bridges of TransformerLens 4"
)


def runs_of(view, *prompts):
    return [WrittenRun(view, view.tokens.encode(ids, None)) for ids in prompts]


def some_edges(view, share, seed):
    edges = model_edges(shape_of(view))
    return frozenset(random.Random(seed).sample(edges, int(share * len(edges))))


# --- the model reduced to a circuit ---------------------------------------------------------------


def by_hand(hf, edges, base_of):
    """A GPT-2 reduced to edges, head by head and edge by edge, from its own weight matrices."""
    c, body = hf.config, hf.transformer
    heads, width = c.n_head, c.n_embd // c.n_head
    ids = torch.tensor(CLEAN)
    live = {Part("input"): body.wte.weight[ids] + body.wpe.weight[: len(ids)]}
    common = torch.zeros(len(ids), c.n_embd)

    def seen(target, read=None):
        x = common.clone()
        for part, value in live.items():
            x += value if Edge(part, target, read) in edges else base_of[part]
        return x

    causal = torch.ones(len(ids), len(ids)).tril().bool()
    for layer, block in enumerate(body.h):
        W, b = block.attn.c_attn.weight.split(c.n_embd, 1), block.attn.c_attn.bias.split(c.n_embd)
        new = {}
        for h in range(heads):
            part, at = Part("head", layer, h), slice(h * width, (h + 1) * width)
            q, k, v = (
                block.ln_1(seen(part, read)) @ W[i][:, at] + b[i][at]
                for i, read in enumerate("qkv")
            )
            scores = (q @ k.T / width**0.5).masked_fill(~causal, -torch.inf)
            new[part] = scores.softmax(-1) @ v @ block.attn.c_proj.weight[at]
        live |= new
        common = common + block.attn.c_proj.bias
        live[Part("mlp", layer)] = block.mlp(block.ln_2(seen(Part("mlp", layer))))
    return body.ln_f(seen(Part("logits"))) @ hf.lm_head.weight.T


@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_circuit_equals_a_forward_pass_written_out_edge_by_edge(how, share):
    hf = tiny.hf_gpt2()
    view = ModelView(made("gpt2"))
    clean, *others = runs_of(view, CLEAN, *OTHERS)
    base = {
        "resample": others[0].writes,
        "mean": Writes.mean([run.writes for run in others]),
        "zero": clean.writes.zero(),
    }[how]
    edges = some_edges(view, share, seed=3)
    with torch.no_grad():
        expected = by_hand(hf, edges, base.parts)
    found = CircuitRun(clean, base).logits(edges)[0]
    assert torch.allclose(found, expected, atol=2e-5)
    assert not torch.allclose(found, clean.logits[0], atol=1e-3)


@needs_bridge
@pytest.mark.parametrize("name", READABLE)
def test_all_edges_give_the_model_and_none_the_corrupted_run(name):
    view = ModelView(ARCHITECTURES[name].bridge())
    clean, corrupted = runs_of(view, CLEAN, CORRUPTED)
    reduced = CircuitRun(clean, corrupted.writes)
    edges = model_edges(shape_of(view))
    assert torch.allclose(reduced.logits(edges), clean.logits, atol=1e-5)
    assert torch.allclose(reduced.logits(()), corrupted.logits, atol=1e-5)


def test_all_but_one_edge_is_that_edge_cut(model):
    """The two ways to patch an edge, written apart, agree."""
    view = ModelView(model)
    clean, corrupted = runs_of(view, CLEAN, CORRUPTED)
    reduced = CircuitRun(clean, corrupted.writes)
    edges = model_edges(shape_of(view))
    effects = edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    for edge in random.Random(0).sample(edges, 12):
        value = float(METRIC(reduced.logits(set(edges) - {edge}))) - effects.clean
        assert value == pytest.approx(effects[edge], abs=2e-5), str(edge)


@pytest.mark.parametrize("how", ["resample", "zero"])
def test_a_circuit_of_heads_equals_patching_the_other_heads(model, how):
    view = ModelView(model)
    found = faithfulness(model, [PAIRS[0]], METRIC, HEADS, how=how, verbose=False)
    kept = {Part.parse(head) for head in HEADS}
    with torch.no_grad():
        cache = model.run_with_cache(torch.tensor([CORRUPTED]))[1]

    def ablate(z, hook):
        z, layer = z.clone(), int(hook.name.split(".")[1])
        for h in range(view.n_heads):
            if Part("head", layer, h) not in kept:
                z[:, :, h] = cache[f"blocks.{layer}.attn.hook_z"][:, :, h] * (how == "resample")
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", ablate) for layer in range(view.n_layers)]
    with torch.no_grad():
        expected = METRIC(model.run_with_hooks(torch.tensor([CLEAN]), fwd_hooks=hooks))
    assert found.circuit[0] == pytest.approx(float(expected), abs=2e-5)
    assert (found.coding, found.size, found.out_of) == ("heads", 3, 8)


@needs_bridge
def test_edges_equal_transformer_lens_faithfulness():
    from transformer_lens.tools.analysis.attribution_patching import Node
    from transformer_lens.tools.analysis.attribution_patching import faithfulness as theirs

    model = made("gpt2")
    view = ModelView(model)
    edges = some_edges(view, 0.5, seed=1)
    last = view.n_layers - 1

    writers = {"input": "embed", "head": "attn_head_out", "mlp": "mlp_out"}
    readers = {"mlp": "mlp_in", "logits": "logits"}

    def node(part, kind: Any, position):
        layer = last if kind == "logits" else part.layer
        return Node(kind=kind, position=position, layer=layer, head=part.head)

    circuit = [
        (
            node(e.source, writers[e.source.kind], p),
            node(e.target, f"{e.input}_input" if e.input else readers[e.target.kind], p),
        )
        for e in edges
        for p in range(len(CLEAN))
    ]
    result = theirs(model, torch.tensor([CLEAN]), torch.tensor([CORRUPTED]), METRIC, circuit)
    ours = faithfulness(model, [PAIRS[0]], METRIC, edges, verbose=False)
    assert result.total_edges == ours.out_of * len(CLEAN)
    assert ours.faithfulness == pytest.approx(result.recovered, abs=1e-4)


# --- what is made of it ---------------------------------------------------------------------------


def metric_of(model, ids):
    with torch.no_grad():
        return float(METRIC(model(torch.tensor([ids]))))


def test_faithfulness_is_normalised_between_the_corrupted_run_and_the_model(native):
    found = faithfulness(native, PAIRS, METRIC, HEADS, verbose=False)
    full = [metric_of(native, clean) for clean, _ in PAIRS]
    corrupted = [metric_of(native, other) for _, other in PAIRS]
    assert found.full == pytest.approx(full, abs=1e-5)
    assert found.empty == pytest.approx(corrupted, abs=1e-5)
    assert found.corrupted == pytest.approx(corrupted, abs=1e-5)
    gap = fmean(full) - fmean(corrupted)
    share = (fmean(found.circuit) - fmean(corrupted)) / gap
    assert found.faithfulness == pytest.approx(share, abs=1e-3)
    assert found.difference == pytest.approx(abs(fmean(full) - fmean(found.circuit)), abs=1e-5)
    ratios = [
        (c - b) / (f - b) for c, f, b in zip(found.circuit, found.full, found.empty, strict=True)
    ]
    assert found.mean_of_ratios == pytest.approx(fmean(ratios))
    assert found.mean_of_ratios != pytest.approx(found.faithfulness, abs=1e-3)


def test_each_pair_may_have_a_metric_of_its_own(native):
    metrics = [logit_difference(9, 4), logit_difference(3, 2)]
    found = faithfulness(native, PAIRS, metrics, HEADS, verbose=False)
    alone = [
        faithfulness(native, [pair], metric, HEADS, verbose=False).circuit[0]
        for pair, metric in zip(PAIRS, metrics, strict=True)
    ]
    assert found.circuit == tuple(alone)
    assert found.metric == "logit_difference(9, 4, -1) and others"


def test_the_whole_model_is_faithful_and_nothing_is_not(native):
    shape = shape_of(ModelView(native))
    whole = faithfulness(native, PAIRS, METRIC, model_edges(shape), verbose=False)
    assert whole.faithfulness == pytest.approx(1.0)
    everything = [*shape.heads, Part("mlp", 0), Part("mlp", 1)]
    nodes = faithfulness(native, PAIRS, METRIC, everything, verbose=False)
    assert nodes.coding == "heads and MLPs"
    assert nodes.faithfulness == pytest.approx(1.0)
    assert nodes.difference == pytest.approx(0.0, abs=1e-5)


def test_a_graph_is_judged_by_its_heads(native):
    graph = flow_graph(native, CLEAN, heads=2)
    shown = [str(node.id) for node in graph.of_kind("head")]
    ours = faithfulness(native, PAIRS, METRIC, graph, verbose=False)
    assert ours.circuit == faithfulness(native, PAIRS, METRIC, shown, verbose=False).circuit
    assert ours.size == len(shown) == 4


def test_random_circuits_are_of_the_same_size_and_seeded(native):
    shape = shape_of(ModelView(native))
    for given_, coding in ((HEADS, "heads"), (["0.1", "1.1", "m1"], "heads and MLPs")):
        own = candidate(shape, given_)
        draws = [own.like(shape, random.Random(seed)) for seed in range(20)]
        assert {d.coding for d in draws} == {coding}
        assert {d.size for d in draws} == {own.size}
        assert len({d.edges for d in draws}) > 5
    edges = candidate(shape, [e for i, e in enumerate(model_edges(shape)) if i % 3])
    assert len(edges.like(shape, random.Random(0)).edges) == edges.size
    again = [
        faithfulness(native, PAIRS, METRIC, HEADS, random=4, seed=seed, verbose=False)
        for seed in (0, 0, 1)
    ]
    assert again[0].random == again[1].random != again[2].random
    off = [abs(1 - f) for f in again[0].random_faithfulness]
    expected = fmean(abs(1 - again[0].faithfulness) < other for other in off)
    assert again[0].beats_random == expected
    table = again[0].to_dataframe()
    assert list(table.index) == ["found", *(f"random {i}" for i in range(4))]
    assert "closer to 1 than" in again[0].text()
    assert "the rest ablated (resample)" in str(again[0])


def test_completeness_compares_the_circuit_and_the_model_without_the_same_parts(native):
    subsets = {"a": ["0.1"], "b": ["0.3", "1.0"], "none": []}
    found = completeness(
        native, PAIRS, METRIC, HEADS, subsets=subsets, random=2, seed=1, verbose=False
    )
    shape = shape_of(ModelView(native))
    others = [head for head in shape.heads if head not in map(Part.parse, HEADS)]
    table = found.to_dataframe()
    for name, parts in subsets.items():
        rest = [head for head in HEADS if head not in parts]
        c = faithfulness(native, PAIRS, METRIC, rest, verbose=False)
        m = faithfulness(native, PAIRS, METRIC, [*rest, *others], verbose=False)
        expected = abs(fmean(c.circuit) - fmean(m.circuit))
        assert table.loc[name, "incompleteness"] == pytest.approx(expected, abs=1e-5)
    assert list(table.index) == ["a", "b", "none", "random 0", "random 1"]
    assert found.worst == table["incompleteness"].max()


def test_the_subsets_of_a_reference_are_its_classes():
    reference = load("ioi-wang-2022")
    chosen = candidate(Shape(12, 12), reference)
    assert set(chosen.subsets(reference.classes)) == set(reference.classes)


def test_minimality_takes_one_part_away_after_what_is_given(native):
    found = minimality(
        native, PAIRS, METRIC, HEADS, given={"1.0": ["0.1"]}, verbose=False
    ).to_dataframe()
    value = {
        tuple(heads): fmean(faithfulness(native, PAIRS, METRIC, heads, verbose=False).circuit)
        for n in (1, 2, 3)
        for heads in itertools.combinations(HEADS, n)
    }
    assert found.loc["L0H1", "minimality"] == pytest.approx(
        abs(value["0.3", "1.0"] - value[tuple(HEADS)]), abs=1e-5
    )
    assert found.loc["L1H0", "minimality"] == pytest.approx(
        abs(value["0.3",] - value["0.3", "1.0"]), abs=1e-5
    )
    assert found.loc["L1H0", "given"] == "L0H1"
    assert list(found.index) == ["L0H1", "L0H3", "L1H0"]


# --- over a budget --------------------------------------------------------------------------------


def test_the_curve_keeps_the_best_edges_at_every_budget(native):
    effects = edge_effects(native, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    budgets = (0.1, 0.35, 1.0)
    curve = faithfulness_curve(native, [PAIRS[0]], METRIC, effects, budgets=budgets, verbose=False)
    n = len(model_edges(shape_of(ModelView(native))))
    assert curve.sizes == tuple(int(b * n) for b in budgets)
    for size, values in zip(curve.sizes, curve.values, strict=True):
        own = faithfulness(native, [PAIRS[0]], METRIC, effects.top(size), verbose=False)
        assert values == pytest.approx(own.circuit, abs=1e-6)
    f = curve.faithfulness
    assert f[-1] == pytest.approx(1.0)
    assert curve.cpr == pytest.approx(0.25 * (f[0] + f[1]) / 2 + 0.65 * (f[1] + f[2]) / 2)
    g = [abs(1 - x) for x in f]
    assert curve.cmd == pytest.approx(0.25 * (g[0] + g[1]) / 2 + 0.65 * (g[1] + g[2]) / 2)
    assert list(curve.to_dataframe()["edges"]) == list(curve.sizes)


def test_the_grid_is_that_of_mib():
    assert MIB_BUDGETS == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    # A circuit that is perfect at every budget, by hand: the area begins at 0.001.
    assert area(MIB_BUDGETS, [1.0] * 10) == pytest.approx(0.999)
    assert area(MIB_BUDGETS, [0.0] * 9 + [1.0]) == pytest.approx(0.25)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 1.0), st.floats(-3, 3)),
        min_size=2,
        max_size=8,
        unique_by=lambda p: p[0],
    )
)
def test_areas_add_up_where_a_curve_is_cut(points):
    points = sorted(points)
    x, y = [p[0] for p in points], [p[1] for p in points]
    for i in range(len(points)):
        parts = area(x[: i + 1], y[: i + 1]) + area(x[i:], y[i:])
        assert parts == pytest.approx(area(x, y), abs=1e-9)
    assert area(x, [1.0] * len(x)) == pytest.approx(x[-1] - x[0])


def test_ranking_is_by_size_or_by_sign_and_ties_keep_their_order():
    there = [Edge.parse(e) for e in ("input->m0", "input->m1", "m0->m1", "m1->logits")]
    scores = {"input->m1": -3.0, "m0->m1": 2.0, "input->m0": 2.0}
    names = [str(e) for e in rank(there, scores, absolute=True)]
    assert names == ["input->m1", "input->m0", "m0->m1", "m1->logits"]
    names = [str(e) for e in rank(there, scores, absolute=False)]
    assert names == ["input->m0", "m0->m1", "input->m1", "m1->logits"]


# --- refusals -------------------------------------------------------------------------------------

BAD = {
    "there are no pairs of prompts": lambda m: faithfulness(m, [], METRIC, HEADS),
    "there are 2 pairs but 1 metrics": lambda m: faithfulness(m, PAIRS, [METRIC], HEADS),
    "a pair is (clean, corrupted)": lambda m: faithfulness(m, [([0], [1], [2])], METRIC, HEADS),
    "how='resample' needs corrupted=": lambda m: faithfulness(m, [CLEAN], METRIC, HEADS),
    "the corrupted prompt has 4 tokens, the clean one 5": lambda m: faithfulness(
        m, [(CLEAN, CLEAN[:4])], METRIC, HEADS
    ),
    "the circuit mixes edges and parts: m0->m1 is an edge, 0.1 is none": lambda m: faithfulness(
        m, PAIRS, METRIC, ["0.1", "m0->m1"]
    ),
    "L5H1 is not in a model of 2 layers x 4 heads; 1 parts are not": lambda m: faithfulness(
        m, PAIRS, METRIC, ["5.1"]
    ),
    "m0->m9 is no edge of a model of 2 layers x 4 heads": lambda m: faithfulness(
        m, PAIRS, METRIC, ["m0->m9"]
    ),
    "both have a metric of": lambda m: faithfulness(
        m, [(CLEAN, CLEAN)], METRIC, HEADS, verbose=False
    ).faithfulness,
    "L0H0 is no part of the circuit, which has L0H1, L0H3, L1H0": lambda m: minimality(
        m, PAIRS, METRIC, HEADS, parts=["0.0"]
    ),
    "there are no subsets to measure": lambda m: completeness(
        m, PAIRS, METRIC, HEADS, random=0
    ),
    "budgets must be two or more ascending shares": lambda m: faithfulness_curve(
        m, PAIRS, METRIC, {}, budgets=[0.5, 0.1]
    ),
    "the score of m0->m1 is nan": lambda m: faithfulness_curve(
        m, PAIRS, METRIC, {"m0->m1": float("nan")}
    ),
    "the score of m0->m7 is of no edge": lambda m: faithfulness_curve(
        m, PAIRS, METRIC, {"m0->m7": 1.0}
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_refusals_say_what_is_wrong(native, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BAD[message](native)


def test_ablating_a_part_takes_away_what_goes_out_of_it():
    edges = {Edge.parse(e) for e in ("m0->m1", "0.1->m1", "input->0.1<q>")}
    left = {str(edge) for edge in without(edges, {Part("head", 0, 1)})}
    assert left == {"m0->m1", "input->L0H1<q>"}
