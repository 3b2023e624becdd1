"""The same weights give the same graph, whatever class, release and weight processing.

`make releases` runs this file and the core tests with each release of TransformerLens that is
promised, each in an environment of its own. The golden graphs under tests/releases/ tie the
releases to each other; `python -m tests.test_releases` writes them anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import test_by_hand, tiny
from tests.conftest import MAKERS, made
from visit_tl import DecompositionError, InputError, ModelError, ModelView, Trace
from visit_tl.graph.records import Hidden
from visit_tl.lens import readout as lens
from visit_tl.xray import conservation as conserve

IDS = [0, 1, 12, 3, 7, 2, 14]
GOLDEN = Path(__file__).parent / "releases"
# The project's promise: "scores within 1e-4". Norms are of vectors of up to several tens.
CLOSE = {"abs": 1e-4, "rel": 1e-4}
# Everything that adds anything is kept: 4 heads, all positions, and more neurons than there are.
ALL = {"heads": 4, "values": len(IDS), "neurons": (60, 60)}

needs_bridge = pytest.mark.skipif(
    not tiny.HAS_BRIDGE, reason="TransformerLens 2.x has no TransformerBridge"
)
needs_hooked = pytest.mark.skipif(
    not tiny.HAS_HOOKED, reason="TransformerLens 4.x has no HookedTransformer"
)
families = pytest.mark.parametrize("family", ["gpt2", "llama"])


def hf_of(family):
    return getattr(tiny, f"hf_{family}")()


def scores(graph):
    return {(str(e.source), str(e.target), e.kind): e.score for e in graph.edges}


def assert_close(ours, theirs, *names):
    for name in names:
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None), (ours.id, name)
        if one is not None:
            assert one == pytest.approx(other, **CLOSE), (ours.id, name)


def assert_same_node(ours, theirs):
    assert (ours.label, ours.rank, ours.token) == (theirs.label, theirs.rank, theirs.token), ours.id
    assert [t.id for t in ours.top] == [t.id for t in theirs.top], ours.id
    assert [t.id for t in ours.bottom] == [t.id for t in theirs.bottom], ours.id
    assert_close(ours, theirs, "norm", "prob", "entropy", "coefficient", "attention")


def assert_same(ours, theirs):
    """Ids, labels and ranks equal, every number within 1e-4."""
    assert [str(n.id) for n in ours] == [str(n.id) for n in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert_same_node(one, other)
    assert scores(ours) == pytest.approx(scores(theirs), **CLOSE)
    assert (ours.target_id, ours.tokens, ours.hidden) == (
        theirs.target_id,
        theirs.tokens,
        theirs.hidden,
    )


# --- class against class -------------------------------------------------------------------------


@needs_bridge
@needs_hooked
@families
@pytest.mark.parametrize("position", [-1, 3])
@pytest.mark.parametrize("preset", ["default", "paper"])
class TestHookedTransformerAndBridgeGiveTheSameGraph:
    def graphs(self, one, other, preset, position):
        return (vt.flow_graph(m, IDS, preset=preset, position=position) for m in (one, other))

    def test_of_weights_as_they_are(self, family, preset, position):
        hooked = tiny.hooked_from(hf_of(family))
        assert_same(*self.graphs(hooked, tiny.bridged(hf_of(family)), preset, position))

    def test_of_folded_weights(self, family, preset, position):
        hooked = tiny.hooked_from(hf_of(family), fold=True)
        compatible = tiny.folded(tiny.bridged(hf_of(family)))
        assert_same(*self.graphs(hooked, compatible, preset, position))


@needs_bridge
@families
def test_compatibility_mode_without_processing_changes_nothing(family):
    compatible = tiny.bridged(hf_of(family))
    compatible.enable_compatibility_mode(no_processing=True)
    assert_same(vt.flow_graph(compatible, IDS), vt.flow_graph(tiny.bridged(hf_of(family)), IDS))


@needs_hooked
def test_a_hooked_transformer_gives_the_graph_worked_out_by_hand():
    graph = vt.flow_graph(tiny.hooked_hand_set(), [0, 1, 2], values=3)
    test_by_hand.test_the_graph_has_exactly_the_nodes_worked_out_by_hand(graph)
    test_by_hand.test_every_readout_is_the_softmax_of_the_vector_worked_out_by_hand(graph)
    test_by_hand.test_every_edge_has_the_kind_and_score_worked_out_by_hand(graph)
    test_by_hand.test_coefficients_tokens_hooks_and_what_is_hidden(graph)


@needs_hooked
@families
@pytest.mark.parametrize(
    "flags",
    [
        {"use_attn_result": True},
        {"use_split_qkv_input": True},
        {"use_attn_in": True},
        {"use_hook_mlp_in": True},
        {"ungroup_grouped_query_attention": True},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_the_flags_of_a_hooked_transformer_change_no_graph_and_stay(family, flags):
    if family == "llama" and "use_attn_in" in flags:
        pytest.skip("TransformerLens has no use_attn_in for grouped queries")
    plain = vt.flow_graph(tiny.hooked_from(hf_of(family)), IDS)
    model = tiny.hooked_from(hf_of(family))
    for name, value in flags.items():
        getattr(model, f"set_{name}")(value)
    assert_same(vt.flow_graph(model, IDS), plain)
    assert {name: getattr(model.cfg, name) for name in flags} == flags


@needs_hooked
@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_type": "LNPre"},
        {"normalization_type": "RMS"},
        {"normalization_type": "RMSPre"},
        {"normalization_type": None},
        {"attn_only": True},
        {"parallel_attn_mlp": True},
        {"output_logits_soft_cap": 5.0},
        {"attn_scores_soft_cap": 5.0},
        {"positional_embedding_type": "alibi"},
        {"positional_embedding_type": "shortformer"},
        {"use_attn_scale": False},
        {"attn_types": ["global", "local"], "use_local_attn": True, "window_size": 2},
        {"gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 2},
        {"positional_embedding_type": "rotary", "rotary_dim": 2, "rotary_adjacent_pairs": True},
    ],
    ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()),
)
def test_every_kind_of_hooked_transformer_comes_apart_and_reads_as_its_own_logits(settings):
    model = tiny.hooked(**settings)
    graph = vt.flow_graph(model, IDS, position=4)
    assert max(graph.residual_error.values()) < 1e-5
    with torch.no_grad():
        probs = model(torch.tensor([IDS]))[0, 4].softmax(-1)
    for token in graph["logits"].top:
        assert token.prob == pytest.approx(float(probs[token.id]), abs=1e-5)
    assert graph.target_id == int(probs.argmax())


# --- what weight processing changes (docs/maths.md) ----------------------------------------------


def raw_and_folded():
    """Pairs of the same weights, by the class: as they are and processed."""
    pairs = []
    for family in ("gpt2", "llama"):
        if tiny.HAS_HOOKED:
            pairs.append(pytest.param("hooked", family, id=f"hooked-{family}"))
        if tiny.HAS_BRIDGE:
            pairs.append(pytest.param("bridge", family, id=f"bridge-{family}"))
    return pytest.mark.parametrize(("kind", "family"), pairs)


def both(kind, family):
    if kind == "hooked":
        return tiny.hooked_from(hf_of(family)), tiny.hooked_from(hf_of(family), fold=True)
    return tiny.bridged(hf_of(family)), tiny.folded(tiny.bridged(hf_of(family)))


class Folding:
    """Every vector of a processed model's graph, worked out from the weights as they were."""

    def __init__(self, model, ids):
        self.view = ModelView(model)
        self.trace = Trace.run(self.view, self.view.tokens.encode(ids, None))
        self.centring = self.view.final_norm.kind == "LN"

    def centred(self, vectors):
        """What centring leaves of what is written; RMSNorm does not ignore the mean."""
        return vectors - vectors.mean(-1, keepdim=True) if self.centring else vectors

    def vectors(self):
        found = {}
        for layer, t in self.trace.layers.items():
            found |= self.states(layer, t) | self.attention(layer, t) | self.mlp(layer, t)
        norm = self.view.final_norm
        last = self.trace.layers[self.view.n_layers - 1].resid_post
        found["final_norm"] = found["logits"] = self.without_gain(norm, norm(last))
        return found

    def without_gain(self, norm, state):
        return (state - (0 if norm.bias is None else norm.bias)) / norm.weight

    def with_gain(self, norm, columns):
        """A column of W_Q, W_K or W_in once the gain is folded into it and it is centred."""
        return self.centred(norm.weight * columns)

    def states(self, layer, t):
        stream = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        found = {f"L{layer}.{name}": self.centred(getattr(t, name)) for name in stream}
        found[f"L{layer}.attn_in"] = self.without_gain(self.view.norm(layer, "ln1"), t.attn_in)
        found[f"L{layer}.mlp_in"] = self.without_gain(self.view.norm(layer, "ln2"), t.mlp_in)
        return found

    def value_bias(self, layer):
        """b_V and what the bias of ln1 gives through W_V, per query head."""
        attn, norm = self.view.model.blocks[layer].attn, self.view.norm(layer, "ln1")
        heads = range(self.view.n_heads)
        b_V = getattr(attn, "b_V", None)
        per_head = self.view.n_heads // attn.W_V.shape[0]
        zero = torch.zeros(self.view.d_head)
        return torch.stack(
            [
                (zero if b_V is None else b_V[h // per_head])
                + (zero if norm.bias is None else norm.bias @ attn.W_V[h // per_head])
                for h in heads
            ]
        ).detach()

    def attention(self, layer, t):
        view, w, norm = self.view, self.view.weights(layer), self.view.norm(layer, "ln1")
        moved = self.value_bias(layer)
        group = view.n_heads // t.keys.shape[1]
        found, b_O = {}, 0 if w.b_O is None else w.b_O
        for h in range(view.n_heads):
            kv = view.kv_head(w.W_K.shape[0])[h]
            query = w.W_K[kv] @ t.query[h]
            found[f"L{layer}H{h}.q"] = self.with_gain(norm, query)
            for j in range(len(IDS)):
                key = t.keys[j, h // group]
                key = key if t.rotation is None else t.rotation.transpose(key)
                value = (t.values[j, h // group] - moved[h]) @ w.W_O[h]
                found[f"L{layer}H{h}.k{j}"] = self.with_gain(norm, w.W_Q[h] @ key)
                found[f"L{layer}H{h}.v{j}"] = self.centred(value)
            found[f"L{layer}H{h}"] = self.centred((t.z[h] - moved[h]) @ w.W_O[h])
            for i in range(view.d_head):
                found[f"L{layer}O{h * view.d_head + i}"] = self.centred(w.W_O[h, i])
            b_O = b_O + moved[h] @ w.W_O[h]
        for whole, part in (("query", "H{}.q"), ("z", "H{}")):
            parts = [found[f"L{layer}" + part.format(h)] for h in range(view.n_heads)]
            found[f"L{layer}.{whole}"] = torch.stack(parts).sum(0)
        if b_O.any():
            found[f"L{layer}.b_O"] = self.centred(b_O)
        return found

    def mlp(self, layer, t):
        w, norm = self.view.weights(layer), self.view.norm(layer, "ln2")
        found = {}
        for n in range(len(t.mlp_post)):
            found[f"L{layer}N{n}"] = self.centred(w.W_out[n])
            found[f"L{layer}N{n}.k"] = self.with_gain(norm, w.W_in[:, n])
        if w.b_out is not None:
            found[f"L{layer}.b_out"] = self.centred(w.b_out)
        return found


# What reads alike before and after: the sums, the rows of W_O and W_out, and the end.
ALIKE = {
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "b_out", "attn_neuron",
    "neuron", "final_norm", "logits",
}  # fmt: skip
# What the gain of ln1 or ln2 moves into or out of.
OF_GAINS = {"attn_in", "mlp_in", "query", "head_query", "key", "neuron_key"}
# What the value biases leave for b_O.
OF_VALUE_BIASES = {"value", "head", "z", "b_O"}


@raw_and_folded()
class TestWhatFoldingChanges:
    def test_every_node_is_what_the_weights_before_it_say(self, kind, family):
        raw, processed = both(kind, family)
        graph, folding = vt.flow_graph(processed, IDS, **ALL), Folding(raw, IDS)
        expected = folding.vectors()
        assert {str(n.id) for n in graph} == set(expected)
        assert all(hidden == Hidden() for hidden in graph.hidden.values())
        names = [str(n.id) for n in graph if n.kind not in ("final_norm", "logits")]
        readout = lens.read(
            folding.view, torch.stack([expected[n] for n in names]), [graph.target_id]
        )
        for i, name in enumerate(names):
            node = graph[name]
            assert node.norm == pytest.approx(float(expected[name].norm()), **CLOSE), name
            assert node.prob == pytest.approx(float(readout.target_probs[i, 0]), **CLOSE), name
            assert node.entropy == pytest.approx(float(readout.entropy[i]), **CLOSE), name
            assert node.rank == int(readout.target_ranks[i, 0]), name
            assert [t.id for t in node.top] == readout.top_ids[i].tolist(), name
        end = float(expected["final_norm"].norm())
        assert graph["final_norm"].norm == pytest.approx(end, **CLOSE)

    def test_what_is_not_named_reads_as_before(self, kind, family):
        raw, processed = (vt.flow_graph(model, IDS, **ALL) for model in both(kind, family))
        alike = ALIKE | (OF_VALUE_BIASES if family == "llama" else set())
        assert {n.kind for n in raw} | {n.kind for n in processed} <= (
            ALIKE | OF_GAINS | OF_VALUE_BIASES
        )
        for node in raw:
            after = processed[node.id]
            if node.kind not in alike:
                continue
            assert [t.id for t in node.top] == [t.id for t in after.top], node.id
            assert (node.rank, node.token) == (after.rank, after.token), node.id
            assert_close(node, after, "prob", "entropy")
        assert (raw.target_id, raw.tokens) == (processed.target_id, processed.tokens)

    def test_attention_and_activations_are_as_before(self, kind, family):
        raw, processed = (vt.flow_graph(model, IDS, **ALL) for model in both(kind, family))
        for node in raw.of_kind("key", "value", "neuron", "neuron_key", "head"):
            assert_close(node, processed[node.id], "coefficient", "attention")

    def test_what_is_named_does_change(self, kind, family):
        raw, processed = (vt.flow_graph(model, IDS, **ALL) for model in both(kind, family))
        changed = OF_GAINS | (OF_VALUE_BIASES if family == "gpt2" else set())
        for name in changed:
            nodes = raw.of_kind(name)
            assert nodes, name
            moved = [abs(node.prob - processed[node.id].prob) for node in nodes]
            assert max(moved) > 1e-3, name

    def test_norms_shrink_only_by_the_mean_that_layer_norm_ignores(self, kind, family):
        raw, processed = (vt.flow_graph(model, IDS, **ALL) for model in both(kind, family))
        for node in raw.of_kind(*(ALIKE - {"final_norm", "logits"})):
            after = processed[node.id].norm
            if family == "llama":
                assert after == pytest.approx(node.norm, **CLOSE), node.id
            else:
                assert after <= node.norm * (1 + 1e-5), node.id


# --- release against release ---------------------------------------------------------------------


def golden_graphs():
    """Graphs of weights that no release of torch or transformers changes, by class and family."""
    for family in ("gpt2", "llama"):
        for fold in (False, True):
            name = f"{family}-folded" if fold else family
            if tiny.HAS_BRIDGE:
                model = tiny.bridged(tiny.numpy_weights(hf_of(family)))
                yield name, _small(tiny.folded(model) if fold else model)
            if tiny.HAS_HOOKED:
                hf = tiny.numpy_weights(hf_of(family))
                yield name, _small(tiny.hooked_from(hf, fold=fold))


def _small(model):
    return vt.flow_graph(model, IDS, heads=2, values=2, neurons=(3, 2), k=3)


def facts(graph):
    """What a golden file keeps: ids, labels, ranks and scores."""
    return {
        "target": graph.target_id,
        "nodes": {
            str(n.id): [n.label, n.rank, *(round(x, 6) for x in (n.norm, n.prob))] for n in graph
        },
        "edges": {f"{a} > {b}": [kind, round(x, 6)] for (a, b, kind), x in scores(graph).items()},
    }


def test_every_release_and_class_gives_the_golden_graphs():
    for name, graph in golden_graphs():
        golden, ours = json.loads((GOLDEN / f"{name}.json").read_text()), facts(graph)
        assert ours["target"] == golden["target"], name
        assert list(ours["nodes"]) == list(golden["nodes"]), name
        assert list(ours["edges"]) == list(golden["edges"]), name
        for part in ("nodes", "edges"):
            for item, values in ours[part].items():
                for value, wanted in zip(values, golden[part][item], strict=True):
                    exact = isinstance(wanted, str | int)
                    assert value == (wanted if exact else pytest.approx(wanted, **CLOSE)), item


# --- the caller's model is as it was -------------------------------------------------------------


@pytest.fixture(params=list(MAKERS))
def owned(request):
    """A model as a caller has it: with hooks of its own, one of them permanent."""
    model = made(request.param)
    # The first pass of any bridge puts hooks of TransformerLens's own on its norms, for good.
    model(torch.tensor([IDS]))
    entry = first_hook(model)
    entry.add_hook(lambda tensor, hook: None)
    entry.add_hook(lambda tensor, hook: None, is_permanent=True)
    yield model
    model.reset_hooks(including_permanent=True)


def first_hook(model, layer=0):
    """Where the stream enters a block; a bridge has hook_resid_pre only as another name for it."""
    hooks = model.hook_dict
    name = f"blocks.{layer}.hook_resid_pre"
    return hooks[name] if name in hooks else hooks[f"blocks.{layer}.hook_in"]


def state_of(model):
    """All that a forward pass could leave behind, in the model and around it."""
    return {
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "gradients": {n: (p.requires_grad, p.grad is None) for n, p in model.named_parameters()},
        "hooks": {
            n: (len(h.fwd_hooks), len(h.bwd_hooks), len(h._forward_hooks), len(h._backward_hooks))
            for n, h in model.hook_dict.items()
        },
        "modules": {
            n: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
            for n, m in model.named_modules()
        },
        "flags": dict(vars(model.cfg)),
        "grad": torch.is_grad_enabled(),
        # Not Python's: beartype, which checks this run, draws from it. A process apart has that.
        "random": (torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("int64"))),
    }


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    for name in ("gradients", "hooks", "modules", "flags", "grad"):
        assert before[name] == after[name], name
    for name in ("parameters", "buffers"):
        assert before[name].keys() == after[name].keys()
        for key, tensor in before[name].items():
            assert torch.equal(tensor, after[name][key]), key
    assert all(map(torch.equal, before["random"], after["random"]))


class TestTheCallersModelIsAsItWas:
    @pytest.mark.parametrize("grad", [True, False])
    def test_afterwards(self, owned, grad):
        with torch.set_grad_enabled(grad):
            before = state_of(owned)
            vt.flow_graph(owned, IDS)
            assert_unchanged(before, state_of(owned))

    def test_and_its_hooks_fire_once(self, owned):
        seen = []
        first_hook(owned).add_hook(lambda tensor, hook: seen.append(1))
        vt.flow_graph(owned, IDS)
        assert seen == [1]

    def test_after_an_exception_in_the_callers_hook(self, owned):
        def fail(tensor, hook):
            raise RuntimeError("the caller's own hook failed")

        first_hook(owned, layer=1).add_hook(fail)
        before = state_of(owned)
        with pytest.raises(RuntimeError, match="own hook failed"):
            vt.flow_graph(owned, IDS)
        assert_unchanged(before, state_of(owned))

    def test_after_an_exception_in_our_hook(self, owned, monkeypatch):
        import visit_tl.model.trace

        real, calls = visit_tl.model.trace.keeper, []

        def keeper(*arguments):
            keep = real(*arguments)

            def fail_at_the_tenth(tensor, hook):
                calls.append(hook.name)
                if len(calls) == 10:
                    raise MemoryError("no room for a row")
                return keep(tensor, hook)

            return fail_at_the_tenth

        monkeypatch.setattr(visit_tl.model.trace, "keeper", keeper)
        before = state_of(owned)
        with pytest.raises(MemoryError, match="no room"):
            vt.flow_graph(owned, IDS)
        assert_unchanged(before, state_of(owned))

    def test_after_a_refusal(self, owned, monkeypatch):
        monkeypatch.setattr(conserve, "tolerance", lambda view: -1.0)
        before = state_of(owned)
        with pytest.raises(DecompositionError):
            vt.flow_graph(owned, IDS)
        with pytest.raises(InputError):
            vt.flow_graph(owned, IDS, position=99)
        assert_unchanged(before, state_of(owned))


_PYTHONS_RANDOM_STATE = """
import random
import visit_tl as vt
from tests.conftest import MAKERS

for maker in MAKERS.values():
    model = maker()
    before = random.getstate()
    vt.flow_graph(model, [0, 1, 12, 3])
    assert random.getstate() == before
"""


def test_pythons_random_state_is_as_it_was_where_nothing_checks_types():
    root = Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", _PYTHONS_RANDOM_STATE]
    subprocess.run(command, check=True, cwd=root, timeout=120)


# --- what the core tests do inside a bridge, done inside a HookedTransformer ---------------------


@needs_hooked
class TestHookedTransformer:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_numbers_name_the_parameter(self, value):
        model = tiny.hooked()
        with torch.no_grad():
            model.blocks[1].mlp.W_out[3, 2] = value
        with pytest.raises(ModelError, match=r"the parameter blocks\.1\.mlp\.W_out of native hol"):
            ModelView(model)

    def test_large_but_finite_weights_are_not_taken_for_nan(self):
        model = tiny.hooked()
        with torch.no_grad():
            model.embed.W_E.fill_(3e38)
        ModelView(model)

    @pytest.mark.parametrize("tile", [2, 3, 5, 64])
    def test_ties_at_the_edge_of_k_go_to_the_lower_id(self, tile, monkeypatch):
        model = tiny.hooked(normalization_type=None)
        with torch.no_grad():
            model.unembed.W_U.zero_()
            model.unembed.b_U.zero_()
        view = ModelView(model)
        monkeypatch.setenv("VISIT_TL_READOUT", f"torch:512x{tile}")
        readout = lens.read(view, torch.ones(2, view.d_model), [40], k=5)
        assert readout.top_ids.tolist() == readout.bottom_ids.tolist() == [[0, 1, 2, 3, 4]] * 2

    @families
    def test_a_row_of_a_batched_cache_is_the_graph_of_that_prompt(self, family):
        model = tiny.hooked_from(hf_of(family))
        view = ModelView(model)
        _, cache = model.run_with_cache(torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]]))
        prompt = view.tokens.encode([0, 4, 5, 6], None)
        given, run = Trace.from_cache(view, cache, prompt, batch=1), Trace.run(view, prompt)
        for layer in run.layers:
            for name in ("resid_post", "keys", "pattern", "z", "mlp_in", "mlp_post"):
                one, other = (getattr(t.layers[layer], name) for t in (given, run))
                torch.testing.assert_close(one, other)

    def test_grouped_keys_are_not_copied_for_every_query_head(self):
        view = ModelView(tiny.hooked_from(tiny.hf_llama()))
        assert view.weights(0).W_K.shape == (2, view.d_model, view.d_head)


if __name__ == "__main__":
    for golden_name, golden_graph in golden_graphs():
        path = GOLDEN / f"{golden_name}.json"
        path.write_text(json.dumps(facts(golden_graph), indent=0) + "\n")
        print(f"wrote {path}")
