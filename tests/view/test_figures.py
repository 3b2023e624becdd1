"""Figures by name: each kind is its view, and what a kind has not is refused."""

import pytest

from tests.view.synthetic import realistic
from visit_tl import InputError
from visit_tl.graph.state_table import of_graph
from visit_tl.view.figures.heads import heads
from visit_tl.view.figures.kinds import KINDS, figure
from visit_tl.view.figures.lens_table import figure as lens
from visit_tl.view.figures.neurons import neurons
from visit_tl.view.figures.sankey import sankey


def test_each_kind_is_its_view():
    graph = realistic()
    views = {
        "flow": (sankey(graph, layers=[1], theme="dark"), {"layers": [1]}),
        "heads": (heads(graph, "norm", theme="dark"), {"by": "norm"}),
        "lens": (lens(of_graph(graph), "entropy", theme="dark"), {"by": "entropy"}),
        "neurons": (neurons(graph, 1, most=4, theme="dark"), {"layer": 1, "most": 4}),
    }
    assert set(views) == set(KINDS)
    for kind, (expected, options) in views.items():
        assert figure(graph, kind, theme="dark", **options) == expected


def test_what_a_kind_has_not_is_refused():
    graph = realistic()
    with pytest.raises(InputError, match="kinds flow, heads, lens, neurons; got 'route'"):
        figure(graph, "route")
    with pytest.raises(InputError, match=r"kind='neurons' takes layer= instead"):
        figure(graph, "neurons", layers=[1])
    with pytest.raises(InputError, match=r"kind='lens' takes positions= instead"):
        figure(graph, "lens", position=1)
    with pytest.raises(InputError, match=r"kind='heads' shows all of the graph"):
        figure(graph, "heads", layers=[1])
