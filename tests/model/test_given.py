"""What is given as a model: wrappers stand for the model in them, names are opened once."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import made
from visit_tl.circuits.prompts import baseline
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.tokenizing import open_tokens
from visit_tl.model import load
from visit_tl.model import opened_models as kept
from visit_tl.model.given_model import model_given

IDS = [0, 1, 12, 3, 13, 5]
OTHER = [0, 2, 12, 4, 14, 6]


class HandsOn(torch.nn.Module):
    """A wrapper that is not torch's, and computes what the model inside computes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Doubles(HandsOn):
    def forward(self, *args, **kwargs):
        return 2 * self.module(*args, **kwargs)


class Holds(torch.nn.Module):
    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model


def compiled(model):
    # The default compiles with a C++ compiler; what stands around the model is the same.
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "compiled": compiled,
    "data-parallel": torch.nn.DataParallel,
    "both": lambda model: torch.nn.DataParallel(compiled(model)),
    "not torch's": HandsOn,
}


@pytest.fixture(params=list(WRAPPERS))
def wrap(request):
    return WRAPPERS[request.param]


@pytest.fixture(params=["gpt2", "llama"])
def inner(request):
    return made(request.param)


def same(one, other):
    difference = one.diff(other)
    assert not (difference.appeared or difference.vanished or difference.changed)
    assert one.residual_error == other.residual_error
    assert [node.norm for node in one] == [node.norm for node in other]


def attention_of(model):
    """Attention that a graph holds, and the heads of what CircuitsVis draws."""
    g = vt.flow_graph(model, IDS)
    return g["L0H0"].attention, vt.attention(model, IDS, ["L0H0"]).heads


def test_the_graph_of_a_wrapper_is_that_of_the_model_in_it(wrap, inner):
    wrapper = wrap(inner)
    g = vt.flow_graph(wrapper, IDS)
    same(g, vt.flow_graph(inner, IDS))
    assert g.model == inner.cfg.model_name
    assert g.source() is inner


def test_every_call_takes_a_wrapper(wrap, inner):
    wrapper = wrap(inner)
    question = vt.causal.logit_difference(1, 2)
    assert vt.lens_table(wrapper, IDS).text() == vt.lens_table(inner, IDS).text()
    one, other = (attention_of(m) for m in (wrapper, inner))
    assert one == other
    graphs = [vt.generate(m, IDS, 2, verbose=False) for m in (wrapper, inner)]
    assert [g.token_ids for g in graphs[0]] == [g.token_ids for g in graphs[1]]
    report = vt.check(wrapper)
    assert report.exact
    assert report.rows() == vt.check(inner).rows()
    for measured in (
        lambda m: vt.causal.effects(m, IDS, question, corrupted=OTHER, verbose=False),
        lambda m: vt.causal.attribute(m, IDS, target=1),
    ):
        assert measured(wrapper).to_dataframe().equals(measured(inner).to_dataframe())
    assert open_tokens(wrapper).encode("a b", None) == open_tokens(inner).encode("a b", None)


def test_a_baseline_takes_a_wrapper(inner):
    prompts = _two_prompts()
    one, other = (baseline(m, prompts, verbose=False) for m in (compiled(inner), inner))
    assert one.logit_difference == other.logit_difference


def test_a_graph_made_with_a_wrapper_is_asked_with_either(inner):
    wrapper = compiled(inner)
    g = vt.flow_graph(wrapper, IDS, target=1)
    own = g.attribution().to_dataframe()
    for model in (inner, wrapper, torch.nn.DataParallel(wrapper)):
        assert g.attribution(model=model).to_dataframe().equals(own)


def test_hooks_act_on_the_model_in_a_wrapper():
    inner = tiny.gpt2()
    wrapper = compiled(inner)

    def halve(value, hook):
        return value / 2

    hooks = [("blocks.0.hook_mlp_out", halve)]
    g = vt.flow_graph(wrapper, IDS, fwd_hooks=hooks)
    same(g, vt.flow_graph(inner, IDS, fwd_hooks=hooks))
    assert g.patched == ("blocks.0.hook_mlp_out",)
    # A wrapper of torch.compile hands this on; it stays on the model inside.
    wrapper.add_hook("blocks.0.hook_mlp_out", halve)
    standing = vt.flow_graph(wrapper, IDS)
    assert standing.patched == ("blocks.0.hook_mlp_out",)
    assert vt.check(wrapper).patched == ("blocks.0.hook_mlp_out",)
    same(standing, g)
    inner.reset_hooks()
    with pytest.raises(vt.GraphError, match="now they change nothing"):
        standing.attribution(model=wrapper)


