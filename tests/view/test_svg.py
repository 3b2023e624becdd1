"""SVG: the picture of the figure, well formed whatever the tokens, readable by every reader."""

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.view.browsing import SHOTS
from tests.view.synthetic import HOSTILE, hostile, realistic
from tests.view.test_any_graph import build, specs
from visit_tl import InputError
from visit_tl.escaping import carried, isolated, visible
from visit_tl.graph.node_descriptions import node_title, short_label
from visit_tl.view.figures.sankey import sankey
from visit_tl.view.layout import NODE_WIDTH, layout
from visit_tl.view.style import node_colour, palette
from visit_tl.view.svg import svg

NS = {"s": "http://www.w3.org/2000/svg"}


def parsed(text):
    return ElementTree.fromstring(text.encode())


def group(root, i):
    """The edges (0), the nodes (1) or the labels (2)."""
    return root.findall("s:g", NS)[0].findall("s:g", NS)[i]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nodes_stand_where_the_layout_says_in_the_colours_of_the_figure(theme):
    graph = realistic()
    place, root = layout(graph), parsed(svg(graph, theme=theme))
    drawn = list(group(root, 1))
    assert len(drawn) == len(place.boxes) == len(graph)
    for node, rect in zip(graph, drawn, strict=True):
        box = place.boxes[node.id]
        assert float(rect.get("x")) == pytest.approx(box.left, abs=0.005)
        assert float(rect.get("y")) == pytest.approx(box.top, abs=0.005)
        assert float(rect.get("height")) == pytest.approx(box.height, abs=0.005)
        assert rect.get("fill") == node_colour(node, graph.d_vocab, theme)
        assert rect.find("s:title", NS).text.split("\n")[0] == node_title(node)
    labels = [text.text for text in group(root, 2)]
    assert labels == [isolated(short_label(node, graph)) for node in graph]
    ground = root.find("s:rect", NS)
    assert ground.get("fill") == palette(theme).background
    assert (ground.get("width"), ground.get("height")) == (root.get("width"), root.get("height"))
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"


def test_edges_are_stacked_at_their_nodes_without_gap_or_overlap():
    graph = realistic()
    place, root = layout(graph), parsed(svg(graph))
    ribbons = list(group(root, 0))
    assert len(ribbons) == len(graph.edges)
    leaving, entering = {}, {}
    for ribbon in ribbons:
        source, target = ribbon.find("s:title", NS).text.split("\n")[0].split(" → ")
        n = [float(x) for x in re.findall(r"-?[\d.]+", ribbon.get("d"))]
        x0, y0, x1, y1, low1, low0 = n[0], n[1], n[6], n[7], n[8], n[14]
        start, end = (place.boxes[graph[name].id] for name in (source, target))
        assert x0 == pytest.approx(start.left + NODE_WIDTH, abs=0.01)
        assert x1 == pytest.approx(end.left, abs=0.01)
        assert y0 == pytest.approx(leaving.get(source, start.top), abs=0.02)
        assert y1 == pytest.approx(entering.get(target, end.top), abs=0.02)
        assert low0 - y0 == pytest.approx(low1 - y1, abs=0.02)
        leaving[source], entering[target] = low0, low1
    widths = sorted(place.edge_widths)
    drawn = sorted(
        float(n[8]) - float(n[7]) for n in (re.findall(r"-?[\d.]+", r.get("d")) for r in ribbons)
    )
    assert drawn == pytest.approx(widths, abs=0.02)


def test_it_shows_the_blocks_that_the_figure_shows():
    graph = realistic(tuple(range(6)), 6)
    root = parsed(svg(graph))
    assert len(group(root, 1)) == len(graph.subgraph([4, 5]))
    words = [text.text for text in root.iter(f"{{{NS['s']}}}text")]
    assert "block 4" in words and "block 5" in words and "block 3" not in words
    assert any("figure(layers=range(0, 6)) shows all 6" in word for word in words)
    assert len(group(parsed(svg(graph, layers=[2])), 1)) == len(graph.subgraph([2]))
    with pytest.raises(InputError, match=r"layer 9 is outside 0\.\.5"):
        svg(graph, layers=[9])
    with pytest.raises(InputError, match="'pink' is no theme"):
        svg(graph, theme="pink")


def test_hostile_tokens_are_text_and_nothing_in_it_runs_or_loads():
    text = svg(hostile())
    root = parsed(text)
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert tags == {"svg", "title", "rect", "text", "g", "path", "use"}
    names = {name for element in root.iter() for name in element.attrib}
    assert not [name for name in names if name.lower().startswith("on")]
    links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
    assert links == [f"#{group(root, 2).get('id')}"]
    labels = " ".join(label.text for label in group(root, 2))
    for token in HOSTILE:
        assert isolated(visible(token, 12)) in labels
    titles = " ".join(title.text for title in root.iter(f"{{{NS['s']}}}title"))
    for token in HOSTILE:
        assert isolated(visible(token)) in titles


def test_no_text_is_smaller_than_12_px():
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)"', svg(realistic()))]
    assert min(sizes) >= 12


def test_it_is_the_same_at_each_call():
    assert svg(realistic()) == svg(realistic())


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs(), st.sampled_from(["light", "dark"]))
def test_any_graph_is_drawn_well_formed(spec, theme):
    graph = build(spec)
    own = graph.at(graph.position)
    root = parsed(svg(graph, layers=graph.layers, theme=theme))
    place = layout(own)
    assert len(group(root, 1)) == len(place.boxes) and len(group(root, 0)) == len(own.edges)
    for column in graph.columns:
        parsed(svg(graph, layers=graph.layers, position=column.position))


@settings(deadline=None, max_examples=200)
@given(st.text() | st.sampled_from(HOSTILE))
def test_what_is_carried_is_well_formed_and_otherwise_as_it_was(text):
    kept = carried(text)
    escaped = kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    read = ElementTree.fromstring(f"<a>{escaped}</a>".encode()).text or ""
    assert read == kept
    assert carried(kept) == kept
    if text.isprintable() or set(text) <= set(" \n\t"):
        assert kept == text


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it_and_runs_nothing(browser, tmp_path, theme):
    path = tmp_path / "g.svg"
    path.write_text(svg(hostile(), theme=theme), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1600, "height": 740})
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    assert tab.locator("parsererror").count() == 0
    assert tab.locator("svg > g > g text").count() == len(hostile())
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"svg-{theme}.png")
    assert said == [] and asked == [path.as_uri()]
    tab.close()


def test_it_is_as_large_as_the_figure():
    graph = realistic()
    figure, root = sankey(graph), parsed(svg(graph))
    assert int(root.get("width")) == figure.layout.width
    assert int(root.get("height")) == figure.layout.height


def test_a_converter_without_a_browser_draws_it(tmp_path):
    program = shutil.which("rsvg-convert")
    if program is None:
        pytest.skip("rsvg-convert is not installed")
    path = tmp_path / "g.svg"
    path.write_text(svg(hostile()), encoding="utf-8")
    drawn = subprocess.run([program, str(path)], capture_output=True, check=True)
    assert drawn.stdout.startswith(b"\x89PNG") and drawn.stderr == b""
