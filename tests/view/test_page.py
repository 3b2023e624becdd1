"""The page without a browser: self-contained, escaped, and whole."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl.errors import InputError
from visit_tl.view.labels import visible
from visit_tl.view.notebook import notebook_html
from visit_tl.view.page import page

ALERT = "<img src=x onerror=alert(1)>"


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


def views(text):
    """The figures of a page, decoded as its script does it."""
    found = re.findall(r'<script type="application/json" class="(\w+)">(.*?)</script>', text, re.S)
    (name, phrases), *rest = found
    assert name == "phrases"
    words = json.loads(phrases)
    return [
        json.loads(re.sub("[\ue000-\uf8ff]", lambda m: words[ord(m[0]) - 0xE000], content))
        for _, content in rest
    ]


@pytest.fixture(scope="module")
def made():
    return page(realistic(tuple(range(6)), 6))


def test_it_asks_the_network_for_nothing(made):
    elements = Reader(made.replace(get_plotlyjs(), "")).elements
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


def test_all_layers_can_be_reached(made):
    assert re.findall("<option[^>]*>([^<]*)", made) == ["layers 0..1", "layers 2..3", "layers 4..5"]
    assert re.findall("<option[^>]* selected>([^<]*)", made) == ["layers 4..5"]
    nodes = [d[0].split(" · ")[0] for v in views(made) for d in v["data"][0]["node"]["customdata"]]
    assert [n for n in nodes if n] == [str(n.id) for n in realistic(tuple(range(6)), 6)]


def test_it_opens_on_the_layers_that_were_asked_for():
    graph = realistic(tuple(range(6)), 6)
    text = page(graph, layers=[1, 2])
    assert re.findall("<option[^>]* selected>([^<]*)", text) == ["layers 1..2"]
    assert len(views(text)) == 4
    assert len(views(page(graph, layers=[2, 3]))) == 3
    assert len(views(page(realistic()))) == 1
    with pytest.raises(InputError, match="layer 6 is outside"):
        page(graph, layers=[6])


def test_phrases_shorten_the_figures_and_nothing_else(made):
    from visit_tl.view.layout import layout
    from visit_tl.view.sankey import spec

    graph = realistic(tuple(range(6)), 6).subgraph([2, 3])
    expected = spec(graph, layout(graph), "light")
    found = views(made)[1]
    assert found.pop("scroll") > 0
    assert found == json.loads(json.dumps(expected))


def test_a_page_is_small():
    graph = realistic(tuple(range(8)), 8)
    size = len(page(graph).encode()) - len(get_plotlyjs().encode())
    # Hover, tables and text view included. With real tokens it is 440 bytes a node (measured on a
    # graph of 30 blocks and 4142 nodes), so 1.6 MB for 30 blocks of 120 nodes.
    assert size / len(graph) < 400


def test_hostile_tokens_are_text():
    text = page(hostile())
    assert "@@" not in re.sub("@@DATA@@", "", text.replace(get_plotlyjs(), ""))
    reader = Reader(text)
    assert not [a for _, attrs in reader.elements for a in attrs if a.startswith("on")]
    assert not [t for t, _ in reader.elements if t in ("img", "a")]
    chips = re.findall(r'class="token[^>]*><bdi>(.*?)</bdi>', text)
    assert [html.unescape(c) for c in chips] == [visible(token) for token in HOSTILE]
    scripts = [attrs for tag, attrs in reader.elements if tag == "script"]
    assert len(scripts) == text.count("</script") == 4


def test_the_table_and_the_text_are_on_the_page(made):
    assert made.count("<tr>") == 1 + 6 * 10
    assert "block 0 ──" in made
    assert "block 5 ──" in made


def test_the_notebook_frames_the_page():
    graph = hostile()
    (frame,) = Reader(notebook_html(graph)).elements
    assert frame[0] == "iframe"
    assert frame[1]["srcdoc"] == page(graph)
    assert frame[1]["sandbox"] == "allow-scripts allow-downloads"
    assert graph._repr_html_() == notebook_html(graph)


def test_an_unknown_theme_is_refused():
    with pytest.raises(InputError, match="themes are light, dark"):
        page(realistic(), theme="sepia")  # type: ignore[arg-type]
