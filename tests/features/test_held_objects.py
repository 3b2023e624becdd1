"""An SAE that the caller holds is read by what it offers; no class is asked for."""

import json

import pytest
import torch
from safetensors.torch import load_file

import visit_tl as vt
from tests.features import DATA


class Config(dict):
    """What `sae.cfg` of SAELens has: `to_dict`."""

    def to_dict(self):
        return dict(self)


class Held(torch.nn.Module):
    """A TopK SAE with SAELens's names, whose numbers may be doubled on the way."""

    def __init__(self, folder="topk", double=False, dtype=torch.float32):
        super().__init__()
        self.cfg = Config(json.loads((DATA / folder / "cfg.json").read_text()))
        for name, weight in load_file(DATA / folder / "sae_weights.safetensors").items():
            setattr(self, name, torch.nn.Parameter(weight.to(dtype)))
        self.double, self.seen = double, None
        self.hook_z_reshaping_mode = self.cfg["reshape_activations"] == "hook_z"

    def encode(self, x):
        self.seen = x.shape[-1]
        x = x.flatten(-2) if self.hook_z_reshaping_mode else x
        pre = (x.to(self.W_enc.dtype) - self.b_dec) @ self.W_enc + self.b_enc
        if "k" in self.cfg:
            kept = pre.topk(self.cfg["k"])
            pre = torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)
        return pre.relu() * (2 if self.double else 1)

    def decode(self, features):
        return features @ self.W_dec + self.b_dec


@pytest.mark.parametrize("folder", ["topk", "standard_z"])
def test_a_held_sae_is_opened_as_its_folder_is(folder):
    held, file = Held(folder), vt.features.open(DATA / folder)
    module, x = vt.features.open(held), torch.randn(4, 16)
    assert torch.equal(module.encode(x), file.encode(x))
    assert torch.equal(module(x), file(x))
    assert (module.name, module.path, module.hook) == ("Held", None, file.hook)


def test_the_object_is_left_as_it_was_and_independent():
    held = Held()
    module = vt.features.open(held)
    assert held.seen is None and held.training
    x = torch.randn(4, 16)
    before = module(x)
    with torch.no_grad():
        held.W_dec.mul_(2)
    assert torch.equal(module(x), before)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_and_answers_within_its_rounding(seed, dtype):
    held = Held(dtype=dtype)
    # Many features close to each other, of which rounding may choose others.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        held.W_enc.copy_(torch.randn(held.W_enc.shape, generator=generator).round(decimals=1))
    module, x = vt.features.open(held), torch.randn(4, 16, generator=generator)
    assert module.dtype == torch.float32
    assert torch.equal(module.W_dec, held.W_dec.detach().float())
    features = held.encode(x).detach()
    expected, found = held.decode(features).detach(), module.decode(features.float(), x)
    assert (found - expected).norm() < 0.02 * expected.norm()  # measured: 4e-3
    both = (features != 0) & (module.encode(x) != 0)
    assert both.sum() >= 4 * (held.cfg["k"] - 1)
    torch.testing.assert_close(module.encode(x)[both], features[both].float(), atol=0.1, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_object_of_half_precision_that_does_something_else_is_refused(dtype):
    with pytest.raises(vt.InputError, match="this Held gives another encode than the topk"):
        vt.features.open(Held(double=True, dtype=dtype))
    held = Held(dtype=dtype)
    held.encode = lambda x: Held.encode(held, x).roll(1, -1)
    with pytest.raises(vt.InputError, match="this Held gives another encode than the topk"):
        vt.features.open(held)
    held = Held(dtype=dtype)
    held.decode = lambda features: 1.2 * Held.decode(held, features)
    with pytest.raises(vt.InputError, match="this Held gives another decode than the topk"):
        vt.features.open(held)


def test_an_object_that_does_something_else_is_refused():
    with pytest.raises(vt.InputError, match="this Held gives another encode than the topk"):
        vt.features.open(Held(double=True))
    held = Held()
    held.encode = lambda x: 1 / 0
    with pytest.raises(vt.InputError, match="this Held cannot be run on vectors of 16"):
        vt.features.open(held)
    held = Held()
    del held.cfg
    with pytest.raises(vt.InputError, match="this Held has no configuration, cfg"):
        vt.features.open(held)


def test_an_object_that_was_not_loaded_or_says_nothing_of_itself_is_refused():
    with pytest.raises(vt.InputError, match=r"b_dec of this Held was not loaded \(meta\)"):
        vt.features.open(Held().to("meta"))

    class Broken(Config):
        def to_dict(self):
            raise KeyError("d_in")

    held = Held()
    held.cfg = Broken()
    with pytest.raises(vt.InputError, match="configuration of this Held cannot be read: KeyErr"):
        vt.features.open(held)
