"""Figures, texts and files of gradients: they show the numbers, and hostile tokens do no harm."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import visit_tl as vt
from tests.conftest import made
from tests.view.browsing import SHOTS
from tests.view.synthetic import D_VOCAB, HOSTILE
from visit_tl import FileError, InputError
from visit_tl.escaping import columns, for_plotly, visible
from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.view.figures.norm_scale import NormScale
from visit_tl.view.style import PALETTES, rank_place

GOLDEN = Path(__file__).parent / "golden"
PROMPT = "a b c d"


@pytest.fixture(scope="module")
def lens():
    return vt.backward_lens(made("native"), PROMPT, " b")


@pytest.fixture(scope="module")
def found():
    return vt.reversed_attention(made("native"), PROMPT, " b")


def hostile_lens(layers=3):
    """Every hostile word is a token of the prompt, and at the top and the bottom of some cell."""
    n = len(HOSTILE)

    def readout(reads):
        cells = np.arange(layers * n).reshape(layers, n)
        norms = (10.0 ** -(cells % 5)).astype(np.float32)
        top, bottom = (np.stack([(cells + i) % n for i in range(at, at + 2)], -1) for at in (0, 3))
        ranks = cells * (D_VOCAB - 1) // cells.max()
        for ids in (top, bottom, ranks):
            ids[-1, :2] = -1
        norms[-1, :2] = 0
        probs = np.full(top.shape, 0.5, np.float32)
        texts = dict(enumerate(HOSTILE))
        return MatrixReadout(reads, norms, norms + 1, ranks, top, probs, bottom, probs, texts)

    return BackwardLens(
        model="<i>made</i>",
        prompt="".join(HOSTILE),
        tokens=tuple(HOSTILE),
        token_ids=tuple(range(n)),
        target=HOSTILE[0],
        target_id=0,
        target_given=True,
        metric="-log p(target)",
        is_metric=False,
        position=n - 1,
        loss=1.25,
        layers=tuple(range(layers)),
        positions=tuple(range(n)),
        normalised=True,
        d_vocab=D_VOCAB,
        patched=("blocks.0.<b>hook</b>",),
        adapters=(),
        errors={},
        matrices={"W_in": readout("inputs"), "W_out": readout("deltas")},
        by_layer={},
        by_state={},
    )


def hostile_found(layers=2, n_heads=3):
    """Maps over all hostile words."""
    import torch

    n = len(HOSTILE)
    numbers = torch.arange(n_heads * n * n).reshape(n_heads, n, n) * 7919 % 10007 / 10007
    attention, r = numbers.tril(), (numbers - 0.5).tril()
    r[0] = 0
    norms = r.flatten(1).norm(dim=1).numpy()
    return ReversedAttention(
        model="<i>made</i>",
        prompt="".join(HOSTILE),
        tokens=tuple(HOSTILE),
        token_ids=tuple(range(n)),
        target=HOSTILE[0],
        target_id=0,
        target_given=False,
        metric="my <b>metric</b>",
        is_metric=True,
        position=n - 1,
        loss=-0.5,
        layers=tuple(range(4, 4 + layers)),
        n_layers=9,
        n_heads=n_heads,
        norms=np.stack([norms] * layers),
        forward_norms=np.stack([norms + 1] * layers),
        scales=np.ones(layers),
        errors={},
        patched=("blocks.0.<b>hook</b>",),
        adapters=(),
        store=({4 + i: (r, attention) for i in range(layers)}, lambda layer: (r, attention)),
    )


# --- the table ---------------------------------------------------------------------------------


def written(figure):
    """The text of each cell that has one, by row and column."""
    return {
        (int(y), int(x)): words
        for trace in figure.data[1:]
        for x, y, words in zip(trace.x, trace.y, trace.text, strict=True)
    }


@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("matrix", ["W_in", "W_out"])
def test_each_cell_has_its_words_and_the_colour_of_its_norm(lens, matrix, theme):
    drawn = lens.figure(matrix=matrix, theme=theme)
    one, heat = lens.matrices[matrix], drawn.data[0]
    scale, shown = NormScale.of(one.norms), written(drawn)
    assert (heat.zmin, heat.zmax) == scale.ends
    assert list(drawn.layout.yaxis.ticktext) == [str(layer) for layer in lens.layers]
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]
    for i in range(len(lens.layers)):
        for j in range(len(lens.positions)):
            top = lens.top[matrix][i][j]
            if not top:
                assert heat.z[i][j] is None and (i, j) not in shown
                continue
            assert heat.z[i][j] == pytest.approx(scale.number(float(one.norms[i, j])))
            plain = re.sub("</?[bi]>", "", shown[i, j])
            wanted = [top[0], lens.bottom[matrix][i][j][0]][: 1 + (one.reads == "deltas")]
            assert plain == "<br>".join(for_plotly(visible(token, 11)) for token in wanted)
            assert f"rank {one.ranks[i, j]} of" in heat.customdata[i][j]
            assert f"{matrix} · layer {lens.layers[i]}" in heat.customdata[i][j]


def test_vectors_that_are_0_are_blank(lens):
    # After the last attention, the loss at one position does not depend on the others.
    shown = written(lens.figure(matrix="W_out"))
    last = len(lens.layers) - 1
    assert [j for i, j in shown if i == last] == [lens.position]


@pytest.mark.parametrize("norms", [[0.5, 1.0], [1e-6, 1e-3, 1.0], [0.0, 0.0], [0.0, 3.0]])
def test_a_scale_of_norms_goes_from_0_to_1_and_is_undone_by_its_numbers(norms):
    scale = NormScale.of(np.array(norms))
    shares = [scale.share(norm) for norm in norms]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert scale.logarithmic == (1e-6 in norms)
    for norm in norms:
        if norm > scale.low:
            number = scale.number(norm)
            assert (10**number if scale.logarithmic else number) == pytest.approx(norm)
    if scale.logarithmic:
        marks = scale.marks()
        drawn = [10**value for value in marks["tickvals"]]
        assert drawn == pytest.approx([float(name) for name in marks["ticktext"]])


def test_curves_are_the_norms_and_the_ranks(lens):
    one = lens.matrices["W_out"]
    scale = NormScale.of(one.norms)
    for kind in ("norms", "ranks"):
        drawn = lens.figure(kind, matrix="W_out")
        assert len(drawn.data) == len(lens.positions)
        own = next(trace for trace in drawn.data if "(loss)" in trace.name)
        j = lens.positions.index(lens.position)
        if kind == "norms":
            wanted = [scale.number(float(norm)) for norm in one.norms[:, j]]
        else:
            wanted = [1 - rank_place(int(rank), lens.d_vocab) for rank in one.ranks[:, j]]
        assert list(own.y) == pytest.approx(wanted)
        other = next(trace for trace in drawn.data if trace is not own)
        assert other.y[-1] is None


def test_many_positions_have_a_short_legend():
    drawn = hostile_lens().figure("norms", matrix="W_out")
    named = [trace.name for trace in drawn.data if trace.showlegend is not False]
    assert len(named) == 7 and f"{len(HOSTILE) - 6} others" in named


def test_unknown_kinds_matrices_themes_and_positions_are_refused(lens, found):
    with pytest.raises(InputError, match=r"drawn as table, norms, ranks; got 'size'"):
        lens.figure("size")
    with pytest.raises(InputError, match=r"'W_X' was not read; this lens has W_in"):
        lens.figure(matrix="W_X")
    with pytest.raises(InputError, match="'pink' is no theme"):
        lens.figure(theme="pink")
    with pytest.raises(InputError, match="position 99 was not read"):
        lens.text(position=99)
    with pytest.raises(InputError, match=r"drawn as norms, maps; got 'size'"):
        found.figure("size")
    with pytest.raises(InputError, match="no heads were given"):
        found.figure("maps", heads=[])
    with pytest.raises(InputError, match="is no head of this result"):
        found.figure("maps", heads=["L9H0"])


# --- reversed attention ------------------------------------------------------------------------


def test_the_map_of_norms_has_the_layers_of_the_result():
    found = hostile_found()
    drawn = found.figure()
    assert np.array(drawn.data[0].z, float) == pytest.approx(found.norms)
    assert next(iter(drawn.layout.yaxis.ticktext)) == "4"
    assert "<b>L5H2</b><br>norm of R" in drawn.data[0].customdata[1][2]
    assert "norm of A" in drawn.data[0].customdata[1][2]


def test_maps_are_the_attention_and_its_gradient_side_by_side(found):
    heads = ["L1H2", "L0H3"]
    drawn = found.figure("maps", heads=heads)
    assert len(drawn.data) == 4
    upper = np.triu(np.ones((len(found.tokens),) * 2, bool), 1)
    for i, (layer, head) in enumerate([(1, 2), (0, 3)]):
        forward, back = drawn.data[2 * i], drawn.data[2 * i + 1]
        for trace, values in ((forward, found.forward_map(layer, head)),
                              (back, found.map(layer, head))):  # fmt: skip
            z = np.array(trace.z, float)
            assert np.isnan(z[upper]).all()
            assert z[~upper] == pytest.approx(values[~upper])
        assert (forward.zmin, back.zmin) == (0, -back.zmax)
        assert back.colorscale[len(back.colorscale) // 2][1] == PALETTES["light"].background
    names = drawn.layout.xaxis.ticktext
    assert [re.sub("</?b>", "", name) for name in names] == [
        f"{for_plotly(visible(token, 10))} {i}" for i, token in enumerate(found.tokens)
    ]
    x, y = drawn.layout.xaxis.domain, drawn.layout.yaxis.domain
    side = (x[1] - x[0]) * drawn.layout.width, (y[1] - y[0]) * drawn.layout.height
    assert side[0] == pytest.approx(side[1])


def test_circuitsvis_gets_the_parts_of_r_from_0_to_1(found, monkeypatch):
    import circuitsvis.attention

    asked = {}

    def heads(**given):
        asked.update(given)
        raise NotImplementedError

    monkeypatch.setattr(circuitsvis.attention, "attention_heads", heads)
    with pytest.raises(NotImplementedError):
        found.attention(["L1H2"])
    assert asked["attention_head_names"] == ["L1H2·A", "L1H2·R+", "L1H2·R−"]
    whole, above, below = asked["attention"]
    r = found.map(1, 2)
    assert whole == pytest.approx(found.forward_map(1, 2), abs=1e-4)
    assert above - below == pytest.approx(r / np.abs(r).max(), abs=1e-4)
    assert above.min() == below.min() == 0


def test_circuitsvis_page_says_what_is_shown(found):
    html = found.attention().html
    assert "R+, R−: reversed attention above and below 0" in html and "-log p(target)" in html


# --- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["backward-hostile", "reversed-hostile"])
def test_it_is_the_same_text_as_ever(name):
    if name.startswith("backward"):
        result = hostile_lens()
        shown = "\n".join([result.text(), result.text("W_in"), result.text("W_out", -1)])
    else:
        result = hostile_found()
        shown = result.text()
    assert max(map(columns, shown.splitlines())) <= 110
    assert "patched" in shown and shown.endswith("\n")
    assert shown == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"), (
        "if the change is meant, write the new text to tests/view/golden"
    )
    assert result._repr_html_().startswith("<pre>model") and "<img" not in result._repr_html_()


def test_a_text_has_the_words_and_ranks(lens, found):
    shown = lens.text("W_out")
    assert max(map(columns, shown.splitlines())) <= 110
    j = lens.positions.index(lens.position)
    top, bottom = (visible(side["W_out"][0][j][0], 9) for side in (lens.top, lens.bottom))
    assert f"{top} \\ {bottom}" in shown and str(lens.ranks["W_out"][0, j]) in shown
    assert "position    4 " in lens.text("W_out", -1)
    layer, head = found.strongest(1)[0]
    assert f"L{layer}H{head}" in found.text().splitlines()[7]
    assert max(map(columns, found.text().splitlines())) <= 110


# --- files -------------------------------------------------------------------------------------


def figures_of(page):
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert data is not None
    return json.loads(data[1])


@pytest.mark.parametrize("theme", PALETTES)
def test_a_page_has_every_matrix_or_the_one_that_is_named(tmp_path, theme):
    lens = hostile_lens()
    page = lens.save(tmp_path / "all.html", theme=theme).read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", page) == ["W_in", "W_out"]
    assert len(figures_of(page)) == 2
    assert page.count("<script") == page.count("</script>") == 3
    assert "<img" not in page.partition("<script>")[0] and "default-src 'none'" not in page[:40]
    one = lens.save(tmp_path / "one.html", matrix="W_in").read_text(encoding="utf-8")
    assert "<h2>" not in one and len(figures_of(one)) == 1
    found = hostile_found()
    both = found.save(tmp_path / "r.html", heads=["L4H1"]).read_text(encoding="utf-8")
    assert [len(spec["data"]) for spec in figures_of(both)] == [1, 2]


def test_tables_are_read_back(lens, found, tmp_path):
    table = pd.read_csv(lens.save(tmp_path / "lens.csv"))
    expected = lens.to_dataframe()
    assert list(table["norm"]) == pytest.approx(list(expected["norm"]))
    assert [json.loads(top) for top in table["top"]] == list(expected["top"])
    heads = pd.read_csv(found.save(tmp_path / "heads.csv"))
    assert list(heads["head"]) == list(found.to_dataframe()["head"])
    assert lens.save(tmp_path / "lens.txt").read_text() == lens.text()
    # A column of a DataFrame cannot hold the half of a surrogate pair.
    hostile = hostile_lens()
    hostile = dataclasses.replace(hostile, tokens=tuple(map(visible, hostile.tokens)))
    table = pd.read_csv(hostile.save(tmp_path / "hostile.csv"))
    assert [json.loads(top) for top in table["top"]] == list(hostile.to_dataframe()["top"])


@pytest.mark.parametrize("suffix", [".html", ".csv", ".txt"])
def test_our_files_are_replaced_and_others_are_not(lens, found, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    lens.save(path)
    found.save(path)
    path.write_text("my thesis")
    with pytest.raises(FileError, match="exists and is no visit_tl graph"):
        lens.save(path)
    assert path.read_text() == "my thesis"
    lens.save(path, overwrite=True)
    assert path.read_text(encoding="utf-8") != "my thesis"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unknown_suffix_names_the_known_ones(lens, found, tmp_path):
    for result in (lens, found):
        with pytest.raises(FileError, match=r"\.html, \.svg, \.png, \.pdf, \.csv or \.txt"):
            result.save(tmp_path / "x.gif")


def test_pictures_are_drawn_by_kaleido_and_an_svg_says_who_made_it(lens, tmp_path, monkeypatch):
    import visit_tl.view.kaleido_image as kaleido

    monkeypatch.setattr(kaleido, "require_kaleido", lambda *_, **__: None)
    drawn = []
    monkeypatch.setattr(
        kaleido, "draw", lambda figure, kind, free: drawn.append((kind, free)) or b"<svg/>"
    )
    path = lens.save(tmp_path / "x.svg")
    assert path.read_bytes() == b"<!-- made by visit_tl -->\n<svg/>"
    lens.save(path, kind="norms")
    lens.save(tmp_path / "x.png")
    with pytest.raises(FileError, match="does not say who made it"):
        lens.save(tmp_path / "x.png")
    assert drawn == [("svg", ".html"), ("svg", ".html"), ("png", ".html")]


# --- in a browser ------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(("name", "theme"), [("lens", "light"), ("maps", "dark")])
def test_a_browser_draws_hostile_tokens_as_text_and_asks_for_nothing(
    browser, tmp_path, name, theme
):
    path = tmp_path / f"{name}.html"
    if name == "lens":
        hostile_lens().save(path, theme=theme, matrix="W_out")
    else:
        hostile_found().save(path, theme=theme, heads=["L4H1"])
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector(".main-svg .gtitle")
    shown = {re.sub("[\u2068\u2069]", "", t) for t in tab.locator("svg text").all_text_contents()}
    if name == "lens":
        # Plotly puts the lines of a text one after the other.
        assert {f"{visible(word, 11)}{i}" for i, word in enumerate(HOSTILE)} <= shown
    else:
        assert {f"{visible(word, 10)} {i}" for i, word in enumerate(HOSTILE)} <= shown
    SHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SHOTS / f"gradients-{name}-{theme}.png")
    assert said == []
    assert {u for u in asked if not u.startswith(("data:", "blob:"))} == {path.as_uri()}
    tab.close()


def test_a_lens_of_nothing_is_drawn():
    lens = hostile_lens()
    one = lens.matrices["W_out"]
    nothing = dataclasses.replace(
        one,
        norms=np.zeros_like(one.norms),
        ranks=np.full_like(one.ranks, -1),
        top_ids=np.full_like(one.top_ids, -1),
        bottom_ids=np.full_like(one.bottom_ids, -1),
    )
    lens = dataclasses.replace(lens, matrices={"W_out": nothing})
    for kind in ("table", "norms", "ranks"):
        assert math.isfinite(lens.figure(kind).layout.height)
    assert lens.text().count("·") == one.norms.size
