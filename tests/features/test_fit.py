"""Whether a module belongs to a model: its hooks, its widths, its name."""

from dataclasses import replace

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.features import DATA
from visit_tl.features.fit import hook_width, same_model


@pytest.fixture(scope="module")
def view():
    return vt.ModelView(tiny.native())


def reasons(module, view):
    with pytest.raises(vt.InputError) as caught:
        module.require_fit(view)
    assert not module.fits(view)
    return str(caught.value)


@pytest.mark.parametrize("name", ["topk", "standard_z", "skip_transcoder"])
def test_a_module_of_the_model_fits(view, name):
    module = vt.features.open(DATA / name, model_name=view.name)
    module.require_fit(view)
    assert module.fits(view)


def test_a_module_of_another_model_does_not_fit(view):
    said = reasons(vt.features.open(DATA / "topk", model_name="gpt2"), view)
    assert "it was made for 'gpt2'" in said and f"model_name='{view.name}'" in said


def test_a_module_of_another_width_does_not_fit(view):
    module = vt.features.open(DATA / "transcoder_narrow", model_name=view.name)
    said = reasons(module, view)
    assert f"reads 16 numbers at blocks.1.mlp.hook_pre, where the model has {view.d_mlp}" in said
    assert "writes 12 numbers at blocks.1.hook_mlp_out, where the model has 16" in said


def test_a_module_of_another_hook_does_not_fit(view):
    module = vt.features.open(DATA / "topk", model_name=view.name)
    far = replace(module, hook="blocks.9.hook_resid_post", layer=9)
    assert f"the blocks of the model are 0..{view.n_layers - 1}" in reasons(far, view)
    odd = replace(module, hook="blocks.1.hook_nowhere")
    assert "the model has no hook blocks.1.hook_nowhere" in reasons(odd, view)
    one = replace(module, hook="blocks.1.attn.hook_z", head=0)
    assert "reads head 0 of blocks.1.attn.hook_z alone" in reasons(one, view)


def test_what_is_no_view_is_refused(view):
    module = vt.features.open(DATA / "topk")
    with pytest.raises(vt.InputError, match="must be a ModelView, got None"):
        module.fits(None)


def test_widths_of_hooks_are_those_of_the_model(view):
    widths = {}

    def keep(name):
        return lambda value, hook: widths.__setitem__(name, value[0, 0].numel())

    names = [
        "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.attn.hook_z",
        "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_pre",
        "blocks.1.mlp.hook_post",
    ]  # fmt: skip
    hooks = [(name, keep(name)) for name in names if view.has_hook(name)]
    view.model.run_with_hooks(torch.tensor([[1, 2, 3]]), fwd_hooks=hooks)
    assert len(widths) >= 5
    assert {name: hook_width(name, view) for name in widths} == widths


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt2-small", "gpt2", True),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped", True),
        ("google/gemma-2-2b", "gemma-2-2b", True),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b", True),
        ("gemma-2-2b", "gemma-2-2b-it", False),
        ("gpt2", "gpt2-medium", False),
    ],
)
def test_names_of_models_are_compared_without_their_owners(one, other, same):
    assert same_model(one, other) == same
