"""The head map: what it draws, what it refuses, and what a browser makes of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import plotly.io
import pytest
import torch

from tests.view.browsing import SHOTS
from tests.view.test_style import VISION, rgb, seen
from visit_tl.circuits import Part, Reference, load
from visit_tl.errors import InputError
from visit_tl.graph.circuit_edges import Shape
from visit_tl.view.figures.head_map import CLASS_COLOURS, SHAPES, class_marks, head_map
from visit_tl.view.style import PALETTES, palette

SCORES = [[0.5, 1.0, math.nan], [2.0, -1.0, 0.0]]
HOSTILE = "<img src=x onerror=alert(1)> %{x} $x^2$"
OWN = Reference(
    name="own",
    circuit="own",
    coding="own",
    model="own",
    shape=Shape(2, 3),
    classes={HOSTILE: (Part("head", 0, 2), Part("head", 1, 0)), "late": (Part("head", 1, 1),)},
)


def written(figure):
    """Every text of a figure."""
    found = []

    def walk(part):
        if isinstance(part, dict):
            for name, value in part.items():
                if name in ("text", "name", "customdata", "hovertemplate"):
                    found.append(str(value))
                walk(value)
        elif isinstance(part, list | tuple):
            for value in part:
                walk(value)

    walk(figure.to_plotly_json())
    return found


def test_every_head_has_its_score_in_its_place():
    figure = head_map(SCORES, score="effect")
    heat = figure.data[0]
    np.testing.assert_array_equal(np.array(heat.z, dtype=float), SCORES)
    assert heat.customdata[1][0] == "<b>L1H0</b> 2"
    assert heat.customdata[0][2] == "<b>L0H2</b> no score"
    assert heat.colorbar.title.text == "effect"
    # Layer 0 is at the top.
    assert tuple(figure.layout.yaxis.range) == (1.5, -0.5)
    assert tuple(figure.layout.xaxis.range) == (-0.5, 2.5)
    missing = figure.data[1]
    assert (list(missing.x), list(missing.y), missing.name) == ([2], [0], "no score")


@pytest.mark.parametrize("given", [np.ones((2, 3)), torch.ones(2, 3), [[1, 1, 1], [1, 1, 1]]])
def test_arrays_tensors_and_lists_are_taken(given):
    np.testing.assert_array_equal(head_map(given).data[0].z, np.ones((2, 3)))


@pytest.mark.parametrize("theme", PALETTES)
def test_the_scale_is_even_about_zero_where_signs_differ(theme):
    heat = head_map(SCORES, theme=theme).data[0]
    assert (heat.zmin, heat.zmax) == (-2.0, 2.0)
    colours = [colour for _, colour in heat.colorscale]
    ranks = palette(theme).ranks
    assert (rgb(colours[0]), rgb(colours[-1])) == (ranks[-1], ranks[0])
    assert colours[2] == palette(theme).band
    heat = head_map([[1.0, 3.0]], theme=theme).data[0]
    assert (heat.zmin, heat.zmax) == (1.0, 3.0)
    assert heat.colorscale[0][1] == palette(theme).band


def test_scores_that_are_all_alike_infinite_or_missing_are_drawn():
    heat = head_map([[2.0, 2.0]]).data[0]
    assert (heat.zmin, heat.zmax) == (1.5, 2.5)
    heat = head_map([[2.0, 3.0, math.inf, -math.inf]]).data[0]
    assert list(heat.z[0]) == [2.0, 3.0, 3.0, 2.0]
    assert [text.split("</b> ")[1] for text in heat.customdata[0]] == ["2", "3", "inf", "-inf"]
    empty = head_map([[math.nan, math.nan]])
    assert (empty.data[0].zmin, empty.data[0].zmax) == (0.0, 1.0)


def test_the_heads_of_a_reference_are_outlined_by_class():
    reference = load("ioi-wang-2022")
    figure = head_map(np.zeros((12, 12)), reference=reference)
    listed = {trace.name: trace for trace in figure.data[1:] if trace.showlegend}
    assert list(listed) == [f"{name} ({len(own)})" for name, own in reference.classes.items()]
    for trace, own in zip(listed.values(), reference.classes.values(), strict=True):
        assert set(zip(trace.y, trace.x, strict=True)) == {(h.layer, h.head) for h in own}
        frames = [
            t
            for t in figure.data[1:]
            if t.legendgroup == trace.legendgroup and t.marker.symbol == "square-open"
        ]
        assert [frame.marker.line.color for frame in frames] == ["#ffffff", trace.marker.color]
        assert all((list(f.x), list(f.y)) == (list(trace.x), list(trace.y)) for f in frames)
    assert figure.data[0].customdata[9][9] == "<b>L9H9</b> 0<br>name mover"


def test_many_classes_have_marks_of_their_own():
    marks = [class_marks(i, "light") for i in range(56)]
    assert len(set(marks)) == 56
    assert class_marks(56, "light") == marks[0]
    assert len(set(SHAPES)) == 8


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", PALETTES)
def test_class_colours_are_told_apart_from_each_other_and_from_the_ground(theme, vision):
    # As far as the colours of ranks are, and the shapes tell classes apart as well.
    drawn = [*CLASS_COLOURS[theme], palette(theme).background]
    assert len(CLASS_COLOURS[theme]) == 7
    for a, b in itertools.combinations(drawn, 2):
        assert math.dist(seen(rgb(a), vision), seen(rgb(b), vision)) > 16


def test_nothing_that_is_written_is_markup():
    figure = head_map(SCORES, reference=OWN, title=HOSTILE, score=HOSTILE)
    texts = written(figure)
    assert any("&lt;img" in text for text in texts)
    for text in texts:
        assert "<img" not in text
        assert "$" not in text
        assert "%{x}" not in text


def test_text_is_at_least_12_px_and_the_defaults_of_plotly_stay():
    before = plotly.io.templates.default
    figure = head_map(np.zeros((40, 40)), reference=None, title="large")
    assert plotly.io.templates.default == before
    assert figure.layout.font.size >= 12
    assert figure.layout.legend.font.size >= 12
    assert figure.data[0].colorbar.tickfont.size >= 12
    assert figure.layout.width <= 1300
    # Ticks leave at least 22 px to a number.
    for n in (12, 40, 64, 128):
        wide = head_map(np.zeros((2, n)))
        room = (wide.layout.width - wide.layout.margin.l - wide.layout.margin.r) / n
        assert room * wide.layout.xaxis.dtick >= 22


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: head_map([1.0, 2.0]), r"scores must be \[layer, head\], got shape \[2\]"),
        (lambda: head_map([]), r"must be \[layer, head\], got shape \[0\]"),
        (lambda: head_map([["a"]]), "scores must be numbers"),
        (lambda: head_map([[1.0]], theme="sepia"), "'sepia' is no theme"),
        (lambda: head_map([[1.0]], reference=OWN), "own is of own, 2 layers x 3 heads, but the sc"),
        (lambda: head_map([[1.0]], reference=OWN), "out of range are L0H2, L1H0, L1H1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


MAPS = {
    "ioi": lambda theme: head_map(
        np.random.RandomState(0).randn(12, 12),
        reference=load("ioi-wang-2022"),
        title="IOI in GPT-2 small: a map of random scores",
        score="effect",
        theme=theme,
    ),
    "hostile": lambda theme: head_map(
        SCORES, reference=OWN, title=HOSTILE, score=HOSTILE, theme=theme
    ),
    "single": lambda theme: head_map([[1.0]], reference=load("tracr-hist-zero"), theme=theme),
}


@pytest.mark.browser
@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("name", MAPS)
def test_a_browser_draws_it_in_silence_with_nothing_over_something_else(
    browser,
    tmp_path,
    name,
    theme,
):
    figure, path = MAPS[name](theme), tmp_path / "map.html"
    figure.write_html(path, include_plotlyjs="inline")
    size = {"width": int(figure.layout.width) + 20, "height": int(figure.layout.height) + 20}
    tab = browser.new_page(viewport=size)
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.goto(path.as_uri())
    tab.wait_for_selector(".legendtext")
    tab.wait_for_timeout(300)
    texts = tab.evaluate(
        """() => [...document.querySelectorAll(".main-svg text")]
          .filter(e => e.textContent.trim())
          .map(e => {
            const box = e.getBoundingClientRect();
            return [e.textContent, parseFloat(getComputedStyle(e).fontSize),
                    box.left, box.right, box.top, box.bottom];
          })"""
    )
    assert min(size for _, size, *_ in texts) >= 12
    for (a, _, *one), (b, _, *two) in itertools.combinations(texts, 2):
        across = min(one[1], two[1]) - max(one[0], two[0])
        down = min(one[3], two[3]) - max(one[2], two[2])
        # A line box is taller than its letters.
        assert across < 1 or down < 4, (a, b)
    # Plotly gave the map its room: a cell is as wide as it is high.
    plot = tab.locator(".heatmaplayer image").first.bounding_box()
    n_layers, n_heads = np.array(figure.data[0].z, dtype=float).shape
    assert plot["width"] / n_heads == pytest.approx(plot["height"] / n_layers, rel=0.02)
    frame = tab.locator(".svg-container").bounding_box()
    assert max(bottom for *_, bottom in texts) <= frame["y"] + frame["height"]
    tab.mouse.move(plot["x"] + 5, plot["y"] + 5)
    tab.wait_for_selector(".hovertext")
    assert "L0H0" in tab.locator(".hovertext").first.text_content()
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"head-map-{name}-{theme}.png")
    assert tab.locator("img").count() == 0
    assert said == []
    tab.close()
