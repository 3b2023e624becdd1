"""Compiled models, whose circuits are known: what has an effect is exactly what is in them."""

import functools
import itertools
import random

import pytest
import torch

from tests.tracr import compiled
from visit_tl.causal.circuit.prompt_pairs import Pairs
from visit_tl.causal.paths.chosen_edges import shape_of
from visit_tl.causal.paths.path_patching import edge_effects
from visit_tl.graph.circuit_edges import model_edges
from visit_tl.graph.circuit_parts import Edge

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


# The edges that have an effect, of other_circuits.json ("tracr"): input -> a0.h0<v> and so on
# (ACDC's truth, acdc/tracr_task/utils.py; checked on compiled weights).
TRUTH = {
    ("reverse", "zero"): (
        "input->a0.h0<v> input->m0 a0.h0->m0 input->m1 m0->m1 m1->m2 m2->a3.h0<q> "
        "input->a3.h0<k> input->a3.h0<v> a3.h0->logits"
    ),
    ("reverse", "resample"): "input->a3.h0<v> a3.h0->logits",
    ("xproportion", "zero"): (
        "input->m0 m0->a1.h0<v> input->a1.h0<q> input->a1.h0<k> a1.h0->logits"
    ),
    ("xproportion", "resample"): "input->m0 m0->a1.h0<v> a1.h0->logits",
}
LENGTH = 4
# Measured over these inputs: an edge that is in the circuit changes the mean square of the output
# by 0.09 and more at its worst input, one that is not by 1e-12 and less.
NOTHING = 1e-6


def pairs(program, n):
    """Pairs of inputs of one length; resampling across lengths has another truth."""
    inputs = program.inputs(LENGTH)
    order = random.Random(0).sample(range(len(inputs)), n + 1)
    return [(inputs[a], inputs[b]) for a, b in itertools.pairwise(order)]


@pytest.mark.parametrize(("name", "how"), TRUTH)
def test_the_edges_with_effect_are_exactly_those_of_the_circuit(name, how):
    program = opened(name)
    largest = {}
    for clean, corrupted in pairs(program, 6):
        with torch.no_grad():
            own = program.view.model(torch.tensor([clean]))
        effects = edge_effects(
            program.view,
            clean,
            lambda logits, own=own: (logits - own)[:, 1:].pow(2).mean(),
            corrupted=corrupted,
            how=how,
            verbose=False,
        )
        for edge, value in effects.scores.items():
            largest[edge] = max(largest.get(edge, 0.0), abs(value))
    assert set(largest) == set(model_edges(shape_of(program.view)))
    found = {edge for edge, value in largest.items() if value > NOTHING}
    assert found == {Edge.parse(edge) for edge in TRUTH[name, how].split()}


@pytest.mark.parametrize(("name", "how"), TRUTH)
def test_the_circuit_alone_computes_the_program_and_no_edge_of_it_is_idle(name, how):
    program = opened(name)
    prompts, metrics = pairs(program, 3), []
    for clean, _ in prompts:
        with torch.no_grad():
            own = program.view.model(torch.tensor([clean]))
        metrics.append(lambda logits, own=own: (logits - own)[:, 1:].pow(2).mean())
    truth = {Edge.parse(edge) for edge in TRUTH[name, how].split()}
    work = Pairs(program.view, prompts, metrics, how, None, None)
    whole, *rest = work.measure([truth, *(truth - {edge} for edge in truth)], "circuits", False)
    assert max(whole) < NOTHING
    assert min(map(max, rest)) > 1e-3
    assert len(rest) == len(truth)
