"""The figure: what it shows, what it says, and that it leaves Plotly as it was."""

from __future__ import annotations

import plotly.io as pio
import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl.errors import InputError
from visit_tl.escaping import for_plotly, visible
from visit_tl.view.figures.sankey import sankey
from visit_tl.view.window import choose, notice


@pytest.fixture(scope="module")
def graph():
    return realistic()


def hover(figure, name):
    """The hover of a node, by its id."""
    return next(d[1] for d in figure.data[0].node.customdata if d[0].startswith(f"{name} ·"))


def test_every_node_and_edge_is_drawn(graph):
    trace = sankey(graph).data[0]
    drawn = [data[0].split(" · ")[0] for data in trace.node.customdata[:-2]]
    assert drawn == [str(node.id) for node in graph]
    ends = {
        (drawn[a], drawn[b])
        for a, b in list(zip(trace.link.source, trace.link.target, strict=True))[:-1]
    }
    assert ends == {(str(e.source), str(e.target)) for e in graph.edges}
    assert min(trace.link.value) > 0


def test_coordinates_are_such_that_plotly_takes_them(graph):
    node = sankey(graph).data[0].node
    for place in (*node.x[:-2], *node.y[:-2]):
        assert 0.001 <= place <= 0.999


def test_the_hover_has_everything_that_a_node_knows(graph):
    figure = sankey(graph)
    head = graph["L1H3"]
    lines = hover(figure, "L1H3").split("<br>")
    assert lines[0] == "top: " + "  ".join(
        f"{for_plotly(visible(r.token))} {r.prob:.2g}" for r in head.top
    )
    assert lines[1].startswith("bottom: ")
    assert lines[2] == f"target ␣the: rank {head.rank} of 0..999, p = {head.prob:.3g}"
    assert lines[3] == f"norm {head.norm:.3g} · entropy {head.entropy:.3g} nats"
    most = max(range(len(head.attention)), key=lambda i: head.attention[i])
    assert lines[4].startswith("looks at: ")
    assert f"@{most} {head.attention[most]:.3g}" in lines[4].split("  ")[0]
    assert lines[5] == "blocks.0.hook_resid_pre[0, 3]"
    value = graph.of_kind("value")[0]
    facts = hover(figure, str(value.id))
    assert (
        f"made by {for_plotly(visible(value.token))} at position {value.id.key_position}" in facts
    )
    assert f"coefficient {value.coefficient:.3g}" in facts
    negative = next(n for n in graph.of_kind("neuron") if n.negative)
    assert "subtracted: it promotes its bottom tokens" in hover(figure, str(negative.id))


def test_the_hover_of_an_edge_says_what_its_score_is(graph):
    trace = sankey(graph).data[0]
    kinds = {text.rsplit(" ", 1)[0] for text in trace.link.customdata[:-1]}
    assert kinds == {
        *("attention", "entry of z", "pre-activation", "activation"),
        *("norm of what is added", "norm of the source"),
    }


def test_the_title_says_what_is_shown_and_what_is_hidden(graph):
    title = sankey(graph).layout.title.text
    for words in (
        "made-up",
        "When Mary and John gave a drink to",
        "position 8 (␣to)",
        "target ␣the (given)",
        "prediction",
        "layers 0..2 of 0..2",
        "6 heads, 120 memory values of shown heads, 21 W_O rows, 27 MLP neurons not shown",
    ):
        assert words in title


def test_of_many_layers_the_last_are_shown_and_the_rest_is_named():
    graph = realistic(tuple(range(6)), 6)
    figure = sankey(graph)
    assert "layers 4..5 of 0..5 shown; figure(layers=range(0, 6)) shows all 6" in (
        figure.layout.title.text
    )
    layers = {d[0].split(".")[0] for d in figure.data[0].node.customdata if "resid_mid" in d[0]}
    assert layers == {"L4", "L5"}
    assert len(sankey(graph, layers=range(6)).data[0].node.x) == len(graph) + 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([3], "layer 3 is outside 0..2, which this graph of made-up has"),
        ([-1], "layer -1 is outside 0..2"),
        ([0, 2], r"layers 0, 2 have a gap; show consecutive blocks, such as layers=range\(0, 3\)"),
        ([], "no layers to show; this graph has 0..2"),
    ],
)
def test_layers_that_cannot_be_shown_are_refused(graph, layers, message):
    with pytest.raises(InputError, match=message):
        sankey(graph, layers=layers)


def test_one_layer_is_called_so(graph):
    assert notice(graph, choose(graph, [1]), "text").startswith("layer 1 of 0..2 shown")


def test_no_text_of_a_token_is_markup():
    figure = sankey(hostile())
    trace = figure.data[0]
    texts = [*trace.node.label, *(d[0] for d in trace.node.customdata), *trace.link.customdata]
    assert not [t for t in texts if set("<>$%") & set(t)]
    for _, facts in trace.node.customdata:
        assert not set("<>$%") & set(facts.replace("<br>", ""))
    labels = "\n".join(trace.node.label)
    for token in HOSTILE:
        assert for_plotly(visible(token, 12)) in labels


def test_plotly_is_left_as_it_was(graph, monkeypatch):
    monkeypatch.setattr(pio.templates, "default", "plotly_dark")
    figure = sankey(graph)
    assert pio.templates.default == "plotly_dark"
    assert figure.layout.template.layout.to_plotly_json() == {}


def test_the_same_graph_gives_the_same_figure(graph):
    assert sankey(graph).to_json() == sankey(realistic()).to_json()
    assert sankey(graph, theme="dark").to_json() != sankey(graph).to_json()


def test_nodes_without_an_edge_are_counted(graph):
    from dataclasses import replace

    bare = replace(graph, edges=tuple(e for e in graph.edges if "b_O" not in str(e.source)))
    assert "3 nodes without an edge are not drawn" in sankey(bare).layout.title.text
    empty = sankey(replace(graph, edges=()))
    assert not empty.data
    assert "no edges to draw" in [a.text for a in empty.layout.annotations]
