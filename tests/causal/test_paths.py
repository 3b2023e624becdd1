"""Path patching beside TransformerLens's own and beside a loop with the inputs of readers split."""

import contextlib
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.conftest import MAKERS
from visit_tl import InputError, ModelError, ModelView, flow_graph
from visit_tl.causal.metrics import logit_difference
from visit_tl.causal.patching.block_replay import BlockRows
from visit_tl.causal.paths.chosen_edges import choose, shape_of
from visit_tl.causal.paths.path_patching import edge_effects
from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge, Part

CLEAN, CORRUPTED = [0, 3, 5, 7, 11], [0, 3, 6, 2, 11]
OTHERS = [CORRUPTED, [0, 1, 2, 4, 8], [0, 9, 9, 1, 3]]
METRIC = logit_difference(9, 4)
# TransformerLens splits the inputs of these; not of its native bridge, nor of grouped heads.
SPLIT = [
    n for n in MAKERS if "gpt2" in n or n == "hooked" or (n == "native" and not tiny.HAS_BRIDGE)
]
READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts]
needs_bridge = pytest.mark.skipif(
    tiny.RELEASE < (4,), reason="the architectures are opened as the bridges of TransformerLens 4"
)


def made(name):
    from tests.conftest import made

    return made(name)


def cached(model, ids):
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([ids]))[1]


@contextlib.contextmanager
def split_inputs(model):
    """TransformerLens's own way to give each reader a stream of its own."""
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    yield
    model.set_use_split_qkv_input(False)
    model.set_use_hook_mlp_in(False)


def written(model, cache, part):
    if part.kind == "input":
        return cache["blocks.0.hook_resid_pre"][0]
    if part.kind == "mlp":
        return cache[f"blocks.{part.layer}.hook_mlp_out"][0]
    z = cache[f"blocks.{part.layer}.attn.hook_z"][0, :, part.head]
    return z @ model.blocks[part.layer].attn.W_O[part.head]


def by_hand(model, edge, delta):
    """The metric with one edge cut, by a run of the whole model."""

    def add(tensor, hook):
        tensor = tensor.clone()
        if edge.target.kind == "head":
            tensor[0, :, edge.target.head] += delta
        else:
            tensor[0] += delta
        return tensor

    last = len(model.blocks) - 1
    name = {
        "head": f"blocks.{edge.target.layer}.hook_{edge.input}_input",
        "mlp": f"blocks.{edge.target.layer}.hook_mlp_in",
        "logits": f"blocks.{last}.hook_resid_post",
    }[edge.target.kind]
    with torch.no_grad():
        return float(METRIC(model.run_with_hooks(torch.tensor([CLEAN]), fwd_hooks=[(name, add)])))


@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
@pytest.mark.parametrize("name", SPLIT)
def test_every_edge_equals_a_run_of_the_whole_model_with_split_inputs(name, how):
    model = made(name)
    effects = edge_effects(
        model, CLEAN, METRIC, corrupted=CORRUPTED, how=how, mean_over=OTHERS, verbose=False
    )
    assert effects.edges == choose(shape_of(ModelView(model)), None)
    clean = cached(model, CLEAN)
    others = [cached(model, ids) for ids in ([CORRUPTED] if how == "resample" else OTHERS)]
    with split_inputs(model):
        for edge, value in effects.scores.items():
            own = written(model, clean, edge.source)
            new = torch.stack([written(model, c, edge.source) for c in others]).mean(0)
            delta = (0 if how == "zero" else new) - own
            expected = by_hand(model, edge, delta) - effects.clean
            assert value == pytest.approx(expected, abs=2e-5), str(edge)
    assert max(map(abs, effects.values)) > 0.01


@needs_bridge
@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_heads_equal_transformer_lens_direct_path_patching(component):
    from transformer_lens.patching import get_act_patch_direct_path

    model = tiny.gpt2(n_layer=3)
    # Theirs puts the clean write into the corrupted run.
    effects = edge_effects(
        model,
        CORRUPTED,
        METRIC,
        corrupted=CLEAN,
        senders=["0.1", "1.2"],
        receivers=[f"{layer}.{h}<{component}>" for layer in range(1, 3) for h in range(4)],
        verbose=False,
    )
    for layer, head in ((0, 1), (1, 2)):
        theirs = get_act_patch_direct_path(
            model,
            torch.tensor([CORRUPTED]),
            cached(model, CLEAN),
            cached(model, CORRUPTED),
            METRIC,
            layer,
            head,
            component,
            verbose=False,
        )
        for to in range(layer + 1, 3):
            for h in range(4):
                value = effects[f"{layer}.{head}->{to}.{h}<{component}>"]
                assert value + effects.clean == pytest.approx(float(theirs[to, h]), abs=2e-5)


