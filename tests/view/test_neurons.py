"""Bars of neurons: which, in what order, with what words, and their text twin."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.view.browsing import SHOTS
from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl import InputError
from visit_tl.escaping import for_plotly, visible
from visit_tl.graph.records import Effect
from visit_tl.view.figures.neurons import neurons, text
from visit_tl.view.style import node_colour

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("part", "kind"), [("mlp", "neuron"), ("attention", "attn_neuron")])
def test_the_strongest_are_shown_from_the_highest_to_the_lowest(part, kind):
    graph = realistic()
    bars = neurons(graph, 1, part=part, most=10).data[0]
    own = [n for n in graph.of_kind(kind) if n.layer == 1]
    strongest = sorted(own, key=lambda n: -abs(n.coefficient))[:10]
    expected = sorted(strongest, key=lambda n: -n.coefficient)
    assert list(bars.x) == [n.coefficient for n in expected]
    assert list(bars.marker.color) == [node_colour(n, graph.d_vocab, "light") for n in expected]
    figure = neurons(graph, 1, part=part, most=10)
    for node, label in zip(expected, figure.layout.yaxis.ticktext, strict=True):
        assert label.startswith(f"{node.id}  ")
        assert for_plotly(visible(node.promoted[0].token, 14)) in label
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert "not shown: 15 more in the graph and" in figure.layout.title.text


def test_the_last_block_is_shown_unless_another_is_asked_for():
    graph = realistic()
    assert neurons(graph).layout.yaxis.ticktext[0].startswith("L2N")
    assert len(neurons(graph).data[0].x) == 25
    assert "not shown: 9 pruned" in neurons(graph).layout.title.text


def test_what_is_added_is_the_coefficient_times_the_norm():
    graph = realistic()
    bars = neurons(graph, 0, by="adds", most=3).data[0]
    own = [n.coefficient * n.norm for n in graph.of_kind("neuron") if n.layer == 0]
    assert list(bars.x) == sorted(sorted(own, key=abs)[-3:], reverse=True)


def test_effects_are_drawn_where_they_were_measured():
    graph = realistic()
    with pytest.raises(InputError, match=r"block 2 has a measured effect; g\.effects\(metric\)"):
        neurons(graph, by="effect")
    with pytest.raises(InputError, match=r"measured attribution; g\.attribution\(\)\.onto\(g\)"):
        neurons(graph, by="attribution")
    node = next(n for n in graph.of_kind("neuron") if n.layer == 2)
    marked = replace(
        graph, nodes=tuple(replace(n, effect=Effect(-2.0, True)) if n is node else n for n in graph)
    )
    bars = neurons(marked, by="effect", theme="dark").data[0]
    assert list(bars.x) == [-2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 7}, r"keeps no MLP neurons of block 7; the blocks 0, 1, 2 have some"),
        ({"part": "gate"}, r"part must be one of mlp, attention; got 'gate'"),
        ({"by": "size"}, r"by must be one of coefficient, adds, attribution, effect; got 'size'"),
        ({"most": 0}, r"most must be an integer of at least 1, got 0"),
        ({"theme": "pink"}, r"'pink' is no theme"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        neurons(realistic(), **options)


def test_a_graph_without_neurons_says_so():
    graph = realistic()
    bare = replace(graph, nodes=tuple(graph.of_kind("logits")), edges=())
    with pytest.raises(InputError, match=r"keeps no rows of W_O; it has none"):
        neurons(bare, part="attention")


@pytest.mark.parametrize("name", ["realistic", "hostile"])
def test_it_is_the_same_text_as_ever(name):
    graph = {"realistic": realistic, "hostile": hostile}[name]()
    expected = (GOLDEN / f"neurons-{name}.txt").read_text(encoding="utf-8")
    assert text(graph, 0, most=12) == expected, (
        "if the change is meant, write the new text to tests/view/golden"
    )


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_hostile_tokens_as_text_and_says_nothing(browser, tmp_path, theme):
    path = tmp_path / "neurons.html"
    drawn = neurons(hostile(), 0, theme=theme)
    drawn.write_html(path, include_plotlyjs="inline")
    size = {"width": drawn.layout.width + 20, "height": drawn.layout.height + 20}
    tab = browser.new_page(viewport=size)
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.goto(path.as_uri())
    tab.wait_for_selector(".bars path")
    labels = " ".join(tab.locator(".ytick text").all_text_contents())
    assert sum(visible(word, 14) in labels for word in HOSTILE) > 20
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"neurons-{theme}.png")
    assert said == []
    tab.close()
