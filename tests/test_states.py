"""The lens at every position: its numbers are those of the model and of the graphs."""

import pandas as pd
import pytest
import torch

import visit_tl as vt
from tests.conftest import made
from visit_tl import InputError
from visit_tl.graph.records import Hook
from visit_tl.graph.state_table import LensTable, of_graph
from visit_tl.xray.residual_states import lens_table

PROMPT = "a b c d"


def same(cell, node):
    """The same reading, by two ways of stacking the vectors."""
    assert [t.id for t in cell.top] == [t.id for t in node.top]
    assert [t.id for t in cell.bottom] == [t.id for t in node.bottom]
    assert cell.rank == node.rank
    for name in ("prob", "entropy", "norm"):
        assert getattr(cell, name) == pytest.approx(getattr(node, name), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["native", "gpt2", "llama"])
def test_each_cell_reads_as_the_graph_at_that_position_does(name):
    model = made(name)
    table = lens_table(model, PROMPT, target=" b")
    n = len(table.tokens)
    assert [str(row) for row in table.rows] == ["L0.resid_pre", "L0.resid_post", "L1.resid_post"]
    assert [len(row) for row in table.cells] == [n, n, n]
    for position in range(n):
        graph = vt.flow_graph(model, PROMPT, target=" b", position=position)
        for row in table.rows:
            same(table[f"{row}@{position}"], graph[str(row)])


def test_the_last_row_is_what_the_model_predicts_after_each_token():
    model = made("native")
    table = lens_table(model, PROMPT)
    ids = torch.tensor([[0, *model.to_tokens(PROMPT, prepend_bos=False)[0].tolist()]])
    with torch.no_grad():
        probs = model(ids)[0].softmax(-1)
    for i, row in enumerate(probs):
        cell = table[f"L1.resid_post@{i}"]
        assert cell.top[0].id == int(row.argmax())
        assert cell.top[0].prob == pytest.approx(float(row.max()), abs=1e-5)
        assert cell.prob == pytest.approx(float(row[table["L1.resid_post"].top[0].id]), abs=1e-5)
    assert not table.target_given and table.target == table["L1.resid_post"].label
    assert table["L1.resid_post"].rank == 0
    assert table["L0.resid_post@2"].hook == Hook("blocks.0.hook_resid_post", (0, 2))


def test_layers_and_ids_are_as_everywhere():
    model = made("native")
    ids = model.to_tokens(PROMPT, prepend_bos=False)[0].tolist()
    table = lens_table(model, ids, layers=[1], target=3, k=2)
    assert [str(row) for row in table.rows] == ["L1.resid_pre", "L1.resid_post"]
    assert table.target_given and len(table["L1.resid_post"].top) == 2
    with pytest.raises(InputError, match="layer 2 is outside"):
        lens_table(model, PROMPT, layers=[2])
    with pytest.raises(InputError, match=r"has no state L0\.resid_post@1; it has L1\.resid_pre to"):
        table["L0.resid_post@1"]
    with pytest.raises(InputError, match=r"has no state L1\.resid_post@99"):
        table["L1.resid_post@99"]


def test_a_graph_has_the_cells_of_its_own_positions():
    graph = vt.flow_graph(made("native"), PROMPT, expand=1)
    table = of_graph(graph)
    assert set(table.known) == {graph.position} | {
        n.id.position
        for n in graph.of_kind("resid_pre")
        if n.id.position is not None and not n.layer
    }
    assert set(table) == {
        node
        for node in graph.of_kind("resid_pre", "resid_post")
        if node.kind == "resid_post" or node.layer == 0
    }
    assert table[f"L1.resid_post@{graph.position}"] is graph["L1.resid_post"]


def test_as_a_frame_it_has_a_row_for_each_cell():
    table = lens_table(made("native"), PROMPT)
    frame = table.to_dataframe()
    assert isinstance(table, LensTable) and isinstance(frame, pd.DataFrame)
    assert len(frame) == 3 * len(table.tokens)
    cell = table["L0.resid_post@2"]
    row = frame.loc[("L0.resid_post", 2)]
    assert (row["token"], row["label"], row["rank"]) == (table.tokens[2], cell.label, cell.rank)
    assert row["top"] == [t.token for t in cell.top]


def test_positions_are_those_of_the_prompt():
    table = lens_table(made("native"), PROMPT)
    assert table.columns() == table.known == (0, 1, 2, 3, 4)
    assert table.columns([-1, 0, 4]) == (0, 4)
    with pytest.raises(InputError, match="position 5 is outside the prompt of 5 tokens"):
        table.columns([5])
    with pytest.raises(InputError, match="no positions to show"):
        table.columns([])


def test_a_graph_gives_the_table_of_its_own_prompt_and_target():
    model = made("native")
    graph = vt.flow_graph(model, PROMPT, target=" b")
    assert graph.lens_table(k=3) == lens_table(model, PROMPT, target=" b", k=3)
    assert vt.flow_graph(model, PROMPT).lens_table() == lens_table(model, PROMPT)


def test_a_graph_of_a_patched_run_gives_no_table_of_another():
    patch = [("blocks.0.hook_resid_pre", lambda state, hook: state * 0.5)]
    graph = vt.flow_graph(made("native"), PROMPT, fwd_hooks=patch)
    with pytest.raises(vt.GraphError, match="patched run.*its states"):
        graph.lens_table()
