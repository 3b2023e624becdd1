"""One number of each head as a map."""

import math
from dataclasses import replace

import numpy as np
import pytest

import visit_tl as vt
from tests.view.synthetic import realistic, with_gradients
from visit_tl import InputError
from visit_tl.graph.records import Effect
from visit_tl.view.figures.heads import heads


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


def test_attention_to_a_token_is_that_of_all_positions_where_it_stands():
    from tests.conftest import made

    graph = vt.flow_graph(made("native"), "a b a b c", heads=2)
    assert graph.tokens[1:] == ("a", " b", " a", " b", " c")
    for to, at in ((" b", (2, 4)), (0, (0,)), (-2, (4,)), (" a", (3,))):
        figure = heads(graph, "attention", to=to)
        drawn = np.array(figure.data[0].z, dtype=float)
        for layer, head in np.ndindex(2, 4):
            name = f"L{layer}H{head}"
            if name in graph:
                expected = sum(graph[name].attention[i] for i in at)
                assert drawn[layer, head] == pytest.approx(expected)
            else:
                assert math.isnan(drawn[layer, head])
        assert figure.layout.title.text.endswith(f"at {', '.join(map(str, at))}")
    with pytest.raises(InputError, match=r"position 5 cannot look at ' x'; it sees the tokens 0 <"):
        heads(graph, "attention", to=" x")
    with pytest.raises(InputError, match="cannot look at 6"):
        heads(graph, "attention", to=6)
    with pytest.raises(InputError, match="by attention need a token to look at, and no others do"):
        heads(graph, "attention")
    with pytest.raises(InputError, match="by attention need a token to look at, and no others do"):
        heads(graph, "rank", to=" b")
    early = vt.flow_graph(made("native"), "a b a b c", heads=2, position=2)
    with pytest.raises(InputError, match="position 2 cannot look at 4"):
        heads(early, "attention", to=4)


def test_what_was_not_measured_is_not_drawn(graph):
    with pytest.raises(InputError, match="no head of this graph has a measured effect"):
        graph.figure(kind="heads", by="effect")
    with pytest.raises(InputError, match=r"a measured gradient; lens\.onto\(g\), with lens = vis"):
        graph.figure(kind="heads", by="gradient")
    with pytest.raises(InputError, match=r"has measured reversed attention; reversed\.onto\(g\)"):
        graph.figure(kind="heads", by="reversed")
    with pytest.raises(InputError, match=r"drawn by rank, prob, norm, .*; got 'size'"):
        graph.figure(kind="heads", by="size")
    with pytest.raises(InputError, match="kinds flow, heads, lens, neurons; got 'route'"):
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


@pytest.mark.parametrize(
    ("by", "number", "title"),
    [
        ("gradient", lambda n: n.gradient.norm, "gradient of the heads, target"),
        ("reversed", lambda n: n.reversed.norm, "reversed attention of the heads, target"),
    ],
)
def test_gradients_and_reversed_attention_are_drawn_where_they_were_measured(by, number, title):
    measured = with_gradients(realistic())
    figure = heads(measured, by)
    drawn = np.array(figure.data[0].z, dtype=float)
    for node in measured.of_kind("head"):
        assert drawn[node.layer, node.id.head] == pytest.approx(number(node))
    assert figure.layout.title.text.startswith(title)
