"""Effects of nodes: against loops of run_with_hooks that know nothing of the package."""

import json
import math

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS, made
from visit_tl import FileError, GraphError, InputError, ModelView, NodeId
from visit_tl.causal.metrics import kl, logit_difference, probability
from visit_tl.causal.patching.node_effects import effects
from visit_tl.graph.records import Effect

CLEAN = [0, 1, 2, 3, 4, 5, 6]
OTHER = [0, 9, 8, 3, 1, 2, 6]
MEANS = [[0, 5, 5, 1, 2, 3, 4], [0, 2, 7, 7, 1, 9, 3], OTHER]
N = len(CLEAN)
METRIC = logit_difference(3, 7)
# Float32 against float32, logits of up to 100; measured: 4e-6.
NEAR = {"abs": 5e-5, "rel": 1e-4}

NAMES = ["gpt2", "llama", "gpt2-folded"]
if tiny.HAS_BRIDGE:
    from tests.architectures import ARCHITECTURES

    NAMES += ["gpt-neox", "gemma2", "qwen3", "native"]
else:
    NAMES += ["hooked-parallel"]
_OPEN: dict[str, object] = {}


def opened(name):
    if name not in _OPEN:
        _OPEN[name] = made(name) if name in MAKERS else ARCHITECTURES[name].bridge()
    return _OPEN[name]


def metric_of(logits):
    return float(logits[0, -1, 3] - logits[0, -1, 7])


def setter(value, *index, add=False):
    """A hook function that puts a value in one place, once, and what it found there."""
    found = []

    def hook(tensor, hook):
        if found:  # compatibility mode calls once for each name
            return None
        tensor = tensor.clone()
        found.append(tensor[(0, *index)].clone())
        tensor[(0, *index)] = tensor[(0, *index)] + value if add else value
        return tensor

    return hook


def run(model, *hooks, ids=CLEAN):
    with torch.no_grad():
        return metric_of(model.run_with_hooks(torch.tensor([ids]), fwd_hooks=list(hooks)))


def cache_of(model, ids):
    return model.run_with_cache(torch.tensor([ids]))[1]


