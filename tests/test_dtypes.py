"""Half-precision models: opened, read in float32, and held to tolerances that were measured."""

import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl import ModelError, ModelView
from visit_tl.lens import readout as lens
from visit_tl.xray import conservation as conserve

HALVES = [torch.bfloat16, torch.float16]
PROMPT = [0, 3, 5, 7, 9, 11]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_half_precision_conserves_within_its_measured_tolerance(make, dtype):
    model = make().to(dtype)
    graph = vt.flow_graph(model, PROMPT)
    worst = max(graph.residual_error.values())
    assert 1e-6 < worst < conserve.TOLERANCE[dtype], "rounding shows, and stays in its bounds"


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_reads_almost_as_float32_does(dtype):
    exact = vt.flow_graph(tiny.gpt2(), PROMPT)
    rounded = vt.flow_graph(tiny.gpt2().to(dtype), PROMPT)
    assert rounded["logits"].label == exact["logits"].label
    assert rounded["logits"].prob == pytest.approx(exact["logits"].prob, rel=0.05)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_lens_reads_in_float32_with_the_rounded_weights(dtype):
    view = ModelView(tiny.gpt2().to(dtype))
    vectors = torch.randn(5, view.d_model, generator=torch.Generator().manual_seed(0))
    readout = lens.read(view, vectors, [3], k=4)
    logits = view.final_norm(vectors) @ view.W_U.float()
    assert readout.top_probs.dtype == torch.float32
    torch.testing.assert_close(readout.top_probs, logits.softmax(-1).topk(4).values)


def test_a_wrong_part_is_found_in_half_precision_too():
    model = tiny.gpt2().to(torch.bfloat16)
    view = ModelView(model)
    trace = vt.Trace.run(view, view.tokens.encode(PROMPT, None))
    weights = view.weights(1)
    from dataclasses import replace

    with pytest.raises(vt.DecompositionError, match="block 1 of gpt2 does not come apart: heads"):
        conserve.check_layer(view, 1, trace.layers[1], replace(weights, b_O=None))


def test_a_dtype_without_a_measured_tolerance_is_refused():
    view = ModelView(tiny.gpt2())
    view.W_U = view.W_U.to(torch.float8_e5m2)
    with pytest.raises(
        ModelError, match=r"has the dtype torch\.float8_e5m2, for which no toleranc"
    ):
        conserve.tolerance(view)
