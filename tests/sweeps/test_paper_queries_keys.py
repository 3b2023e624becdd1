"""Studies of queries and keys beside loops over heads and positions."""

from functools import partial

import pytest
import torch

from tests import tiny
from tests.architectures import ARCHITECTURES
from tests.sweeps.conftest import opened
from tests.sweeps.head_loops import turned
from tests.sweeps.tables import IDS, assert_is_what_loops_give, measured, swept_prompts
from visit_tl import ModelView, Trace
from visit_tl.model.components import key_readings, query_readings
from visit_tl.sweeps.paper.queries_keys import _query_key
from visit_tl.sweeps.prompt_run import SweptModel

STUDIES = ["k_vs_v", "q_vs_k"]


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("k", [7, 200])
def test_before_rotation(padded_decoder, name, k):
    assert_is_what_loops_give(padded_decoder, name, k)


@pytest.mark.parametrize("name", STUDIES)
def test_only_the_circuit_where_heads_are_too_wide(decoder, name):
    assert_is_what_loops_give(decoder, name, 7, naive=False)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama-folded", "gptj", "qwen3"])
def test_after_rotation(name, kind):
    if kind in ("gptj", "qwen3") and not tiny.HAS_BRIDGE:
        pytest.skip("made as a bridge")
    model = opened(kind)
    plain = kind == "gpt2"
    rotary = {"gptj": 4, "qwen3": 6}.get(kind, 4)
    turn = partial(turned, rotary=rotary, adjacent=kind == "gptj")
    assert_is_what_loops_give(
        model,
        name,
        7,
        looped={"turn": (lambda x, position: x) if plain else turn},
        rotary="after",
        naive=kind != "qwen3",
    )


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="made as bridges")
@pytest.mark.parametrize("kind", [n for n, a in ARCHITECTURES.items() if not a.experts])
def test_readings_are_those_of_a_graph(kind):
    """Norms of queries and keys that centre, span all heads or are one per head among them."""
    if kind == "cohere-qk-norm" and tiny.RELEASE < (4,):
        pytest.skip("this release cannot open it")
    view = ModelView(ARCHITECTURES[kind].bridge())
    run = SweptModel(view).passes([(0, IDS[3], None, "")])[0]
    trace = Trace.run(view, view.tokens.encode(IDS[3], None))
    found = _query_key(run, "after")
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
    for layer, t in trace.layers.items():
        weights = view.weights(layer)
        each = view.kv_head(t.keys.shape[1])
        own = view.kv_head(weights.W_K.shape[0])
        close(found.query_read[layer], query_readings(t.query, weights.W_K[own], t.key_norm))
        for j in range(len(IDS[3])):
            keys = t.keys[j][each]
            close(found.keys[layer][:, j], keys)
            read = key_readings(keys, weights.W_Q, t.rotation, t.query_norm)
            close(found.keys_read[layer][:, j], read)


@pytest.mark.parametrize("name", STUDIES)
def test_what_cannot_be_asked(name):
    model = opened("qwen3" if tiny.HAS_BRIDGE else "llama")
    found = measured(model, name, swept_prompts(model)[:1], rotary="during")
    assert found.errors == [(0, name, "rotary is before or after, not 'during'")]
    if tiny.HAS_BRIDGE:
        found = measured(model, name, swept_prompts(model)[:1])
        assert "24 together, which does not fit into d_model, 16" in found.errors[0][2]