def test_what_was_found_out_of_a_model_holds_for_its_wrappers():
    question = vt.causal.logit_difference(1, 2)

    def slow_ways(*models):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for model in models:
                vt.causal.effects(model, IDS, question, corrupted=OTHER, verbose=False)
        return [str(w.message) for w in said if issubclass(w.category, vt.PerformanceWarning)]

    native = tiny.native()
    assert model_given(compiled(native)) is native
    # Said once a model: as often as for another one that is in no wrapper.
    alone = slow_ways(tiny.native())
    assert slow_ways(native, compiled(native), torch.nn.DataParallel(native)) == alone


def test_a_wrapper_that_computes_something_else_is_refused_with_what_to_pass(inner):
    for wrapper, attribute in ((Doubles(inner), "module"), (Holds(inner), "language_model")):
        with pytest.raises(vt.ModelError, match=f"it holds one: pass model.{attribute}$"):
            vt.flow_graph(wrapper, IDS)


def test_a_wrapper_is_tried_once_and_the_model_left_as_it_was(inner):
    calls = []
    handle = inner.register_forward_hook(lambda *_: calls.append(1))
    try:
        wrapper = HandsOn(inner)
        assert model_given(wrapper) is inner
        tried = len(calls)
        assert model_given(wrapper) is inner
    finally:
        handle.remove()
    assert len(calls) == tried == 2


def test_a_wrapper_around_no_model_is_refused_by_what_is_inside():
    with pytest.raises(vt.ModelError, match="Linear is no TransformerLens model"):
        vt.flow_graph(torch.nn.DataParallel(torch.nn.Linear(2, 2)), IDS)


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """`load_model` replaced by one that makes small models; the names that it was asked for."""
    asked = []

    def load_small(name, **kwargs):
        asked.append(str(name))
        return tiny.gpt2(seed=len(asked))

    kept.release_models()
    monkeypatch.setattr(load, "load_model", load_small)
    yield asked
    kept.release_models()


def test_a_name_is_opened_once_for_all_calls(opened):
    g = vt.flow_graph("gpt2", IDS, target=1)
    vt.lens_table("gpt2", IDS)
    vt.generate("gpt2", IDS, 1, verbose=False)
    vt.attention("gpt2", IDS, ["L0H0"])
    vt.flow_graphs("gpt2", [IDS, OTHER], verbose=False)
    assert vt.check("gpt2").exact
    vt.causal.attribute("gpt2", IDS, target=1)
    vt.causal.attribute("gpt2", g)
    vt.causal.effects("gpt2", IDS, vt.causal.logit_difference(1, 2), how="zero", verbose=False)
    baseline("gpt2", _two_prompts(), verbose=False)
    open_tokens("gpt2").encode("a b", None)
    assert g.attribution(model="gpt2").to_dataframe().equals(g.attribution().to_dataframe())
    assert opened == ["gpt2"]


def test_the_models_of_names_are_let_go_when_asked(opened):
    g = vt.flow_graph("gpt2", IDS)
    assert vt.release_models() == ("gpt2",)
    assert vt.release_models() == ()
    with pytest.raises(vt.GraphError, match="is not at hand"):
        g.attribution()
    vt.flow_graph("gpt2", IDS)
    assert opened == ["gpt2", "gpt2"]


def test_two_names_are_kept_and_the_one_unused_longest_is_let_go(opened):
    for name in ("a", "b", "a", "c", "a", "b"):
        model_given(name)
    assert opened == ["a", "b", "c", "b"]
    assert vt.release_models() == ("a", "b")


def test_upper_and_lower_case_and_a_path_are_one_model(opened, tmp_path, monkeypatch):
    assert model_given("SmolLM2-135M") is model_given("smollm2-135m")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert model_given("./own") is model_given(tmp_path / "own")
    assert len(opened) == 2


def test_a_folder_that_has_changed_is_opened_again(opened, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = model_given(tmp_path)
    assert model_given(tmp_path) is first
    weights.write_bytes(b"another")
    assert model_given(tmp_path) is not first


def test_threads_open_a_name_once(opened):
    threads = [threading.Thread(target=model_given, args=("gpt2",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["gpt2"]


@pytest.mark.parametrize(
    "call",
    [
        lambda name: vt.flow_graph(name, IDS),
        lambda name: vt.check(name),
        lambda name: vt.causal.attribute(name, IDS),
        open_tokens,
    ],
)
def test_a_name_that_cannot_be_opened_is_refused_with_the_possible_ones(call):
    with pytest.raises(vt.ModelError, match=r"cannot open 'no-such'.*an embedded model \(smollm2"):
        call("no-such")
    assert vt.release_models() == ()


def test_an_empty_name_is_refused():
    with pytest.raises(vt.InputError, match="the model name is empty"):
        vt.flow_graph(" ", IDS)


def _two_prompts():
    pairs = [
        PromptPair(str(ids), tuple(ids), (1,), (2,), {"END": len(ids) - 1}, {})
        for ids in (IDS, OTHER)
    ]
    return PromptSet(tuple(pairs), "by hand", "counting", pad_id=0)
