"""Gradients and reversed attention in tables, networks, descriptions and text."""

import json
import math

import pandas as pd
import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic, with_gradients
from visit_tl import FlowGraph
from visit_tl.escaping import visible
from visit_tl.graph.descriptions import number
from visit_tl.graph.io.csv_parquet import NODE_COLUMNS
from visit_tl.graph.io.neuronpedia import to_neuronpedia
from visit_tl.graph.node_descriptions import node_facts
from visit_tl.view.text import WIDTH, text

NAMES = ["gradient", "gradient_rank", "reversed"]
GRAPH = with_gradients(realistic())
PLAIN = realistic()


def wanted(graph):
    """By id, what the three columns should hold; NaN where nothing was measured."""
    found = {}
    for node in graph:
        norm = math.nan if node.gradient is None else node.gradient.norm
        rank = None if node.gradient is None else node.gradient.rank
        back = math.nan if node.reversed is None else node.reversed.norm
        found[str(node.id)] = [norm, math.nan if rank is None else rank, back]
    return found


def check(table, graph):
    known = wanted(graph)
    for name, row in zip(table.index, table[NAMES].to_numpy(float), strict=True):
        assert list(row) == pytest.approx(known[name], rel=1e-14, nan_ok=True), name


def test_tables_end_with_the_new_columns():
    for table in (GRAPH.to_dataframe(), GRAPH.heads()):
        assert list(table.columns)[-4:] == [*NAMES, "roles"]
        check(table, GRAPH)
    assert GRAPH.to_dataframe()["gradient"].notna().sum() == 5 * 3 + 30
    for table in (PLAIN.to_dataframe(), PLAIN.heads()):
        assert table[NAMES].isna().all(axis=None)


def test_files_of_tables_end_with_the_new_columns(tmp_path):
    assert list(NODE_COLUMNS)[-4:] == [*NAMES, "roles"]
    read = pd.read_csv(GRAPH.save(tmp_path / "g.csv"), na_filter=True)
    assert list(read.columns)[-4:] == [*NAMES, "roles"]
    check(read.set_index("id"), GRAPH)
    pytest.importorskip("pyarrow")
    check(pd.read_parquet(GRAPH.save(tmp_path / "g.parquet")).set_index("id"), GRAPH)


def test_a_table_of_an_earlier_release_is_replaced_as_one_of_ours(tmp_path):
    path = GRAPH.save(tmp_path / "g.csv")
    head, _, rest = path.read_bytes().partition(b"\n")
    assert head.endswith(b",index,gradient,gradient_rank,reversed,roles")
    path.write_bytes(head.removesuffix(b",gradient,gradient_rank,reversed,roles") + b"\n" + rest)
    GRAPH.save(path)
    assert path.read_bytes().startswith(head)


def test_networks_know_them_where_they_were_measured():
    made = GRAPH.to_networkx()
    for name, numbers in wanted(GRAPH).items():
        facts = [made.nodes[name].get(key, math.nan) for key in NAMES]
        assert facts == pytest.approx(numbers, nan_ok=True)
    assert not [f for _, facts in PLAIN.to_networkx().nodes(data=True) for f in facts if f in NAMES]


def test_other_viewers_are_told(tmp_path):
    labels = {n["node_id"]: n["clerp"] for n in to_neuronpedia(GRAPH, "g")["nodes"]}
    own = GRAPH["L1H2"]
    assert labels["L1H2"].endswith(
        f" · gradient norm {number(own.gradient.norm)}, target rank {own.gradient.rank} in it"
        f" · reversed attention {number(own.reversed.norm)}"
    )
    assert "gradient" not in json.dumps(to_neuronpedia(PLAIN, "g"))


def test_the_facts_of_a_node_say_what_descent_adds():
    own = GRAPH["L1H2"]
    facts = node_facts(own, GRAPH)
    assert facts[4] == (
        f"gradient norm {number(own.gradient.norm)}, target rank {own.gradient.rank} in it"
    )
    adds = [visible(read.token) for read in own.gradient.bottom]
    assert facts[5].startswith("a step down the gradient adds: ")
    assert all(token in facts[5] for token in adds)
    assert facts[6] == f"reversed attention: norm {number(own.reversed.norm)}"
    zero = next(node for node in GRAPH if node.gradient is not None)
    assert [f for f in node_facts(zero, GRAPH) if "gradient" in f] == ["gradient norm 0"]


def test_the_text_has_columns_for_them_only_where_there_are_any():
    told, plain = text(GRAPH), text(PLAIN)
    assert "gradient" not in plain
    assert "reversed" not in plain
    assert max(map(len, told.splitlines())) <= WIDTH
    lines = told.splitlines()
    states = next(line for line in lines if line.startswith("  state "))
    heads = next(line for line in lines if line.startswith("  head "))
    assert states.split()[-3:] == ["gradient", "descent", "adds"]
    assert heads.split()[5:7] == ["gradient", "reversed"]
    own = GRAPH["L0.attn_out"]
    line = next(line for line in lines if line.split()[:1] == ["attn_out"])
    assert number(own.gradient.norm) in line.split()
    assert visible(own.gradient.bottom[0].token, 14) in line
    head = next(line for line in lines if line.split()[:1] == ["L0H3"])
    found = GRAPH["L0H3"]
    assert {number(found.gradient.norm), number(found.reversed.norm)} <= set(head.split())


def test_hostile_tokens_of_gradients_are_carried_by_every_format(tmp_path):
    graph = with_gradients(hostile())
    assert {r.token for n in graph if n.gradient for r in n.gradient.top} & set(HOSTILE)
    for suffix in ("csv", "graphml", "svg", "dot", "html"):
        graph.save(tmp_path / f"g.{suffix}")
    assert FlowGraph.load(graph.save(tmp_path / "g.json")) == graph
    text(graph).encode()
