"""`iter_flow_graphs` gives the graphs of `flow_graphs`, one at a time."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

import visit_tl as vt
from visit_tl import calls

SMALL = {"heads": 2, "values": 1, "neurons": 2, "k": 2, "verbose": False}
PROMPTS = ["a b", "b a c", [1, 2, 3], "c d e a"] * 6


@pytest.mark.parametrize(
    "asked",
    [{}, {"target": 3}, {"target": list(range(24))}, {"layers": [1], "position": 0},
     {"expand": 1, "max_nodes": 5}, {"segments": [(0, 2)]}, {"segments": [None, [(0, 2)]] * 12},
     {"prepend_bos": False, "preset": "paper"}],
    ids=str,
)  # fmt: skip
def test_they_are_the_graphs_of_flow_graphs(native, asked):
    wanted = vt.flow_graphs(native, PROMPTS, **SMALL, **asked)
    assert list(vt.iter_flow_graphs(native, PROMPTS, **SMALL, **asked)) == wanted
    if not isinstance(asked.get("segments", (0,))[0], type(None)):
        assert list(vt.iter_flow_graphs(native, iter(PROMPTS), **SMALL, **asked)) == wanted


def test_a_padded_batch(native):
    ids = torch.tensor([[0, 3, 4], [0, 5, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = vt.iter_flow_graphs(native, ids, attention_mask=mask, **SMALL)
    assert list(found) == vt.flow_graphs(native, ids, attention_mask=mask, **SMALL)


def test_an_endless_generator_is_read_a_few_prompts_ahead(native):
    seen = []

    def endless():
        while True:
            seen.append(PROMPTS[len(seen) % 4])
            yield seen[-1]

    graphs = vt.iter_flow_graphs(native, endless(), **SMALL)
    assert seen == []
    found = list(islice(graphs, 40))
    assert found == vt.flow_graphs(native, seen[:40], **SMALL)
    assert len(seen) <= 40 + calls._AHEAD


def test_what_does_not_fit_is_refused_at_the_call_or_at_its_turn(native):
    for odd in ("a b", 5, None, {"a": 1}):
        with pytest.raises(vt.InputError, match="^iter_flow_graphs: prompts must be prompts"):
            vt.iter_flow_graphs(native, odd, **SMALL)
    with pytest.raises(
        vt.InputError, match=r"^iter_flow_graphs: prompts must be a list of prompts"
    ):
        vt.iter_flow_graphs(native, ["a", None], **SMALL)
    with pytest.raises(vt.InputError, match="layer 9 is outside"):
        vt.iter_flow_graphs(native, iter(["a"]), layers=[9], **SMALL)
    with pytest.raises(vt.InputError, match="there are 2 prompts but 1 targets"):
        vt.iter_flow_graphs(native, ["a", "b"], target=[3], **SMALL)
    with pytest.raises(vt.InputError, match="there are 1 targets and more prompts"):
        list(vt.iter_flow_graphs(native, iter(["a", "b"]), target=[3], **SMALL))
    with pytest.raises(vt.InputError, match="an attention_mask needs a batch"):
        vt.iter_flow_graphs(native, iter(["a"]), attention_mask=torch.ones(1, 1), **SMALL)
    graphs = vt.iter_flow_graphs(native, iter(["a"] * 20 + [None]), **SMALL)
    assert next(graphs) == vt.flow_graphs(native, ["a"], **SMALL)[0]
    with pytest.raises(
        vt.InputError, match="^iter_flow_graphs: prompt must be a text, or the token"
    ):
        list(graphs)
