"""The same numbers whatever mode torch is in: inference mode, no_grad, gradients on."""

import functools

import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.conftest import MAKERS
from visit_tl import InputError, ModelView, Trace
from visit_tl.causal import metrics

CLEAN, OTHER = "a b c d", "b c d e"
MODES = [torch.inference_mode, torch.no_grad, torch.enable_grad]
QUIET = {"verbose": False}
ABLATE = {"zero": {}, "resample": {"corrupted": OTHER}, "mean": {"mean_over": [CLEAN, OTHER]}}


def metric(logits):
    return logits[0, -1].log_softmax(-1)[5]


def screened(model, asked=metric, **options):
    options = {"corrupted": OTHER} | options
    return vt.causal.effects(
        model, CLEAN, asked, screen="attribution", top=2, verbose=False, **options
    )


def cached(model, **options):
    with torch.no_grad():
        cache = model.run_with_cache(model.to_tokens(CLEAN))[1]
    return vt.flow_graph(model, CLEAN, cache=cache, **options)


def attributed(model):
    found = vt.causal.attribute(model, CLEAN)
    return found.total, found.heads().tolist(), found.error


def read(model):
    view = ModelView(model)
    found = vt.read(view, Trace.run(view, view.tokens.encode(CLEAN, None)).layers[1].z @ _W(view))
    return found.top_ids.tolist(), found.top_probs.tolist()


def _W(view):
    return view.weights(1).W_O[0]


def curve(model):
    edges = vt.causal.edge_effects(model, CLEAN, metric, corrupted=OTHER, **QUIET)
    return vt.causal.faithfulness_curve(model, [(CLEAN, OTHER)], metric, edges, **QUIET).values


CALLS = {
    "graph": lambda m: vt.flow_graph(m, CLEAN),
    "expanded": lambda m: vt.flow_graph(m, CLEAN, expand=2),
    "cache": cached,
    "fwd_hooks": lambda m: vt.flow_graph(
        m, CLEAN, fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]
    ),
    "graphs": lambda m: vt.flow_graphs(m, [CLEAN, OTHER], **QUIET),
    "generate": lambda m: vt.generate(m, CLEAN, 2, **QUIET),
    "lens_table": lambda m: vt.lens_table(m, CLEAN),
    "read": read,
    "attention": lambda m: vt.attention(m, CLEAN, ["L0H0"]).html,
    "check": vt.check,
    "attribute": attributed,
    "screen, zero": lambda m: screened(m, how="zero", corrupted=None),
    "screen, resample": screened,
    "screen, mean": lambda m: screened(m, how="mean", corrupted=None, mean_over=[CLEAN, OTHER]),
    "screen, denoise": lambda m: screened(m, direction="denoise"),
    "screen, kl": lambda m: screened(m, metrics.kl()),
    "screen, a difference": lambda m: screened(m, metrics.logit_difference(1, 2)),
    "screen, a graph": lambda m: screened(m, nodes=vt.flow_graph(m, CLEAN)),
    "edges of a graph": lambda m: vt.flow_graph(m, CLEAN).edge_effects(
        metric, corrupted=OTHER, **QUIET
    ),
    "faithfulness": lambda m: vt.causal.faithfulness(
        m, [(CLEAN, OTHER)], metric, ["L0H0"], **QUIET
    ),
    "completeness": lambda m: vt.causal.completeness(
        m, [(CLEAN, OTHER)], metric, ["L0H0"], **QUIET
    ),
    "curve": curve,
} | {
    f"{name}, {how}": functools.partial(
        lambda m, call, options: call(m, CLEAN, metric, **options, **QUIET),
        call=call,
        options={"how": how, **options},
    )
    for name, call in (("effects", vt.causal.effects), ("edges", vt.causal.edge_effects))
    for how, options in ABLATE.items()
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("maker", ["native", "llama"])
def test_every_call_gives_the_same_in_every_mode_and_after_it(maker, call):
    model = MAKERS[maker]()
    # Of another copy, so that what is kept between calls was made in the mode that is tried.
    with torch.no_grad():
        expected = call(MAKERS[maker]())
    for mode in MODES:
        with mode():
            assert call(model) == expected, mode
            assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert call(model) == expected
    for parameter in model.parameters():
        parameter.requires_grad_()
    assert call(model) == expected
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_model_that_was_made_in_inference_mode_gives_the_same(call):
    with torch.inference_mode():
        model = tiny.native()
        assert all(parameter.is_inference() for parameter in model.parameters())
        inside = call(model)
    with torch.no_grad():
        expected = call(tiny.native())
    assert inside == expected
    with torch.no_grad():
        assert call(model) == expected
    assert all(parameter.is_inference() for parameter in model.parameters())


def test_screening_in_inference_mode_gives_the_estimates_of_outside(model):
    expected = screened(model)
    assert not all(expected.exact)
    with torch.inference_mode():
        assert screened(model) == expected


def test_a_graph_made_in_inference_mode_is_asked_outside_of_it(native):
    with torch.inference_mode():
        graph = vt.flow_graph(native, CLEAN)
        kept = native(native.to_tokens(CLEAN))
    asked = {"corrupted": OTHER, "screen": "attribution", "top": 2, "verbose": False}
    found = graph.effects(metric, **asked)
    assert found == vt.flow_graph(native, CLEAN).effects(metric, **asked)
    # A reference that was made in inference mode is no obstacle to our own metrics ...
    assert (
        graph.effects(metrics.kl(kept), **asked).values
        == graph.effects(metrics.kl(), **asked).values
    )
    # ... but a metric of the caller's may hold one where torch would have to save it.
    with pytest.raises(InputError, match=r"made in torch.inference_mode\(\), and the metric, or a"):
        graph.effects(lambda logits: (logits * kept).sum(), **asked)
