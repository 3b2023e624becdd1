"""The picture of a mask: every cell as the mask has it, and tokens that stay text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import visit_tl as vt
from tests.view.synthetic import HOSTILE
from visit_tl import InputError
from visit_tl.escaping import columns, for_html, for_plotly, visible
from visit_tl.view.figures.segment_mask import CAUSAL, CELLS, HIDDEN, LATER, WORDS, kinds
from visit_tl.view.style import PALETTES

GOLDEN = Path(__file__).parent / "golden"
SPANS = [(0, 3), (3, 4), (6, 9)]


def named(n=12):
    words = [f" w{i}" for i in range(n)]
    return vt.Segments.from_spans(SPANS, names=["system", "", "user"]).with_tokens(words)


def hostile():
    """Every hostile word is a token, and one is the name of a segment."""
    spans, names = [(0, 3), (5, len(HOSTILE))], [HOSTILE[0], "<i>$a$ %{x}\u202e"]
    return vt.Segments.from_spans(spans, names=names).with_tokens(list(HOSTILE))


def words_of(figure):
    return [note.text for note in figure.layout.annotations]


def frames(figure):
    """The corners of the rectangles in the map's own coordinates."""
    return [
        (shape.x0, shape.y0, shape.x1, shape.y1)
        for shape in figure.layout.shapes
        if shape.type == "rect" and shape.xref is None
    ]


@pytest.mark.parametrize("name", ["named", "hostile"])
def test_it_prints_the_same_text_as_ever(name):
    said = str({"named": named, "hostile": hostile}[name]()) + "\n"
    expected = (GOLDEN / f"segments-{name}.txt").read_text(encoding="utf-8")
    assert said == expected, "if the change is meant, write the new text to tests/view/golden"


def test_cells_are_those_of_the_mask():
    segments = named()
    found = kinds(segments, 12)
    seen = segments.mask()[0, 0].numpy()
    lower = np.tri(12, dtype=bool)
    assert (found != HIDDEN).tolist() == seen.tolist()
    assert (found == CAUSAL).tolist() == lower.tolist()
    assert (found == LATER).sum() == 6 == (seen & ~lower).sum()
    drawn = segments.figure().data[0]
    assert np.asarray(drawn.z).tolist() == found.tolist()
    assert drawn.customdata[6][8] == (
        f"<b>{WORDS[LATER]}</b><br>query ␣w6 at 6<br>key ␣w8 at 8<br>both in the segment user 6..8"
    )
    assert WORDS[HIDDEN] in drawn.customdata[3][4] and "segment" not in drawn.customdata[3][4][40:]


@pytest.mark.parametrize("theme", PALETTES)
def test_every_segment_is_framed_and_named_and_the_legend_says_what_there_is(theme):
    figure = named().figure(theme=theme)
    assert frames(figure) == [(a - 0.5, a - 0.5, b - 0.5, b - 0.5) for a, b in SPANS]
    assert words_of(figure)[-3:] == ["system 0..2", "3", "user 6..8"]
    assert words_of(figure)[:-3] == [WORDS[CAUSAL], WORDS[LATER], WORDS[HIDDEN], "a segment"]
    assert "3 segments; 5 of 12 tokens are causal" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == PALETTES[theme].background
    colours = {colour for _, colour in figure.data[0].colorscale}
    assert len(colours) == 3
    swatches = [s.fillcolor for s in figure.layout.shapes if s.xref == "paper" and s.fillcolor]
    assert set(swatches[:3]) == colours


def test_a_kind_of_cell_that_there_is_not_is_not_in_the_legend():
    one = vt.Segments.from_spans([(0, 4)]).figure()
    assert words_of(one) == [WORDS[CAUSAL], WORDS[LATER], "a segment", "0..3"]
    causal = vt.Segments(()).with_tokens(["a", "b"]).figure()
    assert words_of(causal) == [WORDS[CAUSAL], WORDS[HIDDEN]]


def test_without_tokens_there_are_positions():
    figure = vt.Segments.from_spans([(1, 4)]).figure()
    assert figure.layout.xaxis.ticktext == ("0", "1", "2", "3")
    assert "“" not in figure.layout.title.text
    assert "query at 1<br>key at 3" in figure.data[0].customdata[1][3]
    with pytest.raises(InputError, match="there is no token to draw"):
        vt.Segments(()).figure()
    with pytest.raises(InputError, match="is no theme"):
        vt.Segments.from_spans([(1, 4)]).figure(theme="pink")


@pytest.mark.parametrize("n", [30, 120, CELLS + 1, 3000])
def test_labels_of_long_prompts_do_not_touch(n):
    segments = vt.Segments.from_spans([(i, i + 3) for i in range(0, n - 3, 3)])
    figure = segments.with_tokens([" token"] * n).figure()
    layout = figure.layout
    side = layout.height - layout.margin.t - layout.margin.b
    assert side == layout.width - layout.margin.l - layout.margin.r <= 560
    for axis in (layout.xaxis, layout.yaxis):
        gaps = np.diff(axis.tickvals) * side / n
        assert gaps.min() >= 14
    names = [note.y for note in layout.annotations if note.yref is None]
    assert min(np.diff(names)) * side / n >= 14
    assert len(figure.to_json()) < 3_000_000


def test_a_prompt_too_long_for_cells_is_drawn_as_the_areas_of_its_cells():
    n, spans = CELLS + 40, [(0, 90), (100, 101), (120, CELLS + 10)]
    figure = vt.Segments.from_spans(spans).with_tokens(["x"] * n).figure()
    size = dict.fromkeys(WORDS, 0.0)
    for trace in figure.data:
        kind = next(kind for kind, words in WORDS.items() if words == trace.text)
        x = [math.nan if v is None else v for v in trace.x]
        y = [math.nan if v is None else v for v in trace.y]
        for start, end in outlines(x):
            size[kind] += area(x[start:end], y[start:end])
    found = kinds(vt.Segments.from_spans(spans), n)
    assert size[CAUSAL] == (found == CAUSAL).sum()
    assert size[LATER] == (found == LATER).sum()


def outlines(x):
    """The ranges of points between gaps."""
    ends = [i for i, value in enumerate(x) if math.isnan(value)] or [len(x)]
    return zip([0, *(end + 1 for end in ends)], ends, strict=False)


def area(x, y):
    """By the shoelace formula."""
    around = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
    return abs(sum(a * d - c * b for a, b, c, d in around)) / 2


def test_hostile_words_are_text():
    figure = hostile().figure()
    shown = [visible(word, 12) for word in HOSTILE]
    wanted = [for_plotly(f"{word} {i}") for i, word in enumerate(shown)]
    assert list(figure.layout.yaxis.ticktext) == wanted
    for text in (*figure.layout.xaxis.ticktext, *words_of(figure), figure.layout.title.text):
        bare = text.replace("<br>", "").replace("<b>", "").replace("</b>", "")
        bare = bare.replace('<span style="font-size:13px">', "").replace("</span>", "")
        assert not set("<>$") & set(bare), text
        assert "\u202e" not in text
    cells = [cell for row in figure.data[0].customdata for cell in row]
    assert not any("<script" in cell or "<img" in cell for cell in cells)


def test_a_notebook_shows_the_text():
    for segments in (named(), hostile()):
        assert segments._repr_html_() == f"<pre>{for_html(str(segments))}</pre>"


def test_lines_fit_a_terminal():
    assert all(columns(line) <= 110 for line in str(hostile()).splitlines())
