"""Two graphs side by side: both pictures, and rings where they differ."""

import re
from dataclasses import replace

import pytest

import visit_tl as vt
from tests.view.browsing import SHOTS
from tests.view.synthetic import hostile, realistic
from visit_tl import FileError, InputError
from visit_tl.escaping import for_html
from visit_tl.view.figures.side_by_side import compare


def changed(graph):
    """Without the first head's first value, and with the target fallen in one neuron."""
    value = graph.of_kind("value")[0]
    neuron = graph.of_kind("neuron")[0]
    return (
        replace(
            graph,
            nodes=tuple(
                replace(n, rank=999 if neuron.rank < 50 else 0) if n is neuron else n
                for n in graph
                if n is not value
            ),
            edges=tuple(e for e in graph.edges if value.id not in (e.source, e.target)),
        ),
        value,
        neuron,
    )


def test_it_is_reached_by_name():
    assert vt.view.compare is compare
    assert {"compare", "SideBySide", "AttentionView"} <= set(dir(vt.view))
    with pytest.raises(AttributeError, match=r"'visit_tl\.view' has no attribute 'compete'"):
        vt.view.compete  # noqa: B018


def test_both_are_drawn_and_what_differs_is_ringed_and_listed():
    graph = realistic()
    other, value, neuron = changed(graph)
    both = compare(graph, other)
    assert both.difference == graph.diff(other)
    assert both.text() == both.difference.text()
    before, after = both.html.split("<h2>after</h2>")
    assert before.count('class="ring"') == 2 and after.count('class="ring"') == 1
    assert before.count("<title>") > len(graph) and after.count("<svg ") == 1
    rows = re.findall(r"<tr><td><bdi>(\w+)</bdi></td><td><bdi>([^<]+)</bdi>", both.html)
    assert rows == [("changed", str(neuron.id)), ("vanished", str(value.id))]
    assert "1 nodes in which the target has another rank, 1 that only the first" in both.html


def test_graphs_that_do_not_compare_are_drawn_and_it_is_said_why():
    graph = realistic()
    other = replace(graph, target=" Tokyo", target_id=7)
    both = compare(graph, other)
    assert both.difference is None and both.html.count("<svg ") == 2
    assert for_html("the graphs follow different targets") in both.html
    assert 'class="ring"' not in both.html and "<table" not in both.html
    assert both.text().startswith(graph.text()) and both.text().endswith(other.text())


def test_layers_and_themes_are_those_of_the_figure():
    graph = realistic(tuple(range(6)), 6)
    assert "block 4" in compare(graph, graph).html and "block 3" not in compare(graph, graph).html
    assert compare(graph, graph, layers=iter([3])).html.count(">block 3<") == 2
    assert "color-scheme: dark" in compare(graph, graph, theme="dark").html
    with pytest.raises(InputError, match="layer 9 is outside"):
        compare(graph, graph, layers=[9])
    with pytest.raises(InputError, match="'pink' is no theme"):
        compare(graph, graph, theme="pink")


def test_it_is_saved_as_a_page_and_shown_in_a_cell(tmp_path):
    both = compare(realistic(), hostile())
    path = both.save(tmp_path / "both.html")
    both.save(path)
    assert path.read_text(encoding="utf-8") == both.html
    with pytest.raises(FileError, match=r"this is saved as \.html"):
        both.save(tmp_path / "both.svg")
    cell = both._repr_html_()
    assert cell.startswith("<iframe ") and 'sandbox="allow-scripts"' in cell
    assert cell.count("<") == 2


def test_the_page_is_small_and_asks_for_nothing():
    html = compare(realistic(), realistic()).html
    assert len(html.encode()) < 1_000_000 and "http" not in html.replace("http-equiv", "").replace(
        "http://www.w3.org/", ""
    )


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_browser_the_panes_scroll_together_and_hostile_tokens_are_text(
    browser, tmp_path, theme
):
    graph = hostile()
    path = tmp_path / "both.html"
    compare(graph, changed(graph)[0], theme=theme).save(path)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    panes = tab.locator(".pane")
    assert panes.count() == 2 and tab.locator("img").count() == 0
    assert tab.locator(".pane svg .ring").count() == 3
    left, right = (panes.nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"side-by-side-{theme}.png")
    panes.nth(1).hover()
    tab.mouse.wheel(900, 0)
    shares, before = [0.0, 0.0], None
    # The page's policy forbids wait_for_function, which evaluates a string.
    for _ in range(100):
        tab.wait_for_timeout(100)
        before = shares
        shares = tab.evaluate(
            "[...document.querySelectorAll('.pane')]"
            ".map(p => p.scrollLeft / (p.scrollWidth - p.clientWidth))"
        )
        if min(shares) > 0 and shares == before:
            break
    assert tab.evaluate("document.querySelectorAll('.pane')[0].scrollLeft") > 500
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    tab.set_viewport_size({"width": 800, "height": 900})
    left, right = (panes.nth(i).bounding_box() for i in (0, 1))
    assert right["y"] > left["y"]
    assert said == [] and asked == [path.as_uri()]
    tab.close()
