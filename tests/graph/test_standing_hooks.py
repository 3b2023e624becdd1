"""Hooks that stand on the model from an earlier cell: the graph of the run that they patch."""

import contextlib
import json

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS
from visit_tl import DecompositionError, GraphError, InputError
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.model.standing_hooks import left_on

PROMPT = "a b c d"
Z = "blocks.0.attn.hook_z"


def silence(z, hook):
    return z * 0


def silence_head_in_place(z, hook):
    z[:, :, 1] = 0


def metric(logits):
    return logits[0, -1].log_softmax(-1)[5]


@contextlib.contextmanager
def standing(model, *hooks, **options):
    """Hooks on a model that other tests use too: taken off again, whatever happens."""
    for name, function in hooks:
        model.add_hook(name, function, **options)
    try:
        yield model
    finally:
        model.reset_hooks(including_permanent=True)


def test_a_hook_of_an_earlier_cell_gives_the_graph_of_the_patched_run(model):
    by_argument = vt.flow_graph(model, PROMPT, fwd_hooks=[(Z, silence)], heads=99)
    with standing(model, (Z, silence)):
        graph = vt.flow_graph(model, PROMPT, heads=99)
        with torch.no_grad():
            own = model(model.to_tokens(PROMPT))[0, -1]
    assert graph.patched == (Z,) == by_argument.patched
    assert graph == by_argument
    assert graph["L0H0"].norm == graph["L0H1"].norm == 0 < graph["L1H1"].norm
    assert graph.target_id == int(own.argmax())
    assert graph["logits"].prob == pytest.approx(float(own.softmax(-1).max()), abs=1e-5)
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph
    assert f"patched     {Z}" in graph.text()
    assert vt.flow_graph(model, PROMPT, heads=99).patched == ()


@pytest.mark.parametrize("permanent", [False, True])
def test_a_hook_that_writes_into_what_it_sees_is_named_too(native, permanent):
    with standing(native, (Z, silence_head_in_place), is_permanent=permanent):
        graph = vt.flow_graph(native, PROMPT, heads=99)
    assert graph.patched == (Z,) and graph["L0H1"].norm == 0 < graph["L0H0"].norm


def test_a_hook_that_only_reads_spoils_nothing_and_is_not_named(model):
    seen = []
    plain = vt.flow_graph(model, PROMPT)
    readers = [
        (Z, lambda z, hook: seen.append(z.shape)),
        ("blocks.1.hook_resid_post", lambda x, hook: x.clone()),
    ]
    with standing(model, *readers):
        graph = vt.flow_graph(model, PROMPT)
        found = graph.effects(metric, how="zero", nodes=["L0H0"], verbose=False)
    assert seen and graph == plain and graph.patched == ()
    assert found.values == plain.effects(metric, how="zero", nodes=["L0H0"], verbose=False).values


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "attn.hook_q"])
def test_wherever_a_hook_stands_the_graph_is_that_of_fwd_hooks(model, hook):
    hooks = [(f"blocks.1.{hook}", lambda x, hook: x * 2)]
    by_argument = vt.flow_graph(model, PROMPT, fwd_hooks=hooks)
    with standing(model, *hooks):
        graph = vt.flow_graph(model, PROMPT)
    assert graph == by_argument and graph.patched == (f"blocks.1.{hook}",)


def test_hooks_of_torch_and_of_a_context_manager_count_as_well(native):
    with native.hooks(fwd_hooks=[(Z, silence)]):
        graph = vt.flow_graph(native, PROMPT)
    point = native.hook_dict[Z]
    handle = point.register_forward_hook(lambda module, args, output: output * 0)
    try:
        assert vt.flow_graph(native, PROMPT) == graph
    finally:
        handle.remove()
    assert graph.patched == (Z,)


def test_asked_and_standing_hooks_act_one_after_the_other(native):
    asked = [("blocks.1.attn.hook_z", silence)]
    with standing(native, (Z, silence)):
        graph = vt.flow_graph(native, PROMPT, fwd_hooks=asked, heads=99)
        with pytest.raises(GraphError, match="ask a graph without fwd_hooks"):
            graph.lens_table()
    assert graph.patched == ("blocks.1.attn.hook_z", Z)
    assert graph["L0H0"].norm == graph["L1H0"].norm == 0


# --- measuring on a model with hooks -------------------------------------------------------------


def by_hand(model, hook, index):
    """The effect of zeroing one place of a hook, by running the model as it stands."""

    def zero(tensor, hook):
        tensor = tensor.clone()
        tensor[(0, *index)] = 0
        return tensor

    tokens = model.to_tokens(PROMPT)
    with torch.no_grad():
        changed = metric(model.run_with_hooks(tokens, fwd_hooks=[(hook, zero)]))
        return float(changed - metric(model(tokens)))


def halve(x, hook):
    return x * 0.5


def test_effects_are_those_of_the_model_as_it_stands(model):
    name = "blocks.0.hook_mlp_out"
    plain = vt.causal.effects(model, PROMPT, metric, how="zero", verbose=False)
    with standing(model, (name, halve)):
        graph = vt.flow_graph(model, PROMPT, heads=99)
        found = graph.effects(metric, how="zero", nodes=["L0H1", "L1H2"], verbose=False)
        assert graph.patched == (name,)
        for node, layer, head in (("L0H1", 0, 1), ("L1H2", 1, 2)):
            expected = by_hand(model, f"blocks.{layer}.attn.hook_z", (-1, head))
            assert found[node].value == pytest.approx(expected, abs=1e-5)
            assert abs(found[node].value - plain[node].value) > 1e-4
        screened = graph.effects(
            metric, how="zero", nodes=["L1H2"], screen="attribution", top=0, verbose=False
        )
        assert screened["L1H2"].value != 0
        # The neurons no longer sum to what the MLP adds, so no share can be told.
        with pytest.raises(DecompositionError, match=rf"on this model there are hooks at {name}"):
            graph.attribution()
    assert vt.causal.effects(model, PROMPT, metric, how="zero", verbose=False) == plain


