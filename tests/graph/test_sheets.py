"""Tables of nodes and edges in files, as pandas reads them back."""

import csv
import json
from dataclasses import replace

import pandas as pd
import pytest

import visit_tl as vt
from tests.view.synthetic import hostile
from visit_tl.escaping import carried
from visit_tl.graph.io import csv_parquet as sheets
from visit_tl.graph.records import Effect


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    built = vt.flow_graph(made("native"), "a b c d", heads=2, neurons=3, expand=1)
    first, *rest = built.nodes
    return replace(built, nodes=(replace(first, effect=Effect(-1.25, True)), *rest))


def check_nodes(read, graph):
    table = graph.to_dataframe()
    assert list(read["id"]) == list(table.index)
    for name in ("label", "kind", "rank"):
        assert list(read[name]) == list(table[name]), name
    # Older pandas reads the last digit of a number in a CSV file as it may.
    for name in ("prob", "norm", "entropy"):
        assert list(read[name]) == pytest.approx(list(table[name]), rel=1e-14), name
    for name in ("layer", "head", "key_position", "neuron", "coefficient", "effect"):
        found, wanted = (pd.to_numeric(t[name]).to_numpy(float) for t in (read, table))
        assert found == pytest.approx(wanted, rel=1e-14, nan_ok=True), name
    at = [graph.position if pd.isna(x) else int(x) for x in table["position"]]
    assert list(read["position"]) == at
    assert (
        list(read["effect_exact"].iloc[:1]) == [True] and read["effect_exact"].iloc[1:].isna().all()
    )


def test_csv_is_read_back_by_pandas(graph, tmp_path):
    path = graph.save(tmp_path / "g.csv")
    nodes = pd.read_csv(path)
    check_nodes(nodes, graph)
    assert [json.loads(top) for top in nodes["top"]] == [[t.token for t in n.top] for n in graph]
    assert json.loads(nodes["index"][0]) == list(graph.nodes[0].hook.index)
    edges = pd.read_csv(tmp_path / "g.edges.csv")
    assert list(edges["source"]) == [str(e.source) for e in graph.edges]
    assert list(edges["target"]) == [str(e.target) for e in graph.edges]
    assert list(edges["kind"]) == [e.kind for e in graph.edges]
    assert list(edges["score"]) == pytest.approx([e.score for e in graph.edges], rel=1e-14)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.csv", "g.edges.csv"]


def test_parquet_is_read_back_by_pandas(graph, tmp_path):
    pytest.importorskip("pyarrow")
    path = graph.save(tmp_path / "g.parquet")
    nodes = pd.read_parquet(path)
    assert list(nodes.columns) == list(sheets.NODE_COLUMNS)
    check_nodes(nodes, graph)
    assert [list(top) for top in nodes["top"]] == [[t.token for t in n.top] for n in graph]
    assert tuple(nodes["index"][0]) == graph.nodes[0].hook.index
    edges = pd.read_parquet(tmp_path / "g.edges.parquet")
    assert list(edges.columns) == list(sheets.EDGE_COLUMNS)
    assert list(edges["score"]) == [e.score for e in graph.edges]


def test_hostile_tokens_stay_in_their_cells(tmp_path):
    graph = hostile()
    path = graph.save(tmp_path / "g.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(node.id) for node in graph]
    assert [row["label"] for row in rows] == [carried(node.label) for node in graph]
    assert [json.loads(row["top"]) for row in rows] == [[t.token for t in n.top] for n in graph]
    read = pd.read_csv(path, na_filter=False)
    assert list(read["label"]) == [carried(node.label) for node in graph]
    pytest.importorskip("pyarrow")
    nodes = pd.read_parquet(graph.save(tmp_path / "g.parquet"))
    whole = [n.label.encode("utf-8", "backslashreplace").decode() for n in graph]
    assert list(nodes["label"]) == whole
