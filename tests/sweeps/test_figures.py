"""Figures of studies: what they draw is what the summary says, whatever the table holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

import visit_tl as vt
from tests.sweeps.swept import prompts, study, sweep

pytest.importorskip("pyarrow")
go = pytest.importorskip("plotly.graph_objects")


@study(
    columns={"layer": "int64", "which": "string", "part": "int64", "near": "float64"}
    | {"norm": "float64"},
    by=["layer", "which", "part"],
)
def parts(run):
    """Two shares and a norm of three parts on two sides."""
    draw = np.random.RandomState(run.index)
    layer, which, part = (axis.ravel() for axis in np.indices((len(run.layers), 2, 3)))
    return {
        "layer": layer,
        "which": [("<b>left</b>", "right")[i] for i in which],
        "part": part,
        "near": draw.rand(len(layer)),
        "norm": 5 + draw.rand(len(layer)),
    }


@study(columns={"layer": "int64", "place": "int64", "x": "float64"}, by=["layer", "place"])
def many_places(run):
    layer, place = (axis.ravel() for axis in np.indices((len(run.layers), 40)))
    return {"layer": layer, "place": place, "x": place - 20.0}


@study(columns={"word": "string", "x": "float64"}, by=["word"])
def no_layers(run):
    return {"word": ["a"], "x": [1.0]}


@study(columns={"layer": "int64", "x": "float64"}, by=["layer"])
def no_rows(run):
    return {"layer": [], "x": []}


OF_PAPER = [name for name, one in vt.sweeps.studies().items() if one.paper]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from tests.conftest import made

    names = [*OF_PAPER, "parts", "many_places", "no_layers", "no_rows", "head_effects"]
    return sweep(made("native"), prompts(5), names, tmp_path_factory.mktemp("figures") / "run")


def curve(figure, name, panel):
    """The values of a curve, by layer."""
    (found,) = [
        trace for trace in figure.data
        if trace.name == name and (trace.yaxis or "y") == panel and trace.mode == "lines+markers"
    ]  # fmt: skip
    return dict(zip(found.x, found.y, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", OF_PAPER)
def test_every_study_of_the_paper_has_a_figure(run, name, theme):
    figure = run.figure(name, theme=theme)
    assert figure.data
    assert name in figure.layout.title.text
    assert "5 prompts" in figure.layout.title.text
    assert all(trace.type in ("scatter", "heatmap") for trace in figure.data)


def test_curves_are_the_means_of_the_summary_with_bands_of_one_standard_error(run):
    figure, found = run.figure("heads_ov"), run.summary("heads_ov")
    for name in ("attn", "block", "final"):
        assert curve(figure, name, "y") == dict(zip(found["layer"], found[name], strict=True))
    band = next(trace for trace in figure.data if trace.legendgroup == "attn" and trace.fill)
    up = (found["attn"] + found["attn_se"]).tolist()
    down = (found["attn"] - found["attn_se"]).tolist()
    assert np.allclose(band.y, up + down[::-1])


def test_ranks_are_curves_and_each_number_has_a_panel(run):
    figure, found = run.figure("top_heads"), run.summary("top_heads")
    headings = [one.text for one in figure.layout.annotations]
    assert headings == ["<b>attn</b>", "<b>block</b>", "<b>final</b>", "<b>norm</b>"]
    for panel, name in zip(
        ("y", "y2", "y3", "y4"), ("attn", "block", "final", "norm"), strict=True
    ):
        for rank in found["rank"].unique():
            own = found[found["rank"] == rank]
            assert curve(figure, f"rank {rank}", panel) == dict(
                zip(own["layer"], own[name], strict=True)
            )
    ranges = [figure.layout[f"yaxis{i}"].range for i in ("", "2", "3")]
    assert ranges[0] == ranges[1] == ranges[2]


def test_of_two_groups_the_first_is_told_apart_by_the_dash(run):
    figure, found = run.figure("parts"), run.summary("parts")
    traces = [one for one in figure.data if one.mode == "lines+markers" and one.showlegend]
    assert len(traces) == 6
    assert {one.line.dash for one in traces} == {"solid", "dash"}
    assert all("<b>" not in one.name for one in traces)
    own = found[(found["which"] == "right") & (found["part"] == 2)]
    assert curve(figure, "part 2, which right", "y") == dict(
        zip(own["layer"], own["near"], strict=True)
    )


def test_a_figure_can_be_grouped_by_other_columns(run):
    figure = run.figure("parts", by=["layer", "part"])
    found = run.summary("parts", by=["layer", "part"])
    own = found[found["part"] == 1]
    assert curve(figure, "part 1", "y") == dict(zip(own["layer"], own["near"], strict=True))


def test_a_map_has_the_mean_of_each_head_and_ranks_are_on_a_log_scale(run):
    figure, found = run.figure("target_by_head"), run.summary("target_by_head")
    ranks, probs = figure.data
    for trace, values in ((ranks, np.log10(1 + found["rank"])), (probs, found["prob"])):
        grid = np.array(trace.z, dtype=float)
        for layer, head, value in zip(found["layer"], found["head"], values, strict=True):
            assert grid[int(head), int(layer)] == pytest.approx(value)
    rank = found["rank"].iloc[0]
    assert ranks.customdata[0][0] == f"<b>L0H0</b> rank {rank:.4g}"


def test_groups_of_many_values_are_rows_of_a_map_with_signed_colours(run):
    (trace,) = run.figure("many_places").data
    assert trace.type == "heatmap"
    assert (trace.zmin, trace.zmax) == (-20, 20)
    assert list(trace.y) == [str(i) for i in range(40)]


def test_a_table_of_tokens_shows_those_of_most_prompts_first(run):
    figure, found = run.figure("ln_top_tokens"), run.summary("ln_top_tokens")
    (trace,) = figure.data
    layers = sorted(found["layer"].unique())
    for x, (layer, side) in enumerate((one, s) for one in layers for s in ("before", "after")):
        own = found[(found["layer"] == layer) & (found["side"] == side)]
        own = own.sort_values(["share", "token_id"], ascending=[False, True]).head(10)
        assert [row[x] for row in trace.z][: len(own)] == own["share"].tolist()


def test_changes_at_a_norm_show_followed_words_the_target_and_what_moves_most(run):
    figure, found = run.figure("ln_filter"), run.summary("ln_filter")
    before = next(trace for trace in figure.data if trace.name == "before the norm")
    layer = found["layer"].min()
    own = found[found["layer"] == layer]
    words = own[own["kind"] == "word"].sort_values("difference")
    assert list(before.x[: len(words)]) == words["before"].tolist()
    target = run.summary("ln_filter", ["layer", "norm", "kind"])
    target = target[(target["layer"] == layer) & (target["kind"] == "target")]
    assert before.x[len(words)] == target["before"].item()


def test_neurons_are_drawn_by_the_share_of_prompts_that_have_them(run):
    figure, found = run.figure("regularisation_neurons"), run.summary("regularisation_neurons")
    best = next(trace for trace in figure.data if trace.name == "the most frequent")
    assert list(best.y) == found.groupby("layer")["share"].max().tolist()


def test_what_has_no_layers_or_rows_or_too_many_groups_is_refused(run):
    with pytest.raises(vt.InputError, match="summarised by word, not by layer"):
        run.figure("no_layers")
    with pytest.raises(vt.InputError, match="no_rows has no rows in this run"):
        run.figure("no_rows")
    with pytest.raises(vt.InputError, match="curves in a panel, and at most 16"):
        run.figure("ln_filter", by=["layer", "kind", "token_id"])
    with pytest.raises(vt.InputError, match="no study 'heads'"):
        run.figure("heads")
    with pytest.raises(vt.InputError, match="is no theme"):
        run.figure("heads_ov", theme="pink")


def test_a_run_is_saved_as_one_page_of_all_figures(run, tmp_path):
    path = run.save(tmp_path / "run.html")
    page = path.read_text(encoding="utf-8")
    assert page.count("<h2>") == len(run.studies)
    specs = page.split('<script type="application/json" id="figures">')[1].split("</script>")[0]
    assert len(json.loads(specs)) == len(run.studies) - 2
    assert "no_layers (no figure: no_layers is summarised by word" in page
    assert "I_k of each head&#x27;s output" in page
    with pytest.raises(vt.FileError, match=r"ends in \.html"):
        run.save(tmp_path / "run.csv")
    assert run.save(path) == path
