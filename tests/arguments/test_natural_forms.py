"""What people have at hand is taken: scalars and vectors of NumPy and torch, one as a list."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import visit_tl as vt
from tests import tiny
from visit_tl.arguments import plain

SMALL = {"heads": 1, "values": 1, "neurons": 1, "k": 1}
QUIET = {"verbose": False}
METRIC = vt.causal.logit_difference(3, 4)


@pytest.fixture(scope="module")
def model():
    return tiny.native()


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_any_integer_is_a_token_id(model, three):
    graph = vt.flow_graph(model, "a b", target=3, **SMALL)
    assert vt.flow_graph(model, "a b", target=three, **SMALL) == graph
    assert vt.flow_graphs(model, ["a b"], target=[three], **SMALL, **QUIET) == [graph]
    assert vt.lens_table(model, "a b", target=three) == vt.lens_table(model, "a b", target=3)
    assert vt.causal.attribute(model, "a b", three).target_id == 3
    assert vt.causal.logit_difference(three, 4) == METRIC
    assert vt.causal.probability(three) == vt.causal.probability(3)
    assert graph.attribution(against=torch.tensor(4)).against_id == 4


@pytest.mark.parametrize(
    "ids", [np.array([0, 3, 4]), torch.tensor([0, 3, 4]), torch.tensor([[0, 3, 4]]), (0, 3, 4),
            [np.int64(0), torch.tensor(3), 4], pd.Series([0, 3, 4]), iter([0, 3, 4])],
    ids=["array", "tensor", "row", "tuple", "scalars", "series", "iterator"],
)  # fmt: skip
def test_token_ids_in_any_form_are_a_prompt(model, ids):
    assert vt.flow_graph(model, ids, **SMALL) == vt.flow_graph(model, [0, 3, 4], **SMALL)


def test_a_batch_of_numpy_is_one_of_torch(model):
    batch, mask = np.array([[0, 3, 4], [0, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    expected = vt.flow_graphs(model, [[0, 3, 4], [0, 5]], **SMALL, **QUIET)
    assert vt.flow_graphs(model, batch, attention_mask=mask, **SMALL, **QUIET) == expected


@pytest.mark.parametrize("where", [1, [1], np.array([1]), torch.tensor([1]), {1}, range(1, 2)])
def test_positions_are_one_or_several_everywhere(model, where):
    effects = vt.causal.effects
    at = {"corrupted": "b a", "positions": where, **QUIET}
    assert effects(model, "a b", METRIC, nodes="L1H0", **at).positions == (1,)
    edges = vt.causal.edge_effects(model, "a b", METRIC, edges="L0H1->logits", **at)
    assert edges.positions == (1,)
    graph = vt.flow_graph(model, "a b", positions=where, **SMALL)
    assert {column.position for column in graph.columns} <= {1}
    assert vt.lens_table(model, "a b").columns(where) == (1,)


def test_all_positions_are_none_of_them_left_out(model):
    at = {"corrupted": "b a", "edges": ["L0H1->logits"], **QUIET}
    every = vt.causal.edge_effects(model, "a b", METRIC, positions="all", **at)
    assert every == vt.causal.edge_effects(model, "a b", METRIC, **at)
    table = vt.lens_table(model, "a b")
    assert table.columns("all") == table.columns()


def test_layers_are_one_several_or_all_everywhere(model):
    whole, last = (
        vt.flow_graph(model, "a b", **SMALL),
        vt.flow_graph(model, "a b", layers=1, **SMALL),
    )
    assert vt.flow_graph(model, "a b", layers="all", **SMALL) == whole
    assert vt.flow_graph(model, "a b", layers=np.array([1]), **SMALL) == last
    assert whole.subgraph("all") == whole and whole.subgraph(1) == whole.subgraph([1])
    assert whole.text(1) == whole.text([1]) and whole.text("all") == whole.text([0, 1])


def test_none_is_the_default_where_that_is_what_it_means(model):
    graph = vt.flow_graph(model, "a b", **SMALL)
    assert vt.flow_graph(model, "a b", position=None, fwd_hooks=None, **SMALL) == graph
    assert vt.causal.logit_difference(3, 4, None) == METRIC


def test_one_head_is_a_list_of_one_and_a_node_its_own_id(model):
    graph = vt.flow_graph(model, "a b", **SMALL)
    head = graph.of_kind("head")[0]
    assert graph[head] == head and graph.hook_points(head) == graph.hook_points([head.id])
    one, several = vt.attention(model, "a b", "L0H1"), vt.attention(model, "a b", ["L0H1"])
    assert one.heads == several.heads


def test_a_pair_of_hook_and_function_is_a_list_of_one(model):
    hook = ("blocks.0.hook_attn_out", lambda value, hook: value * 0)
    alone = vt.flow_graph(model, "a b", fwd_hooks=hook, **SMALL)
    assert alone == vt.flow_graph(model, "a b", fwd_hooks=[list(hook)], **SMALL)


def test_what_needs_no_reading_is_handed_on_as_it_is():
    text, tensor = "a b", torch.tensor([1, 2])
    assert plain.prompt(text) is text and plain.prompt(tensor) is tensor
    assert plain.plain(2**70) == 2**70 and plain.plain({"a": 1}) == {"a": 1}


def test_signatures_and_docstrings_are_those_of_the_calls():
    import inspect

    assert list(inspect.signature(vt.flow_graph).parameters)[:3] == ["model", "prompt", "target"]
    assert inspect.signature(vt.flow_graph).parameters["k"].default == 5
    assert vt.flow_graph.__doc__.startswith("X-ray one forward pass")


def test_the_package_and_its_graphs_are_imported_without_pydantic_or_torch():
    import subprocess

    code = (
        "import sys, visit_tl as vt, visit_tl.model.load;"
        "vt.FlowGraph, vt.causal, vt.circuits.load;"
        "print({'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