@needs_bridge
@pytest.mark.parametrize("name", [n for n in READABLE if ARCHITECTURES[n].grouped])
def test_heads_that_share_keys_and_values_are_told_apart(name):
    """Every effect is that of the same weights with keys and values of its own for each head."""
    architecture = ARCHITECTURES[name]
    ours, wide = (
        edge_effects(m, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
        for m in (architecture.bridge(), architecture.bridge(architecture.expanded()))
    )
    assert ours.edges == wide.edges
    assert ours.values == pytest.approx(wide.values, abs=1e-4)
    read = [abs(v) for e, v in ours.scores.items() if e.input in ("k", "v")]
    assert max(read) > 1e-4


@needs_bridge
@pytest.mark.parametrize("name", READABLE)
def test_every_architecture_runs_block_by_block_as_in_the_whole_model(name, monkeypatch):
    model = ARCHITECTURES[name].bridge()
    ours = edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    whole = BlockRows.__init__
    monkeypatch.setattr(
        BlockRows, "__init__", lambda self, run, layer: whole(self, run, layer, alone=False)
    )
    slow = edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    assert ours.values == pytest.approx(slow.values, abs=1e-5)


def test_all_that_the_last_mlp_does_goes_to_the_logits(model):
    view = ModelView(model)
    last = view.n_layers - 1
    effects = edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    name = f"blocks.{last}.hook_mlp_out"
    new = cached(model, CORRUPTED)[name]
    with torch.no_grad():
        logits = model.run_with_hooks(
            torch.tensor([CLEAN]), fwd_hooks=[(name, lambda tensor, hook: new)]
        )
    expected = float(METRIC(logits)) - effects.clean
    assert effects[f"m{last}->logits"] == pytest.approx(expected, abs=2e-5)


def test_the_parts_of_the_corrupted_run_sum_to_the_difference_of_the_streams(model):
    view = ModelView(model)
    runs = [WrittenRun(view, view.tokens.encode(ids, None)) for ids in (CLEAN, CORRUPTED)]
    last = view.n_layers - 1
    stream = [run.at(last, "resid_post") for run in runs]
    sums = [sum(r.writes.parts.values()) + sum(r.writes.biases) for r in runs]
    assert torch.allclose(sums[1] - sums[0], stream[1] - stream[0], atol=1e-4)


@pytest.mark.parametrize("positions", [[2], [3, -1]])
def test_only_the_positions_that_are_asked_for_are_changed(positions):
    model = made("gpt2")
    whole = edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    some = edge_effects(
        model, CLEAN, METRIC, corrupted=CORRUPTED, positions=positions, verbose=False
    )
    assert some.positions == tuple(p % 5 for p in positions)
    clean, corrupted = cached(model, CLEAN), cached(model, CORRUPTED)
    mask = torch.zeros(5, 1)
    mask[positions] = 1
    with split_inputs(model):
        for edge in map(Edge.parse, ("input->L0H1<k>", "m0->L1H2<v>", "L0H3->m1")):
            source = edge.source
            delta = written(model, corrupted, source) - written(model, clean, source)
            expected = by_hand(model, edge, delta * mask) - some.clean
            assert some[edge] == pytest.approx(expected, abs=2e-5)
            # What the last MLP reads before the last position reaches no logits there.
            last = -1 in positions and edge.target == Part("mlp", 1)
            assert (abs(some[edge] - whole[edge]) > 1e-5) != last


def test_edges_can_be_chosen_by_a_graph(native):
    graph = flow_graph(native, CLEAN, heads=1)
    effects = edge_effects(native, graph, METRIC, corrupted=CORRUPTED, edges=graph, verbose=False)
    shown = {Part("head", n.layer, n.id.head) for n in graph.of_kind("head")}
    assert len(shown) == 2
    ends = {p for e in effects.edges for p in (e.source, e.target)}
    assert ends == shown | {Part("input"), Part("mlp", 0), Part("mlp", 1), Part("logits")}
    assert effects.token_ids == tuple(CLEAN)


def test_senders_and_receivers_narrow_the_edges(native):
    effects = edge_effects(
        native,
        CLEAN,
        METRIC,
        corrupted=CORRUPTED,
        senders=["m0", "input"],
        receivers=["1.2<k>", "logits"],
        verbose=False,
    )
    assert list(map(str, effects.edges)) == [
        "input->L1H2<k>",
        "m0->L1H2<k>",
        "input->logits",
        "m0->logits",
    ]


def test_values_come_in_the_order_in_which_edges_were_given(native):
    asked = ["m1->logits", "input->L0H1<k>", "L1H0->logits", "L0H0->m0", "input->L0H1<k>"]
    found = edge_effects(native, CLEAN, METRIC, corrupted=CORRUPTED, edges=asked, verbose=False)
    assert found.edges == tuple(Edge.parse(edge) for edge in asked[:4])
    alone = [
        edge_effects(native, CLEAN, METRIC, corrupted=CORRUPTED, edges=[edge], verbose=False)
        for edge in asked[:4]
    ]
    assert found.values == pytest.approx([one.values[0] for one in alone], abs=1e-5)


def test_the_same_prompt_has_no_effect(model):
    effects = edge_effects(model, CLEAN, METRIC, corrupted=CLEAN, verbose=False)
    assert set(effects.values) == {0.0}
    assert effects.clean == effects.corrupted


def test_the_table_and_the_strongest(native):
    effects = edge_effects(native, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)
    table = effects.to_dataframe()
    assert list(table.columns) == ["source", "target", "input", "effect", "share"]
    assert table.loc["m0->L1H2<v>", "effect"] == effects["m0->1.2<v>"]
    gap = effects.corrupted - effects.clean
    assert table["share"].sum() == pytest.approx(sum(effects.values) / gap)
    top = effects.top(3)
    floor = min(abs(effects[e]) for e in top)
    assert sum(abs(v) >= floor for v in effects.values) == 3
    assert set(effects.with_effect(floor)) == set(top[:2])
    with pytest.raises(InputError, match=r"k is 1000; it must be in 0\.\.\d+, the number of edges"):
        effects.top(1000)


def test_what_was_not_measured_is_refused_by_name(native):
    effects = edge_effects(
        native, CLEAN, METRIC, corrupted=CORRUPTED, edges=["m0->m1"], verbose=False
    )
    assert len(effects) == 1
    with pytest.raises(InputError, match="m1->logits was not measured; 1 other edges were"):
        effects["m1->logits"]


def test_interrupted_it_keeps_what_is_done(native):
    calls = []

    def metric(logits):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return logits[0, -1, 9]

    effects = edge_effects(native, CLEAN, metric, corrupted=CORRUPTED, verbose=False)
    assert (len(effects), effects.complete) == (3, False)
    whole = edge_effects(
        native, CLEAN, lambda logits: logits[0, -1, 9], corrupted=CORRUPTED, verbose=False
    )
    assert whole.complete
    assert all(effects[edge] == whole[edge] for edge in effects.edges)


BAD = {
    "how='resample' needs corrupted=": {},
    "how='mean' needs mean_over=": {"how": "mean"},
    "how is 'none'; it must be one of resample, mean, zero": {"how": "none"},
    "the corrupted prompt has 3 tokens, the clean one 5": {"corrupted": [0, 1, 2]},
    "a prompt of mean_over has 2 tokens": {"how": "mean", "mean_over": [[0, 1]]},
    "L5H0->logits is no edge between parts of a model of 2 layers x 4 heads": {
        "corrupted": CORRUPTED,
        "edges": ["5.0->logits"],
    },
    "edges inside a head are not patched": {"corrupted": CORRUPTED, "edges": ["1.0->1.0<q>"]},
    "no edge is left to measure": {
        "corrupted": CORRUPTED,
        "senders": ["m1"],
        "receivers": ["m0"],
    },
    "position 9 is outside the prompt": {"corrupted": CORRUPTED, "positions": [9]},
    "positions is empty": {"corrupted": CORRUPTED, "positions": []},
}


@pytest.mark.parametrize("message", BAD)
def test_refusals_say_what_is_wrong(native, message):
    import re

    with pytest.raises(InputError, match=re.escape(message)):
        edge_effects(native, CLEAN, METRIC, **BAD[message], verbose=False)


def test_a_metric_that_is_not_scalar_is_refused(native):
    with pytest.raises(InputError, match="one number is needed"):
        edge_effects(
            native, CLEAN, lambda logits: logits[0, -1], corrupted=CORRUPTED, verbose=False
        )


@pytest.mark.parametrize(("slot", "expected"), [("keys", "attn.hook_k"), ("z", "attn.hook_z")])
def test_a_hook_that_leads_nowhere_is_found_out(native, monkeypatch, slot, expected):
    """As if the model computed its heads from something else than what the hook shows."""
    real = BlockRows._batch

    def deaf(self, n, put, slots, alone):
        heard = {name: tensor for name, tensor in put.items() if name != slot}
        return real(self, n, heard, slots, alone)

    monkeypatch.setattr(BlockRows, "_batch", deaf)
    with pytest.raises(ModelError, match=f"new values at .*{expected}.* do not give at"):
        edge_effects(native, CLEAN, METRIC, corrupted=CORRUPTED, verbose=False)


def test_a_block_that_does_not_repeat_itself_is_refused(native):
    view = ModelView(native)
    run = WrittenRun(view, view.tokens.encode(CLEAN, None))
    hook = run.hooks[1]["z"]
    run.kept.kept[hook] = run.kept.kept[hook] + 0.1
    with pytest.raises(ModelError, match=r"blocks\.1 of native does not give the same numbers"):
        BlockRows(run, 1)


def test_the_model_is_left_as_it_was(model):
    flags = {k: v for k, v in vars(model.cfg).items() if isinstance(v, bool | int | str)}
    hooks = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    before = torch.random.get_rng_state()
    edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, edges=["m0->logits"], verbose=False)
    edge_effects(model, CLEAN, METRIC, corrupted=CORRUPTED, edges=["0.1->m1"], verbose=False)
    assert hooks == {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    assert flags == {k: v for k, v in vars(model.cfg).items() if isinstance(v, bool | int | str)}
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.is_grad_enabled()


def test_every_edge_of_the_model_is_there(native):
    shape = shape_of(ModelView(native))
    assert set(choose(shape, None)) == set(model_edges(shape))
    # 4 heads: input to 12 + 1 + 1; block 0's heads to m0, 12 inputs, m1, logits; and so on.
    assert len(model_edges(replace(shape, mlps=False))) == 24 + 1 + 4 * 12 + 8