class ByHand:
    """Each kind of node, patched by plain hooks and one run each."""

    def __init__(self, model, how="resample", position=N - 1):
        self.model, self.p = model, position
        self.own = cache_of(model, CLEAN)
        runs = {"resample": [OTHER], "mean": MEANS, "zero": []}[how]
        self.others = [cache_of(model, ids) for ids in runs]

    def other(self, hook):
        tensors = [cache[hook][0] for cache in self.others]
        return sum(tensors) / len(tensors) if tensors else torch.zeros_like(self.own[hook][0])

    def put(self, hook, *inner):
        value = self.other(hook)[(self.p, *inner)]
        return run(self.model, (hook, setter(value, self.p, *inner)))

    def memory(self, layer, head, key, name):
        """Patch a key or value for all heads and queries, and take one head's row of z from it."""
        hook, z = f"blocks.{layer}.attn.hook_{name}", f"blocks.{layer}.attn.hook_z"
        kv = head // (ModelView(self.model).n_heads // self.own[hook].shape[2])
        seen = []

        def look(tensor, hook):
            seen.append(tensor[0, self.p, head].clone())

        run(self.model, (hook, setter(self.other(hook)[key, kv], key, kv)), (z, look))
        return run(self.model, (z, setter(seen[0], self.p, head)))

    def resid_mid(self, layer):
        mid = self.other(f"blocks.{layer}.hook_resid_mid")[self.p]
        pre = self.own[f"blocks.{layer}.hook_resid_pre"][0, self.p]
        return run(self.model, (f"blocks.{layer}.hook_attn_out", setter(mid - pre, self.p)))

    def __call__(self, node):
        node = NodeId.parse(node)
        at, attn = f"blocks.{node.layer}", f"blocks.{node.layer}.attn"
        if node.kind in ("key", "value"):
            return self.memory(node.layer, node.head, node.key_position, node.kind[0])
        if node.kind == "resid_mid":
            return self.resid_mid(node.layer)
        hook, inner = {
            "head": (f"{attn}.hook_z", (node.head,)),
            "z": (f"{attn}.hook_z", ()),
            "attn_neuron": (f"{attn}.hook_z", (node.neuron and node.neuron // 4, 2)),
            "head_query": (f"{attn}.hook_q", (node.head,)),
            "query": (f"{attn}.hook_q", ()),
            "neuron": (f"{at}.mlp.hook_post", (node.neuron,)),
        }.get(node.kind, (f"{at}.hook_{node.kind}", ()))
        return self.put(hook, *inner)


def some_nodes(model):
    view = ModelView(model)
    nodes = []
    for layer in range(view.n_layers):
        nodes += [f"L{layer}H{head}" for head in range(view.n_heads)]
        nodes += [f"L{layer}H{h}.{kind}{j}" for h, j in ((0, 1), (3, 4)) for kind in "kv"]
        nodes += [f"L{layer}H2.k{N - 1}", f"L{layer}H2.v{N - 1}", f"L{layer}H1.q"]
        nodes += [f"L{layer}N{n}" for n in (0, 17)] + [f"L{layer}O{view.d_head + 2}"]
        states = ["resid_pre", "query", "z", "attn_out", "mlp_out", "resid_post"]
        nodes += [f"L{layer}.{state}" for state in states]
        nodes += [] if view.parallel else [f"L{layer}.resid_mid"]
    return nodes


@pytest.mark.parametrize("how", ["resample", "mean", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_node_has_the_effect_of_plain_hooks(name, how):
    model = opened(name)
    by_hand = ByHand(model, how)
    # One architecture in full for every kind of ablation; the others in full for one.
    nodes = some_nodes(model)[:: 1 if how == "resample" or name == "llama" else 4]
    found = effects(
        model,
        CLEAN,
        METRIC,
        nodes=nodes,
        how=how,
        corrupted=OTHER if how == "resample" else None,
        mean_over=MEANS if how == "mean" else None,
        verbose=False,
    )
    before = run(model)
    assert found.clean == pytest.approx(before, **NEAR)
    assert found.left_out == {} and found.complete and all(found.exact)
    assert [str(node) for node in found.ids] == nodes
    d_head = ModelView(model).d_head
    for node, value in zip(nodes, found.values, strict=True):
        if "O" in node:  # entry d_head + 2 is entry 2 of head 1
            hook = f"blocks.{node[1]}.attn.hook_z"
            assert node.endswith(f"O{d_head + 2}")
            assert value == pytest.approx(by_hand.put(hook, 1, 2) - before, **NEAR), node
            continue
        assert value == pytest.approx(by_hand(node) - before, **NEAR), node


def test_the_kinds_that_are_compared_do_have_effects():
    found = effects(
        opened("llama"),
        CLEAN,
        METRIC,
        nodes=some_nodes(opened("llama")),
        corrupted=OTHER,
        verbose=False,
    )
    table = found.to_dataframe()
    assert (table.groupby("kind").effect.apply(lambda e: e.abs().max()) > 1e-4).all()


def test_a_position_in_the_middle_changes_all_that_follow():
    model = opened("llama")
    by_hand = ByHand(model, position=3)
    nodes = ["L0H1", "L0H3.v1", "L0.mlp_out", "L1H0"]
    found = effects(model, CLEAN, METRIC, nodes=nodes, corrupted=OTHER, positions=3, verbose=False)
    assert found.positions == (3,)
    expected = [by_hand(node) - run(model) for node in nodes]
    assert found.values == pytest.approx(expected, **NEAR)
    same = effects(
        model, CLEAN, METRIC, nodes=[f"{n}@3" for n in nodes], corrupted=OTHER, verbose=False
    )
    assert same.values == pytest.approx(found.values, **NEAR)


def test_several_positions_are_patched_together():
    model = opened("gpt2")
    z = "blocks.0.attn.hook_z"
    other = cache_of(model, OTHER)[z][0]

    def both(tensor, hook):
        tensor = tensor.clone()
        tensor[0, [2, 6], 1] = other[[2, 6], 1]
        return tensor

    found = effects(
        model, CLEAN, METRIC, nodes=["L0H1"], corrupted=OTHER, positions=[-1, 2], verbose=False
    )
    assert found.positions == (2, 6)
    assert found["L0H1"].value == pytest.approx(run(model, (z, both)) - run(model), **NEAR)


def test_the_whole_first_state_is_the_whole_difference():
    model = opened("llama")
    for direction, sign in (("noise", 1), ("denoise", -1)):
        found = effects(
            model,
            CLEAN,
            METRIC,
            nodes=["L0.resid_pre"],
            corrupted=OTHER,
            positions="all",
            direction=direction,
            verbose=False,
        )
        assert found.corrupted == pytest.approx(run(model, ids=OTHER), **NEAR)
        assert found.values[0] == pytest.approx(sign * (found.corrupted - found.clean), **NEAR)
        assert found.normalised == pytest.approx((1.0,), rel=1e-4)


def test_denoising_puts_clean_activations_into_the_corrupted_run():
    model = opened("gpt2")
    z = "blocks.1.attn.hook_z"
    own = cache_of(model, CLEAN)[z][0, N - 1]
    found = effects(
        model, CLEAN, METRIC, corrupted=OTHER, direction="denoise", nodes=["1.2"], verbose=False
    )
    patched = run(model, (z, setter(own[2], N - 1, 2)), ids=OTHER)
    assert found["L1H2"].value == pytest.approx(patched - run(model, ids=OTHER), **NEAR)


def test_every_head_is_the_default_and_makes_an_array():
    model = opened("gpt2")
    found = effects(model, CLEAN, METRIC, how="zero", verbose=False)
    assert len(found) == 8 and found.positions == (N - 1,)
    grid = found.heads()
    assert grid.shape == (2, 4)
    assert grid[1, 2] == found["a1.h2"].value
    part = effects(model, CLEAN, METRIC, how="zero", nodes=["L1H2", "L0N3"], verbose=False)
    assert part.heads()[1, 2] == pytest.approx(grid[1, 2], **NEAR)
    assert sum(math.isnan(x) for x in part.heads().flatten()) == 7
    assert all(math.isnan(x) for x in part.normalised)


def test_shipped_metrics_take_texts_and_the_clean_run():
    model = opened("gpt2")
    prompt = "a b c d"
    for metric in (probability(" a"), kl()):
        found = effects(model, prompt, metric, how="zero", nodes=["L0.mlp_out"], verbose=False)
        assert abs(found.values[0]) > 1e-4
        assert found.metric.startswith(("probability(", "kl("))
    assert found.clean == pytest.approx(0, abs=1e-6) and found.values[0] > 0


def test_a_graphs_nodes_get_their_effects_and_the_rest_a_reason():
    model = opened("llama")
    graph = vt.flow_graph(model, CLEAN)
    found = effects(model, CLEAN, METRIC, nodes=graph, corrupted=OTHER, verbose=False)
    assert len(found) + len(found.left_out) == len(graph)
    kinds = {node.kind for node in found.left_out}
    assert kinds == {"attn_in", "mlp_in", "neuron_key", "final_norm", "logits"}
    drawn = found.onto(graph)
    assert drawn["L1H2"].effect == Effect(found["L1H2"].value, True)
    assert drawn["logits"].effect is None
    assert all((node.effect is None) == (node.id in found.left_out) for node in drawn)
    by_hand = ByHand(model)
    assert drawn["L1H2"].effect.value == pytest.approx(by_hand("L1H2") - run(model), **NEAR)
    with pytest.raises(GraphError, match="the metric reads it"):
        found["logits"]
    with pytest.raises(GraphError, match="it was not asked for"):
        found["L1H2@3"]


def test_effects_go_only_onto_graphs_of_their_tokens_and_position():
    model = opened("llama")
    found = effects(model, CLEAN, METRIC, how="zero", verbose=False)
    with pytest.raises(GraphError, match="other tokens than the graph's"):
        found.onto(vt.flow_graph(model, OTHER))
    with pytest.raises(GraphError, match=r"positions \[6\], the graph is of position 2"):
        found.onto(vt.flow_graph(model, CLEAN, position=2))


def test_the_table_has_a_row_a_node():
    found = effects(
        opened("gpt2"), CLEAN, METRIC, how="zero", nodes=["L1H2.v3", "L0N5@2"], verbose=False
    )
    table = found.to_dataframe()
    assert table["id"].tolist() == ["L1H2.v3", "L0N5@2"]
    assert table["layer"].tolist() == [1, 0]
    assert table["key_position"].isna().tolist() == [False, True]
    assert table["position"].isna().tolist() == [True, False]
    assert table["effect"].tolist() == list(found.values)
    assert table["exact"].tolist() == [True, True]


def test_half_precision_is_as_near_as_its_rounding():
    model = tiny.llama(seed=2).to(torch.bfloat16)
    nodes = ["L0H0", "L0H3", "L1H1.v2", "L1.mlp_out"]
    found = effects(model, CLEAN, METRIC, nodes=nodes, corrupted=OTHER, verbose=False)
    exact = effects(tiny.llama(seed=2), CLEAN, METRIC, nodes=nodes, corrupted=OTHER, verbose=False)
    span = abs(exact.clean - exact.corrupted) + max(map(abs, exact.values))
    assert found.values == pytest.approx(exact.values, abs=0.1 * span)


# --- screening ----------------------------------------------------------------------------------


def test_what_is_linear_is_estimated_exactly():
    """Without a final norm, what the last block writes moves the logits linearly."""
    model = tiny.native(normalization_type=None)
    nodes = ["L1N4", "L1N11", "L1.mlp_out", "L1.resid_post"]
    asked = {"nodes": nodes, "corrupted": OTHER, "verbose": False}
    exact = effects(model, CLEAN, METRIC, **asked)
    guessed = effects(model, CLEAN, METRIC, screen="attribution", top=0, **asked)
    assert guessed.exact == (False,) * 4
    assert guessed.values == pytest.approx(exact.values, rel=1e-3, abs=1e-4)
    assert max(map(abs, exact.values)) > 1e-2


def test_a_small_change_is_estimated_well():
    """Between two nearly equal runs every node's effect is linear."""
    model = tiny.llama(seed=4)
    with torch.no_grad():  # token 9 is all but token 1
        embed = model.W_E
        embed[9] = embed[1] + 1e-3 * embed[9]
    nodes = [node for node in some_nodes(model) if "k" not in node]
    asked = {"nodes": nodes, "corrupted": [0, 9, *CLEAN[2:]], "positions": 1, "verbose": False}
    exact = effects(model, CLEAN, METRIC, **asked)
    guessed = effects(model, CLEAN, METRIC, screen="attribution", top=0, **asked)
    largest = max(map(abs, exact.values))
    assert largest > 1e-4
    assert guessed.values == pytest.approx(exact.values, abs=0.05 * largest)


@pytest.mark.skipif(tiny.RELEASE < (4,), reason="attribution_patch came with TransformerLens 4")
def test_estimates_are_those_of_transformer_lens():
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    model = opened("gpt2")
    theirs = attribution_patch(
        model,
        torch.tensor([CLEAN]),
        torch.tensor([OTHER]),
        lambda logits: logits[0, -1, 3] - logits[0, -1, 7],
    ).node_scores
    ours = effects(
        model,
        CLEAN,
        METRIC,
        nodes=[*(f"L{layer}.mlp_out" for layer in (0, 1)), *(f"L0H{h}" for h in range(4))],
        corrupted=OTHER,
        direction="denoise",
        positions="all",
        screen="attribution",
        top=0,
        verbose=False,
    )
    summed: dict[tuple, float] = {}
    for node, score in theirs.items():
        kind = {"attn_head_out": "head", "mlp_out": "mlp_out"}.get(node.kind)
        at = (kind, node.layer, node.head)
        summed[at] = summed.get(at, 0.0) + float(score)
    expected = [summed[node.kind, node.layer, node.head] for node in ours.ids]
    assert ours.values == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_screen_measures_the_largest_and_says_which():
    model = opened("llama")
    nodes = some_nodes(model)
    asked = {"nodes": nodes, "corrupted": OTHER, "verbose": False}
    guessed = effects(model, CLEAN, METRIC, screen="attribution", top=0, **asked)
    some = effects(model, CLEAN, METRIC, screen="attribution", top=5, **asked)
    every = effects(model, CLEAN, METRIC, **asked)
    order = sorted(range(len(nodes)), key=lambda i: -abs(guessed.values[i]))
    assert {i for i, exact in enumerate(some.exact) if exact} == set(order[:5])
    for i in range(len(nodes)):
        expected = every if i in order[:5] else guessed
        assert some.values[i] == pytest.approx(expected.values[i], **NEAR)
    assert not guessed[nodes[0]].exact and every[nodes[0]].exact


# --- what is left behind ------------------------------------------------------------------------


def state_of(model):
    return (
        {name: len(h.fwd_hooks) for name, h in model.hook_dict.items()},
        {name: len(module._forward_pre_hooks) for name, module in model.named_modules()},
        {name: module.training for name, module in model.named_modules()},
        dict(vars(model.cfg)),
        {
            name: (p.requires_grad, p.grad, float(p.detach().sum()))
            for name, p in model.named_parameters()
        },
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt2-folded"])
def test_the_model_is_afterwards_as_it_was(name):
    model = opened(name)
    model.add_hook("blocks.0.hook_resid_pre", lambda t, hook: None)
    try:
        run(model)  # a bridge's blocks put on hooks of their own when they first run
        before = state_of(model)
        asked = {"corrupted": OTHER, "nodes": ["L0H1", "L1H2.k3", "L1N3"], "verbose": False}
        effects(model, CLEAN, METRIC, screen="attribution", top=2, **asked)
        assert state_of(model) == before

        def fail(logits, calls=[]):  # noqa: B006 - one list for all calls
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("the metric failed")
            return logits[0, -1, 0]

        with pytest.raises(RuntimeError, match="the metric failed"):
            effects(model, CLEAN, fail, **asked)
        assert state_of(model) == before
    finally:
        model.reset_hooks()


# --- interrupted and resumed --------------------------------------------------------------------


class Interrupted:
    """A metric that is interrupted at one of its calls, and counts them."""

    name = "counting"

    def __init__(self, at=None):
        self.calls, self.at = 0, at

    def __call__(self, logits):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return logits[0, -1, 3]


def test_an_interrupted_sweep_keeps_what_is_done():
    model = opened("gpt2")
    whole = effects(model, CLEAN, Interrupted(), how="zero", verbose=False)
    part = effects(model, CLEAN, Interrupted(at=5), how="zero", verbose=False)
    assert (len(part), part.complete, whole.complete) == (3, False, True)
    assert part.values == pytest.approx(whole.values[:3], **NEAR)
    with pytest.raises(GraphError, match="interrupted before it"):
        part["L1H3"]
    screened = effects(
        model,
        CLEAN,
        Interrupted(at=5),
        corrupted=OTHER,
        screen="attribution",
        top=8,
        verbose=False,
    )
    assert len(screened) == 8 and not screened.complete
    assert sum(screened.exact) == 1


def test_a_resumed_sweep_repeats_nothing(tmp_path):
    model, path = opened("gpt2"), tmp_path / "sweep.json"
    asked = {"how": "zero", "verbose": False, "resume": path}
    first = Interrupted(at=5)
    part = effects(model, CLEAN, first, **asked)
    assert set(json.loads(path.read_text())["done"]) == {str(node) for node in part.ids}
    again = Interrupted()
    whole = effects(model, CLEAN, again, **asked)
    assert again.calls == 1 + 8 - 3  # the clean run, and what was missing
    assert whole.complete and len(whole) == 8 and whole.values[:3] == part.values
    fresh = effects(model, CLEAN, Interrupted(), how="zero", verbose=False)
    assert whole.values == pytest.approx(fresh.values, **NEAR)
    more = Interrupted()
    effects(model, CLEAN, more, nodes=["L0H1", "L0.mlp_out"], **asked)
    assert more.calls == 2
    assert not list(tmp_path.glob(".*"))


def test_the_file_of_another_sweep_is_refused(tmp_path):
    model, path = opened("gpt2"), tmp_path / "sweep.json"
    effects(model, CLEAN, METRIC, how="zero", verbose=False, resume=path)
    content = path.read_bytes()

    def refused(says, model=model, prompt=CLEAN, metric=METRIC, **asked):
        with pytest.raises(FileError, match=says):
            effects(model, prompt, metric, verbose=False, resume=path, **({"how": "zero"} | asked))
        assert path.read_bytes() == content

    refused("another sweep: its tokens is", prompt=OTHER)
    refused(r"its metric is 'logit_difference\(3, 7, -1\)'", metric=logit_difference(3, 8))
    refused("its how is 'zero', this one's is 'mean'", how="mean", mean_over=MEANS)
    refused("its positions is", positions=[1])
    refused("its model is|its weights is", model=opened("llama"))
    refused("its weights is", model=tiny.gpt2(seed=5))


def test_a_file_that_is_no_progress_is_refused(tmp_path):
    path = tmp_path / "sweep.json"
    asked = {"how": "zero", "verbose": False, "resume": path}
    path.write_text('{"schema": "something else"}')
    with pytest.raises(FileError, match="is no progress of a sweep"):
        effects(opened("gpt2"), CLEAN, METRIC, **asked)
    path.write_text('{"schema": ')
    with pytest.raises(FileError, match="cannot be read as the progress"):
        effects(opened("gpt2"), CLEAN, METRIC, **asked)
    path.write_text('{"schema": "visit_tl sweep 1", "about": {}}')
    with pytest.raises(FileError, match="is damaged"):
        effects(opened("gpt2"), CLEAN, METRIC, **asked)
    asked["resume"] = tmp_path / "nowhere" / "sweep.json"
    with pytest.raises(FileError, match="does not exist; make it first"):
        effects(opened("gpt2"), CLEAN, METRIC, **asked)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "pass corrupted="),
        ({"corrupted": OTHER[:-1]}, "corrupted has 6 tokens but the prompt has 7"),
        ({"how": "mean"}, "go together; one is missing"),
        (
            {"how": "mean", "mean_over": "a b"},
            "mean_over must be a list of prompts, each a text or token ids",
        ),
        ({"how": "mean", "mean_over": [OTHER, [0, 1]]}, r"mean_over\[1\] has 2 tokens"),
        ({"how": "zero", "mean_over": [OTHER]}, "go together; one is missing"),
        ({"how": "average"}, "how='average' is not known; choose 'resample', 'mean', 'zero'"),
        ({"how": "zero", "direction": "back"}, "direction='back' is not known"),
        ({"how": "zero", "direction": "denoise", "corrupted": OTHER}, "how='resample', not 'zero'"),
        ({"how": "zero", "screen": "gradient"}, "screen='gradient' is not known"),
        ({"how": "zero", "top": -1}, "top must be an integer of at least 0, got -1"),
        ({"how": "zero", "positions": 7}, r"position 7 is outside the prompt, which has 7"),
        ({"how": "zero", "positions": []}, "no positions were chosen"),
        (
            {"how": "zero", "positions": "end"},
            "positions must be a position, a list",
        ),
        ({"how": "zero", "nodes": []}, "no nodes were chosen"),
        ({"how": "zero", "nodes": "head"}, "nodes='head' is not known; choose 'heads'"),
        ({"how": "zero", "nodes": ["L2H0"]}, r"L2H0 is not in .*: its layer is outside 0\.\.1"),
        ({"how": "zero", "nodes": ["L1H4"]}, r"its head is outside 0\.\.3"),
        ({"how": "zero", "nodes": ["L1H3.v7"]}, r"its key_position is outside 0\.\.6"),
        ({"how": "zero", "nodes": ["L1H3@7"]}, r"its position is outside 0\.\.6"),
        ({"how": "zero", "nodes": ["L0N40"]}, r"its neuron is outside 0\.\.39"),
        ({"how": "zero", "nodes": ["L0O16"]}, r"its neuron is outside 0\.\.15"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, says):
    with pytest.raises(InputError, match=says):
        effects(opened("gpt2"), CLEAN, METRIC, verbose=False, **asked)


def test_a_metric_that_is_no_scalar_and_a_graph_of_another_prompt_are_refused():
    model = opened("gpt2")
    with pytest.raises(InputError, match=r"gave a tensor of shape \[60\], but one number"):
        effects(model, CLEAN, lambda logits: logits[0, -1], how="zero", verbose=False)
    with pytest.raises(InputError, match="the graph is of 7 tokens"):
        effects(model, CLEAN, METRIC, nodes=vt.flow_graph(model, OTHER), how="zero", verbose=False)
    with pytest.raises(InputError, match="the metric has no gradient"):
        effects(
            model,
            CLEAN,
            lambda logits: float(logits.detach()[0, -1, 0]),
            how="zero",
            screen="attribution",
            verbose=False,
        )


def test_nodes_that_a_model_does_not_have_are_left_out_with_a_reason():
    model = opened("gpt-neox" if tiny.HAS_BRIDGE else "hooked-parallel")
    found = effects(
        model, CLEAN, METRIC, nodes=["L0.resid_mid", "L0H1", "L1.b_O"], how="zero", verbose=False
    )
    assert [str(node) for node in found.ids] == ["L0H1"]
    assert "has no resid_mid" in found.left_out[NodeId("resid_mid", 0)]
    assert found.left_out[NodeId("b_O", 1)] == "a bias is the same in every run"


# --- the real model -----------------------------------------------------------------------------


@pytest.mark.model
def test_all_heads_of_the_real_model_run_only_the_rows_and_blocks_after_the_change(smol):
    """Equal to plain hooks, and a fraction of their work; `visit-tl bench` has the times."""
    clean = "When Mary and John went to the store, John gave a drink to"
    other = "When Mary and John went to the store, Mary gave a drink to"
    ids, others = smol.to_tokens(clean), smol.to_tokens(other)
    mary, john = int(smol.to_tokens(" Mary")[0, -1]), int(smol.to_tokens(" John")[0, -1])
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(30)]
    cache = smol.run_with_cache(others, names_filter=names)[1]

    def loop(layer, head):
        hook = (names[layer], setter(cache[names[layer]][0, -1, head], -1, head))
        with torch.no_grad():
            logits = smol.run_with_hooks(ids, fwd_hooks=[hook])
        return float(logits[0, -1, mary] - logits[0, -1, john])

    rows = [0] * 30
    handles = [
        block.register_forward_pre_hook(counter(rows, layer), with_kwargs=True)
        for layer, block in enumerate(smol.blocks)
    ]
    try:
        found = effects(
            smol, clean, logit_difference(" Mary", " John"), corrupted=other, verbose=False
        )
    finally:
        for handle in handles:
            handle.remove()
    assert found.way == "rows" and len(found) == 270
    for layer in range(0, 30, 3):
        metric = loop(layer, layer % 9)
        effect = found.heads()[layer, layer % 9]
        assert effect == pytest.approx(metric - found.clean, abs=1e-4)
    # One row for each head that was changed before or in the block; two unchanged rows beside each
    # of two batches; two prompts, and one again for its keys and values; tries in the first block.
    n = ids.shape[1]
    for layer in range(30):
        changed = 9 * (layer + 1)
        assert changed <= rows[layer] <= changed + 4 + (3 if layer else 20) * n
    # A loop of hooks runs every row of every block for every head.
    assert sum(rows) < 270 * 30 * n / 20


def counter(rows, layer):
    """Counts the rows that enter a block."""

    def count(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        rows[layer] += hidden.shape[0] * hidden.shape[1]

    return count
