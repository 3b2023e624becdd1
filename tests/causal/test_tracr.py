"""Compiled models, whose circuits are known: what has an effect is exactly what is in them."""

import functools

import pytest
import torch

from tests.tracr import compiled

NAMES = ("reverse", "xproportion", "hist", "sort")


@functools.cache
def opened(name):
    return compiled(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_gives_what_tracr_gave(name):
    program = opened(name)
    model = program.view.model
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([program.example]))
    for i, expected in enumerate(program.outputs):
        hook = f"blocks.{i // 2}.hook_{('attn', 'mlp')[i % 2]}_out"
        assert torch.allclose(cache[hook], expected, atol=1e-5), hook


@pytest.mark.parametrize("name", NAMES)
def test_the_model_computes_its_program(name):
    program = opened(name)
    with torch.no_grad():
        logits = program.view.model(torch.tensor([program.example]))[0, 1:]
    if program.answers is None:
        expected = torch.tensor([float(number) for number in program.expected[1:]])
        assert torch.allclose(logits[:, 0], expected, atol=1e-3)
    else:
        found = [program.answers[i] for i in logits.argmax(-1).tolist()]
        assert found == program.expected[1:]
