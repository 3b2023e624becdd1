"""The page without a browser: self-contained, escaped, and whole."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from html.parser import HTMLParser

import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl.errors import InputError
from visit_tl.escaping import visible
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.view.layout import layout
from visit_tl.view.notebook import notebook_html
from visit_tl.view.page.asset_files import SCRIPTS, colours, script
from visit_tl.view.page.block_depths import blocks
from visit_tl.view.page.document import page
from visit_tl.view.style import PALETTES


class Reader(HTMLParser):
    """What a browser would make of a page: its elements and their text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def block(text, name):
    """One of the blocks of JSON in a page."""
    (found,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    return json.loads(found)


@pytest.fixture(scope="module")
def made():
    return page(realistic(tuple(range(6)), 6))


def test_it_asks_the_network_for_nothing(made):
    elements = Reader(made).elements
    fetching = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background"}
    assert not [(t, a) for t, a in elements if fetching & set(a)]
    assert not {t for t, _ in elements} & {
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "form",
        "base",
    }
    (policy,) = [a["content"] for t, a in elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'")
    assert "http" not in policy


def test_it_says_whose_it_is(made):
    assert '<meta name="generator" content="visit_tl">' in made[:1000]


def test_its_bytes_are_the_same_each_time(made):
    assert page(realistic(tuple(range(6)), 6)) == made


def test_it_carries_every_node_and_every_edge(made):
    graph = realistic(tuple(range(6)), 6)
    data = block(made, "data")
    assert [KINDS[kind] for kind in data["nodes"]["kind"]] == [node.kind for node in graph]
    assert data["nodes"]["rank"] == [node.rank for node in graph]
    assert len(data["edges"]["source"]) == len(graph.edges)
    assert sorted(data["depths"]["everything"]["node"]) == list(range(len(graph)))


@pytest.mark.parametrize(
    ("layers", "ranges"),
    [
        (None, {"route": [0, 5], "blocks": [3, 5], "everything": [4, 5]}),
        ([1, 2], {"route": [1, 2], "blocks": [1, 2], "everything": [1, 2]}),
    ],
)
def test_it_opens_on_the_layers_that_were_asked_for(layers, ranges):
    opening = block(page(realistic(tuple(range(6)), 6), layers=layers), "opening")
    assert opening["layers"] == ranges


def test_few_blocks_open_on_everything_and_many_on_the_route(made):
    assert block(made, "opening")["depth"] == "route"
    assert block(page(realistic((0, 1), 2)), "opening")["depth"] == "everything"


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="layer 6 is outside"):
        page(realistic(tuple(range(6)), 6), layers=[6])


def test_a_page_is_small():
    graph = realistic(tuple(range(8)), 8)
    size = len(page(graph).encode())
    # Everything included. With real tokens it is 365 bytes a node: 2.5 MB for the 6822 nodes of a
    # graph of 30 blocks whose memories were followed back.
    assert size / len(graph) < 400


def test_a_page_looks_up_names_a_few_times_a_node_and_lays_out_each_depth_once(monkeypatch):
    graph = realistic(tuple(range(8)), 8)
    looked_up, laid_out = [0], []
    plain, place = NodeId.__hash__, layout

    def counted(name):
        looked_up[0] += 1
        return plain(name)

    def noted(graph, widths=None):
        laid_out.append(len(graph))
        return place(graph, widths)

    monkeypatch.setattr(NodeId, "__hash__", counted)
    monkeypatch.setattr("visit_tl.view.page.payload.layout", noted)
    page(graph)
    # Looking up the ends of every edge wherever they are needed took 120 a node.
    assert looked_up[0] < 10 * len(graph)
    assert laid_out == [len(blocks(graph)), len(graph)]


def test_hostile_tokens_are_text():
    text = page(hostile())
    assert "@@" not in re.sub("@@DATA@@", "", text)
    reader = Reader(text)
    assert not [a for _, attrs in reader.elements for a in attrs if a.startswith("on")]
    assert not [t for t, _ in reader.elements if t in ("img", "a")]
    chips = re.findall(r'class="token[^>]*><bdi>(.*?)</bdi>', text)
    assert [html.unescape(c) for c in chips] == [visible(token) for token in HOSTILE]
    scripts = [attrs for tag, attrs in reader.elements if tag == "script"]
    assert len(scripts) == text.count("</script") == 4
    assert block(text, "data")["graph"]["tokens"] == [visible(token) for token in HOSTILE]


def test_the_table_and_the_text_are_on_the_page(made):
    assert made.count("<tr>") == 1 + 6 * 10
    assert "block 0 ──" in made
    assert "block 5 ──" in made


def test_the_script_is_all_of_its_files_without_their_comments():
    whole = script()
    assert len(SCRIPTS) == len(set(SCRIPTS))
    for start in (
        "function readPayload(",
        "function placeLabels(",
        "class Grid {",
        "(function () {",
    ):
        assert whole.count(start) == 1
    assert "/**" not in whole
    assert "</script" not in whole
    assert "innerHTML" not in whole


def test_the_notebook_frames_the_page():
    graph = hostile()
    (frame,) = Reader(notebook_html(graph)).elements
    assert frame[0] == "iframe"
    (packed,) = re.findall(r'atob\("([A-Za-z0-9+/=]+)"\)', frame[1]["srcdoc"])
    assert gzip.decompress(base64.b64decode(packed)).decode("utf-8") == page(graph)
    assert len(notebook_html(graph)) < len(page(graph)) / 2
    assert frame[1]["sandbox"] == "allow-scripts allow-downloads"
    assert graph._repr_html_() == notebook_html(graph)


def test_an_unknown_theme_is_refused():
    with pytest.raises(InputError, match="themes are light, dark"):
        page(realistic(), theme="sepia")  # type: ignore[arg-type]


def contrast(a, b):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", PALETTES)
def test_text_and_controls_stand_out_as_wcag_asks(theme):
    plain, own = PALETTES[theme], colours(theme)
    variables = re.search(rf':root\[data-theme="{theme}"\]{{(.*?)}}', page(realistic()))[1]
    named = dict(part.split(":", 1) for part in variables.split(";"))
    for ground in (plain.background, plain.band, plain.surface):
        assert contrast(plain.text, ground) >= 4.5
        assert contrast(plain.quiet, ground) >= 4.5
        assert contrast(named["--control"], ground) >= 3
        assert contrast(named["--focus"], ground) >= 3
    assert contrast(own["way"], own["background"]) >= 4.5


def rows_of(text):
    """The first cell of each row of the table of heads."""
    table = re.search(r"<table><thead>.*?</table>", text, re.S)[0]
    return re.findall(r"<tr><td>(L\d+H\d+)", table), table


def test_heads_are_in_the_order_of_their_effects_where_they_have_some(made):
    from dataclasses import replace

    from visit_tl.graph.records import Effect

    graph = realistic((0, 1), 6)
    before, table = rows_of(page(graph))
    assert before == [str(node.id) for node in graph.of_kind("head")] and "effect" not in table
    sizes = {name: -0.5 * i for i, name in enumerate(before[:3])}
    nodes = tuple(
        replace(node, effect=Effect(sizes[str(node.id)], str(node.id) != before[1]))
        if str(node.id) in sizes
        else node
        for node in graph.nodes
    )
    after, table = rows_of(page(replace(graph, nodes=nodes)))
    # The largest size first; one of 0 and those without an effect keep their order.
    assert after == [before[2], before[1], before[0], *before[3:]]
    assert "<th>effect</th>" in table and "-0.5 (estimated)" in table.replace("\N{MINUS SIGN}", "-")
