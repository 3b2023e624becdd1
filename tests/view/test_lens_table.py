"""The lens table: what a cell shows, that it can be read, and its text, letter by letter."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.view.browsing import SHOTS
from tests.view.synthetic import D_VOCAB, HOSTILE, WORDS, hostile, realistic
from tests.view.test_any_graph import build, specs
from tests.view.test_style import linear, rgb
from visit_tl import InputError
from visit_tl.escaping import columns, for_plotly, visible
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Node, TokenProb
from visit_tl.graph.state_table import LensTable, of_graph
from visit_tl.view.figures.lens_table import NUMBERS, figure, ink, text
from visit_tl.view.style import PALETTES, rank_colour, rank_place

GOLDEN = Path(__file__).parent / "golden"


def made(words=WORDS, tokens=None, layers=4):
    """Every word in some cell, ranks from the first to the last, one cell unknown."""
    tokens = tuple(words) if tokens is None else tokens
    n = len(tokens)
    rows = (NodeId("resid_pre", 0), *(NodeId("resid_post", i) for i in range(layers)))

    def cell(y, x):
        if (y, x) == (1, 0):
            return None
        at = y * n + x
        reads = tuple(
            TokenProb(words[(at + i) % len(words)], at + i, 0.5**i * (at % 7) / 7) for i in range(3)
        )
        rank = round((D_VOCAB - 1) * at / (len(rows) * n - 1))
        return Node(rows[y].at(x), reads, reads, 6.9 * at / (len(rows) * n), 1.5 + y, rank, 0.25)

    return LensTable(
        model="made-up",
        prompt="".join(tokens),
        tokens=tokens,
        target=words[0],
        target_given=True,
        d_vocab=D_VOCAB,
        rows=rows,
        cells=tuple(tuple(cell(y, x) for x in range(n)) for y in range(len(rows))),
    )


def written(figure):
    """The text of each cell that has one, by row and column, and its colour."""
    return {
        (int(y), int(x)): (words, trace.textfont.color)
        for trace in figure.data[1:]
        for x, y, words in zip(trace.x, trace.y, trace.text, strict=True)
    }


@pytest.mark.parametrize("theme", PALETTES)
def test_each_cell_shows_its_token_on_the_colour_of_its_rank(theme):
    states = made()
    drawn = states.figure(theme=theme)
    shown = written(drawn)
    z = np.array(drawn.data[0].z, dtype=float)
    assert len(shown) == len(list(states)) == z.size - 1 and np.isnan(z[1, 0])
    for y, row in enumerate(states.cells):
        for x, cell in enumerate(row):
            if cell is None:
                assert (y, x) not in shown
                continue
            assert shown[y, x][0] == for_plotly(visible(cell.label, 11))
            place = rank_place(cell.rank, D_VOCAB)
            assert z[y, x] == pytest.approx(1 - place)
            assert shown[y, x][1] == ink(rank_colour(place, theme))
    low, *_, high = drawn.data[0].colorscale
    assert (low[1], high[1]) == (rank_colour(1.0, theme), rank_colour(0.0, theme))
    assert list(drawn.layout.yaxis.ticktext) == [str(row) for row in states.rows]
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]


def test_the_colour_is_the_number_that_was_asked_for():
    states = made()
    cell = states.cells[2][3]
    expected = {
        "prob": 0.25,
        "top_prob": cell.top[0].prob,
        "entropy": cell.entropy / np.log(D_VOCAB),
    }
    for by, share in expected.items():
        assert figure(states, by).data[0].z[2][3] == pytest.approx(share)
    with pytest.raises(InputError, match=r"coloured by rank, prob, top_prob, entropy; got 'size'"):
        figure(states, "size")
    with pytest.raises(InputError, match="'pink' is no theme"):
        figure(states, theme="pink")


@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("by", NUMBERS)
def test_every_token_has_the_contrast_of_wcag_aa(by, theme):
    def light(css):
        r, g, b = linear(rgb(css))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for _, ground in figure(made(), by, theme=theme).data[0].colorscale:
        high, low = sorted((light(ground), light(ink(ground))), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_chosen_positions_are_shown_alone():
    states = made()
    drawn = figure(states, positions=[-1, 2])
    n = len(states.tokens)
    assert [t.split("<br>")[1] for t in drawn.layout.xaxis.ticktext] == ["2", str(n - 1)]
    assert np.array(drawn.data[0].z, dtype=float).shape == (5, 2)


@pytest.mark.parametrize("name", ["realistic", "hostile"])
def test_it_is_the_same_text_as_ever(name):
    states = made({"realistic": WORDS, "hostile": HOSTILE}[name])
    expected = (GOLDEN / f"lens-{name}.txt").read_text(encoding="utf-8")
    assert text(states) == states.text() == expected, (
        "if the change is meant, write the new text to tests/view/golden"
    )
    assert max(map(columns, expected.splitlines())) <= 110
    assert states._repr_html_().startswith("<pre>model") and "<img" not in states._repr_html_()


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs())
def test_the_states_of_any_graph_are_drawn(spec):
    states = of_graph(build(spec))
    if states.known:
        figure(states).to_json()
        text(states).encode()
    else:
        with pytest.raises(InputError, match="no positions to show"):
            figure(states)


def test_a_graph_without_columns_has_one_position():
    graph = realistic()
    assert of_graph(graph).known == (graph.position,)
    drawn = figure(of_graph(graph))
    assert np.array(drawn.data[0].z, dtype=float).shape == (4, 1)


@pytest.mark.browser
@pytest.mark.parametrize("theme", PALETTES)
def test_a_browser_shows_hostile_tokens_as_text_and_says_nothing(browser, tmp_path, theme):
    path = tmp_path / "lens.html"
    drawn = figure(made(HOSTILE), theme=theme)
    drawn.write_html(path, include_plotlyjs="inline")
    tab = browser.new_page(viewport={"width": drawn.layout.width + 20, "height": 340})
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.goto(path.as_uri())
    tab.wait_for_selector(".heatmaplayer image, .heatmaplayer .hm")
    shown = set(tab.locator(".scatterlayer text").all_text_contents())
    for word in HOSTILE:
        label = visible(word, 11)
        assert label in {t.strip("\u2068\u2069") for t in shown}
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"lens-{theme}.png")
    assert said == []
    tab.close()


def test_hostile_graphs_have_a_table():
    assert "</script>…" in of_graph(hostile()).text()
