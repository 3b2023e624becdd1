"""One forward pass that leaves no trace of itself in the model, and caches that must fit."""

import pytest
import torch

import visit_tl as vt
from visit_tl import InputError

PROMPT = "a b c d"


def test_the_model_is_afterwards_exactly_as_it_was(model):
    torch.manual_seed(5)
    seen = []
    model.hook_dict["blocks.0.hook_in"].add_hook(lambda t, hook: seen.append(1))
    try:
        before = {name: p.clone() for name, p in model.named_parameters()}
        hooks = {name: len(h.fwd_hooks) for name, h in model.hook_dict.items()}
        flags = dict(vars(model.cfg))
        rng, grad = torch.get_rng_state(), torch.is_grad_enabled()
        vt.flow_graph(model, PROMPT)
        assert seen == [1], "the caller's hook fires once: there is one forward pass"
        assert {name: len(h.fwd_hooks) for name, h in model.hook_dict.items()} == hooks
        assert vars(model.cfg) == flags
        assert torch.equal(torch.get_rng_state(), rng)
        assert torch.is_grad_enabled() == grad
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name])
            assert parameter.grad is None
    finally:
        model.reset_hooks()


def test_the_model_is_as_it_was_also_after_an_exception(native):
    def fail(tensor, hook):
        raise RuntimeError("the caller's own hook failed")

    native.hook_dict["blocks.1.hook_out"].add_hook(fail)
    try:
        hooks = {name: len(h.fwd_hooks) for name, h in native.hook_dict.items()}
        with pytest.raises(RuntimeError, match="own hook failed"):
            vt.flow_graph(native, PROMPT)
        assert {name: len(h.fwd_hooks) for name, h in native.hook_dict.items()} == hooks
        assert torch.is_grad_enabled()
    finally:
        native.reset_hooks()


def test_the_same_call_gives_the_same_graph(model):
    assert vt.flow_graph(model, PROMPT) == vt.flow_graph(model, PROMPT)


def test_a_position_in_the_middle_equals_the_end_of_a_shorter_prompt(model):
    whole = vt.flow_graph(model, [0, 5, 6, 7, 8], position=2)
    cut = vt.flow_graph(model, [0, 5, 6])
    assert [node.id for node in whole] == [node.id for node in cut]
    for ours, theirs in zip(whole, cut, strict=True):
        assert ours.rank == theirs.rank
        assert ours.norm == pytest.approx(theirs.norm, rel=1e-4, abs=1e-5)


def test_a_cache_gives_the_graph_that_running_gives(model):
    _, cache = model.run_with_cache(PROMPT)
    given = vt.flow_graph(model, PROMPT, cache=cache)
    run = vt.flow_graph(model, PROMPT)
    assert [n.id for n in given] == [n.id for n in run]
    assert [n.rank for n in given] == [n.rank for n in run]
    assert [n.norm for n in given] == pytest.approx([n.norm for n in run], rel=1e-5, abs=1e-6)
    assert (given.target, given.edges) == (run.target, run.edges)


def test_a_cache_without_its_batch_axis_is_taken(native):
    _, cache = native.run_with_cache(PROMPT, remove_batch_dim=True)
    run = vt.flow_graph(native, PROMPT)
    assert [n.id for n in vt.flow_graph(native, PROMPT, cache=cache)] == [n.id for n in run]


def test_a_row_of_a_batched_cache_is_the_graph_of_that_prompt(native):
    _, cache = native.run_with_cache(torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]]))
    row = vt.flow_graph(native, [0, 4, 5, 6], cache=cache, batch=1)
    alone = vt.flow_graph(native, [0, 4, 5, 6])
    assert [n.id for n in row] == [n.id for n in alone]
    assert [n.rank for n in row] == [n.rank for n in alone]
    assert [n.norm for n in row] == pytest.approx([n.norm for n in alone], rel=1e-5, abs=1e-6)


def test_a_row_without_a_cache_is_refused(native):
    with pytest.raises(InputError, match="batch is a row of a cache; pass the cache, or call flow"):
        vt.flow_graph(native, [0, 4], batch=1)


class TestACacheThatDoesNotFitIsRefused:
    def test_of_a_batch_without_saying_which_row(self, native):
        _, cache = native.run_with_cache(torch.tensor([[0, 1, 2], [0, 4, 5]]))
        with pytest.raises(
            InputError, match=r"batch of 2 prompts; say which one with batch=0\.\.1"
        ):
            vt.flow_graph(native, [0, 1, 2], cache=cache)

    def test_of_a_row_that_is_not_there(self, native):
        _, cache = native.run_with_cache(torch.tensor([[0, 1, 2], [0, 4, 5]]))
        with pytest.raises(InputError, match=r"batch 2 is outside 0\.\.1"):
            vt.flow_graph(native, [0, 1, 2], cache=cache, batch=2)

    def test_of_another_prompt_of_the_same_length(self, native):
        _, cache = native.run_with_cache(torch.tensor([[0, 1, 2, 3]]))
        with pytest.raises(InputError, match="not made from this prompt: at position 2 .* 'd'"):
            vt.flow_graph(native, [0, 1, 4, 3], cache=cache)

    def test_of_another_length(self, native):
        _, cache = native.run_with_cache(torch.tensor([[0, 1, 2, 3]]))
        with pytest.raises(
            InputError, match="a prompt of 3 tokens give .* another model or prompt"
        ):
            vt.flow_graph(native, [0, 1, 2], cache=cache)

    def test_of_another_model_of_another_width(self, native):
        from tests import tiny

        _, cache = tiny.native(d_model=24).run_with_cache(PROMPT)
        with pytest.raises(InputError, match=r"has shape \(1, 8, 24\)|another model or prompt"):
            vt.flow_graph(native, PROMPT, cache=cache)

    def test_of_another_model_of_the_same_shape(self, native):
        from tests import tiny

        _, cache = tiny.native(seed=9).run_with_cache(PROMPT)
        with pytest.raises(vt.VisitError, match="not made from this prompt|does not come apart"):
            vt.flow_graph(native, PROMPT, cache=cache)

    def test_with_hooks_filtered_out(self, native):
        _, cache = native.run_with_cache(PROMPT, names_filter=["blocks.0.attn.hook_z"])
        with pytest.raises(
            InputError, match=r"the cache has no blocks\.0\.hook_resid_pre; make it"
        ):
            vt.flow_graph(native, PROMPT, cache=cache)


def test_a_model_without_adapters_is_not_searched_for_them_again(native, monkeypatch):
    from visit_tl.model.view import ModelView

    view = ModelView(native)
    monkeypatch.setattr(torch.nn.Module, "modules", lambda self: pytest.fail("searched"))
    assert view.weights(0).W_O.shape[0] == view.n_heads
