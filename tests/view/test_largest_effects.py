"""Effects and shares of a logit say what was measured when they are printed."""

from dataclasses import replace

import numpy as np
import pytest

import visit_tl as vt
from tests.view.synthetic import HOSTILE

PROMPT = "a b c d"


@pytest.fixture(scope="module")
def measured():
    from tests.conftest import made

    model = made("native")
    graph = vt.flow_graph(model, PROMPT)
    metric = vt.causal.log_probability(graph.target_id)
    quiet = {"how": "zero", "verbose": False}
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    return {
        "effects": vt.causal.effects(model, PROMPT, metric, nodes=heads, **quiet),
        "resampled": vt.causal.effects(
            model, PROMPT, metric, corrupted="b b c d", nodes=heads, verbose=False
        ),
        "edges": vt.causal.edge_effects(
            model, PROMPT, metric, edges=["L0H1->L1H0<q>", "m1->logits"], **quiet
        ),
        "graph": vt.causal.graph_edge_effects(model, graph, metric, **quiet),
        "shares": graph.attribution(),
    }


def rows(text, width):
    """The cells of the table below the facts."""
    lines = text.split("\n\n")[1].splitlines()[1:]
    return [line.split() for line in lines if len(line.split()) == width]


def test_the_largest_effects_of_nodes_come_first(measured):
    found = measured["effects"]
    listed = rows(str(found), 2)
    order = sorted(found.ids, key=lambda node: -abs(found[node].value))
    assert [name for name, _ in listed] == [str(node) for node in order]
    for name, value in listed:
        assert float(value) == pytest.approx(found[name].value, rel=6e-3)
    assert f"zero at position {len(found.token_ids) - 1}, noise" in str(found)


def test_effects_beside_a_corrupted_run_are_normalised(measured):
    found = measured["resampled"]
    by_name = dict(zip(map(str, found.ids), found.normalised, strict=True))
    listed = rows(str(found), 3)
    assert len(listed) == len(found)
    for name, _, norm in listed:
        assert float(norm) == pytest.approx(by_name[name], rel=6e-3)
    assert "corrupted" in str(found)


def test_estimates_what_is_left_out_and_interruptions_are_said(measured):
    found = measured["effects"]
    some = replace(
        found,
        exact=(False, *found.exact[1:]),
        left_out={found.ids[0].at(1): "it does not exist"},
        complete=False,
    )
    said = str(some)
    assert f"{found.ids[0]}" in said and f"~{found.values[0]:+.3g}" in said
    assert f"estimated by attribution patching: 1 of {len(found)}" in said
    assert "they cannot be patched: 1" in said and "interrupted" in said


def test_edges_are_listed_by_the_size_of_their_effect(measured):
    for name, width in (("edges", 2), ("graph", 4)):
        found = measured[name]
        sizes = [abs(float(row[-1 if width == 2 else 2])) for row in rows(str(found), width)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(np.abs(found.values).max(), rel=6e-3)
    more = len(measured["graph"].values) - 20
    assert more > 0 and str(measured["graph"]).endswith(f"  and {more} more\n")


def test_the_shares_that_are_shown_sum_to_the_logit(measured):
    found = measured["shares"]
    table = str(found).split("\n\n")[1].splitlines()[1:]
    shown = [float(next(cell for cell in line.split() if cell[0] in "+-")) for line in table]
    assert sum(shown) == pytest.approx(found.total, abs=0.005 * len(shown))


def test_names_from_anywhere_are_shown_as_text(measured):
    for name in HOSTILE:
        said = replace(measured["effects"], model=name, metric=name)
        assert "<script" not in said._repr_html_() and "<img" not in said._repr_html_()
        assert len(str(said).splitlines()) == len(str(measured["effects"]).splitlines())
