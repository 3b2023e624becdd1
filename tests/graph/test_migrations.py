"""Graphs that older releases wrote, as they wrote them (tests/data/graphs)."""

import json
from pathlib import Path

import pytest

from visit_tl import FlowGraph, GraphError
from visit_tl.graph.io.json_format import from_json
from visit_tl.graph.io.migrations import SCHEMA, STEPS, upgraded

FOLDER = Path(__file__).parents[1] / "data" / "graphs"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_graph_of_every_schema_opens_and_can_be_written_anew(path, tmp_path):
    before = path.read_bytes()
    graph = FlowGraph.load(path)
    again = FlowGraph.load(graph.save(tmp_path / "again.json"))
    assert again == graph and type(again) is FlowGraph
    assert json.loads((tmp_path / "again.json").read_text())["schema"] == SCHEMA
    assert path.read_bytes() == before


def test_there_is_a_file_of_every_schema():
    stored = {json.loads(path.read_text())["schema"] for path in FILES}
    assert stored == set(range(1, SCHEMA + 1)) == {*STEPS, SCHEMA}


def test_what_schema_1_did_not_have_is_not_there():
    graph = FlowGraph.load(FOLDER / "schema1.json")
    assert len(graph) == 46 and graph.target == "<x57>" and graph["L1H3"].top[0].token == " d"
    assert graph.columns == () and graph.patched == () and graph.adapters == ()
    assert {node.effect for node in graph} == {node.attribution for node in graph} == {None}
    assert {node.id.position for node in graph} == {None}
    assert {edge.effect for edge in graph.edges} == {None}


def test_what_came_later_within_a_schema_is_not_needed():
    graph = FlowGraph.load(FOLDER / "schema2_early.json")
    assert graph.patched == () and [column.position for column in graph.columns] == [0, 1, 2]


def test_what_schema_2_did_not_have_is_not_there_and_the_rest_is():
    graph = FlowGraph.load(FOLDER / "schema2_measured.json")
    assert sum(node.effect is not None for node in graph) == 30
    assert sum(edge.effect is not None for edge in graph.edges) == 21
    assert any(node.attribution is not None for node in graph)
    assert {node.gradient for node in graph} == {node.reversed for node in graph} == {None}


def test_what_came_within_schema_2_is_needed_in_schema_3():
    data = json.loads((FOLDER / "schema3.json").read_text())
    with pytest.raises(GraphError, match="the file has no 'patched'"):
        from_json({name: value for name, value in data.items() if name != "patched"})


def test_a_file_of_schema_3_has_gradients():
    graph = FlowGraph.load(FOLDER / "schema3.json")
    heads = graph.of_kind("head")
    assert heads and all(head.gradient and head.reversed for head in heads)
    assert graph["L1.resid_post"].gradient.bottom
    assert graph["logits"].gradient is None


@pytest.mark.parametrize("place", ["nodes", "edges"])
@pytest.mark.parametrize("junk", [None, 5, "text", [None], [5], {"a": 1}])
def test_a_broken_file_of_an_old_schema_is_refused_like_a_new_one(place, junk):
    data = json.loads((FOLDER / "schema1.json").read_text())
    with pytest.raises(GraphError, match=place):
        from_json(data | {place: junk})


def test_the_data_given_are_left_alone():
    data = json.loads((FOLDER / "schema1.json").read_text())
    kept = json.dumps(data)
    assert upgraded(data)["schema"] == SCHEMA
    assert json.dumps(data) == kept