def test_edges_circuits_tables_and_attention_are_of_the_model_as_it_stands(native):
    def full():
        return vt.causal.faithfulness(
            native, [(PROMPT, "b c d e")], metric, ["L0H0"], verbose=False
        ).full

    plain = full()
    with standing(native, (Z, silence)):
        with torch.no_grad():
            own = float(metric(native(native.to_tokens(PROMPT))))
            logits = native(native.to_tokens(PROMPT))[0, -1]
        assert full()[0] == pytest.approx(own, abs=1e-5)
        graph = vt.flow_graph(native, PROMPT)
        attributed = graph.attribution()
        assert attributed.total == pytest.approx(float(logits[graph.target_id]), abs=1e-4)
        assert attributed["L0H0"] == 0
        table = graph.lens_table()
        assert table.patched == (Z,) and f"patched     {Z}" in table.text()
        assert table["L1.resid_post"].rank == graph["L1.resid_post"].rank
        assert f"patched at {Z}" in graph.attention(["L0H0"]).html
        edges = vt.causal.edge_effects(
            native,
            PROMPT,
            metric,
            how="zero",
            senders=["L0H0"],
            receivers=["logits"],
            verbose=False,
        )
        assert edges.values == (0.0,)
        made = vt.generate(native, PROMPT, 2, verbose=False)
        assert [g.patched for g in made] == [(Z,)] * len(made)
    assert full() == plain
    assert vt.lens_table(native, PROMPT).patched == ()


def test_a_graph_is_not_asked_again_once_the_hooks_are_others(native):
    clean = vt.flow_graph(native, PROMPT)
    with standing(native, (Z, silence)):
        patched = vt.flow_graph(native, PROMPT)
        for ask in (clean.lens_table, clean.attribution):
            with pytest.raises(GraphError, match=rf"changed nothing, and now they change {Z};"):
                ask()
        with pytest.raises(InputError, match="changed nothing, and now they change"):
            vt.causal.attribute(native, clean)
    with pytest.raises(GraphError, match=rf"changed {Z}, and now they change nothing; build"):
        patched.effects(metric, how="zero")
    # The same words again, but another function for all that can be known.
    again, refused = standing(native, (Z, silence)), pytest.raises(GraphError, match="build the gr")
    with again, refused:
        patched.lens_table()
    with pytest.raises(GraphError, match="patched run"):
        vt.FlowGraph.of(from_json(to_json(patched))).lens_table(model=native)
    assert clean.lens_table().patched == ()


# --- where it is not possible --------------------------------------------------------------------


def test_a_hook_behind_which_a_block_does_not_come_apart_is_named(native):
    # What ln2 reads of a bridge is not what the stream goes on with.
    between = "blocks.0.hook_resid_mid"
    if not tiny.HAS_BRIDGE:
        pytest.skip("a HookedTransformer's hook_resid_mid is the stream itself")
    with (
        standing(native, (between, lambda x, hook: x + 1)),
        pytest.raises(
            DecompositionError, match=rf"hooks at {between} \(model.reset_hooks\(\) takes them off"
        ),
    ):
        vt.flow_graph(native, PROMPT)
    refused = pytest.raises(DecompositionError, match=r"reset_hooks\(including_permanent=True\)")
    with standing(native, (between, lambda x, hook: x + 1), is_permanent=True), refused:
        vt.flow_graph(native, PROMPT)


def test_hooks_of_torch_on_modules_are_named_where_the_laws_break(model):
    handle = model.blocks[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    try:
        with pytest.raises(
            DecompositionError, match=r"torch's own hooks on blocks\.1\.mlp \(handle\.remove\(\)"
        ):
            vt.flow_graph(model, PROMPT)
        report = vt.check(model)
        assert not report.exact and "torch's own hooks on blocks.1.mlp" in report.verdict
    finally:
        handle.remove()
    assert vt.check(model).exact


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x has no TransformerBridge")
def test_hooks_of_the_libraries_are_not_the_callers():
    model = tiny.llama()
    with torch.no_grad():
        # A bridge and transformers both put hooks on modules in such a run.
        model.original_model(model.to_tokens(PROMPT), output_attentions=True)
    assert any(module._forward_pre_hooks for module in model.modules())
    assert left_on(model) == ""
    model.add_hook(Z, silence)
    assert left_on(model).endswith(f" hooks at {Z} (model.reset_hooks() takes them off)")


def test_check_says_which_hooks_stand(model):
    assert vt.check(model).verdict == "exact"
    with standing(model, (Z, silence)):
        report = vt.check(model)
    assert report.exact and report.patched == (Z,)
    assert report.verdict == f"exact, as patched by hooks left on the model at {Z}"
    assert report.verdict in str(report)


def torchs_hooks(model):
    modules = model.named_modules()
    return [(name, list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in modules]


@pytest.mark.parametrize("maker", list(MAKERS))
def test_nothing_of_ours_stays_on_the_model(maker):
    model = MAKERS[maker]()
    model.add_hook(Z, silence)
    model(model.to_tokens(PROMPT))  # in its first run a bridge hooks modules of its own
    before = torchs_hooks(model)
    graph = vt.flow_graph(model, PROMPT)
    graph.effects(metric, how="zero", nodes=["L1H0"], verbose=False)
    assert torchs_hooks(model) == before
