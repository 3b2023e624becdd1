"""One number of each head as a map."""

import math
from dataclasses import replace

import numpy as np
import pytest

import visit_tl as vt
from visit_tl import InputError
from visit_tl.graph.records import Effect


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c d", heads=2)


@pytest.mark.parametrize(
    ("by", "number"),
    [
        ("rank", lambda n: -math.log10(n.rank + 1)),
        ("prob", lambda n: n.prob),
        ("norm", lambda n: n.norm),
    ],
)
def test_each_kept_head_has_its_number_and_the_others_none(graph, by, number):
    drawn = np.array(graph.figure(kind="heads", by=by).data[0].z, dtype=float)
    assert drawn.shape == (2, 4)
    for layer, head in np.ndindex(2, 4):
        name = f"L{layer}H{head}"
        if name in graph:
            assert drawn[layer, head] == pytest.approx(number(graph[name]))
        else:
            assert math.isnan(drawn[layer, head])


def test_what_was_not_measured_is_not_drawn(graph):
    with pytest.raises(InputError, match="no head of this graph has its effect measured"):
        graph.figure(kind="heads", by="effect")
    with pytest.raises(InputError, match=r"drawn by rank, prob, norm, .*; got 'size'"):
        graph.figure(kind="heads", by="size")
    with pytest.raises(InputError, match="the kinds flow and heads; got 'route'"):
        graph.figure(kind="route")
    first = graph.of_kind("head")[0]
    marked = replace(
        graph,
        nodes=tuple(
            replace(n, effect=Effect(-2.0, True)) if n is first else n for n in graph.nodes
        ),
    )
    drawn = np.array(marked.figure(kind="heads", by="effect", theme="dark").data[0].z, dtype=float)
    assert drawn[first.layer, first.id.head] == -2.0 and np.isnan(drawn).sum() == 7
