"""JSON: equal after the round trip, and whatever is wrong in a file is said and named."""

import copy
import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import visit_tl as vt
from visit_tl import FileError, FlowGraph, GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.io.json_format import from_json, to_json


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c d", heads=2, neurons=3)


@pytest.fixture(scope="module")
def data(graph):
    return json.loads(json.dumps(to_json(graph)))


def test_saved_and_loaded_is_equal(graph, tmp_path):
    path = graph.save(tmp_path / "g.json")
    assert FlowGraph.load(path) == graph


def test_every_model_gives_a_graph_that_survives_the_round_trip(model):
    graph = vt.flow_graph(model, "a b c")
    assert from_json(json.loads(json.dumps(to_json(graph), allow_nan=False))) == graph


def test_a_node_is_written_with_everything_that_the_schema_promises(data):
    wanted = {"id", "kind", "layer", "head", "key_position", "neuron", "label", "token", "top"}
    wanted |= {"bottom", "rank", "prob", "entropy", "norm", "coefficient", "attention", "hook"}
    wanted |= {"position", "attribution", "effect"}
    assert all(set(node) == wanted for node in data["nodes"])
    assert {
        "schema",
        "model",
        "prompt",
        "tokens",
        "target",
        "position",
        "columns",
        "patched",
    } <= set(data)
    assert all(set(e) == {"source", "target", "kind", "score", "effect"} for e in data["edges"])


def change(data, *path_and_value):
    *path, value = path_and_value
    changed = copy.deepcopy(data)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 3, r"has schema 3, but this release of visit_tl reads the schemas 1 to 2"),
        (["schema"], 0, r"has schema 0, but this release"),
        (["schema"], True, r"has schema True, but this release"),
        (["schema"], "1", r"has schema '1'"),
        (["schema"], True, r"has schema True"),
        (["prompt"], 3, "'prompt' is int, expected str"),
        (["position"], -1, "'position' is -1, below 0"),
        (["position"], 99, "the position 99 do not fit together"),
        (["layers"], [0, 2], "not consecutive"),
        (["layers"], [], "no nodes or no layers"),
        (["nodes"], [], "ends at|no nodes"),
        (["nodes", 0, "id"], "L0H", "'L0H' is no node id"),
        (["nodes", 0, "rank"], 60, r"L0\.resid_pre has rank 60 of 60 tokens"),
        (["nodes", 0, "rank"], True, "'rank' is bool, expected int"),
        (["nodes", 0, "prob"], 1.5, r"'prob' is 1\.5, outside 0\.\.1"),
        (["nodes", 0, "norm"], math.inf, "'norm' is inf, not a finite number"),
        (["nodes", 0, "top"], [], "has no readout"),
        (["nodes", 0, "top", 0, "token"], None, "'token' is NoneType"),
        (["edges", 0, "kind"], "magic", "an edge has the kind 'magic'"),
        (["edges", 0, "source"], "L9H9", "ends at L9H9"),
        (["hidden"], {}, "the graph: 'hidden' is not given for exactly its layers"),
        (["hidden"], {"x": {}}, "has 'x' where a layer belongs"),
    ],
)
def test_a_file_with_something_wrong_says_what(data, path, value, message):
    with pytest.raises(GraphError, match=message):
        from_json(change(data, *path, value))


@pytest.mark.parametrize("key", ["model", "tokens", "nodes", "edges", "residual_error"])
def test_a_file_with_something_missing_says_what(data, key):
    with pytest.raises(GraphError, match=f"has no '{key}'"):
        from_json({k: v for k, v in data.items() if k != key})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON)
def test_any_json_is_a_graph_or_a_graph_error(data):
    with pytest.raises(GraphError):
        from_json(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_graph_with_any_one_value_replaced_loads_or_is_a_graph_error(data, draw):
    place = draw.draw(st.sampled_from(["root", "node", "edge", "token", "hook"]))
    changed = copy.deepcopy(data)
    spot = {
        "root": changed,
        "node": changed["nodes"][0],
        "edge": changed["edges"][0],
        "token": changed["nodes"][0]["top"][0],
        "hook": changed["nodes"][0]["hook"],
    }[place]
    spot[draw.draw(st.sampled_from(sorted(spot)))] = draw.draw(JSON)
    try:
        loaded = from_json(changed)
    except GraphError:
        return
    assert isinstance(loaded, GraphData)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON, or is cut off"),
        (b'{"schema": 1, "nodes": [', "is not JSON, or is cut off"),
        (b"[" * 100_000, "is not JSON, or is cut off"),
        (b'{"schema": NaN}', "NaN is not a JSON number"),
        (b"[1, 2]", "has no schema"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path, content, message):
    path = tmp_path / "g.json"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=message):
        FlowGraph.load(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileError, match=r"there is no file .*none\.json"):
        FlowGraph.load(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"schema": "\xe9"}')
    with pytest.raises(FileError, match="cannot be read as text"):
        FlowGraph.load(tmp_path / "latin.json")
