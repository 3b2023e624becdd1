"""JSON: equal after the round trip, and whatever is wrong in a file is said and named."""

import copy
import json
import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import visit_tl as vt
from tests.view.synthetic import realistic, with_gradients
from visit_tl import FileError, FlowGraph, GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.graph.records import Gradient, Reversed, TokenProb


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
    wanted |= {"position", "attribution", "effect", "gradient", "reversed"}
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
        (["schema"], 4, r"has schema 4, but this release of visit_tl reads the schemas 1 to 3"),
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


@pytest.fixture(scope="module")
def measured():
    """The data of a graph with gradients and reversed attention."""
    return json.loads(json.dumps(to_json(with_gradients(realistic((0,), 1)))))


def test_gradients_are_equal_after_the_round_trip(measured):
    graph = with_gradients(realistic((0,), 1))
    assert from_json(measured) == graph
    head = next(node for node in measured["nodes"] if node["id"] == "L0H2")
    own = graph["L0H2"]
    assert set(head["gradient"]) == {"norm", "rank", "top", "bottom"}
    assert set(head["gradient"]["bottom"][0]) == {"token", "id", "prob"}
    assert head["gradient"]["rank"] == own.gradient.rank
    assert head["reversed"] == {"norm": own.reversed.norm, "row": list(own.reversed.row)}
    assert measured["nodes"][0]["gradient"] == {"norm": 0.0, "rank": None, "top": [], "bottom": []}
    assert measured["nodes"][0]["reversed"] is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["gradient"], 3, "the gradient of L0H2 is int, not an object"),
        (["gradient"], {}, "the gradient of L0H2 has no 'norm'"),
        (["gradient", "norm"], "1", r"the gradient of L0H2: 'norm' is '1', not a finite number"),
        (["gradient", "norm"], math.nan, "'norm' is nan, not a finite number"),
        (["gradient", "norm"], True, "'norm' is True, not a finite number"),
        (["gradient", "norm"], -1.0, r"the gradient of L0H2: 'norm' is -1\.0, below 0"),
        (["gradient", "rank"], 1000, "the gradient of L0H2 has rank 1000 of 1000 tokens"),
        (["gradient", "rank"], -1, "the gradient of L0H2: 'rank' is -1, below 0"),
        (["gradient", "rank"], 1.0, "'rank' is float, expected int"),
        (["gradient", "rank"], None, "a gradient that is 0 has none of them"),
        (["gradient", "top"], [], "has some of a rank, top tokens and bottom tokens, but not all"),
        (["gradient", "bottom"], [], "has some of a rank, top tokens and bottom tokens"),
        (["gradient", "top"], None, "'top' is NoneType, expected list"),
        (["gradient", "top", 0], "x", r"top\[0\] is str, not an object"),
        (["gradient", "bottom", 0, "prob"], 1.5, r"'prob' is 1\.5, outside 0\.\.1"),
        (["gradient", "bottom", 0, "token"], 7, "'token' is int, expected str"),
        (["reversed"], [], "the reversed attention of L0H2 is list, not an object"),
        (["reversed"], {"norm": 1.0}, "the reversed attention of L0H2 has no 'row'"),
        (["reversed", "norm"], math.inf, "'norm' is inf, not a finite number"),
        (["reversed", "norm"], -0.5, r"'norm' is -0\.5, below 0"),
        (["reversed", "row"], 1, "'row' is int, expected list"),
        (["reversed", "row"], [0.1], "reversed attention of L0H2 has 1 entries for 9 tokens"),
        (["reversed", "row", 2], math.nan, "L0H2: 'row' is nan, not a finite number"),
        (["reversed", "row", 2], None, "'row' is None, not a finite number"),
        (["reversed", "row", 2], 10**400, "not a finite number"),
    ],
)
def test_gradients_with_something_wrong_say_what(measured, path, value, message):
    at = next(i for i, node in enumerate(measured["nodes"]) if node["id"] == "L0H2")
    with pytest.raises(GraphError, match=message):
        from_json(change(measured, "nodes", at, *path, value))


def test_only_heads_have_reversed_attention(measured):
    found = next(node["reversed"] for node in measured["nodes"] if node["reversed"])
    with pytest.raises(GraphError, match=r"L0\.resid_pre has reversed attention, but is no head"):
        from_json(change(measured, "nodes", 0, "reversed", found))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LENGTHS = st.floats(min_value=0, allow_infinity=False)
READS = st.lists(
    st.tuples(st.text(max_size=4), st.integers(0, 99), st.floats(0, 1)), min_size=1, max_size=3
)
GRADIENTS = st.builds(lambda norm: (norm, None, [], []), LENGTHS) | st.tuples(
    LENGTHS, st.integers(0, 999), READS, READS
)


@settings(max_examples=40, deadline=None)
@given(GRADIENTS, LENGTHS, st.lists(NUMBERS, min_size=9, max_size=9))
def test_any_gradient_is_equal_after_the_round_trip(gradient, length, row):
    graph = realistic((0,), 1)
    norm, rank, top, bottom = gradient
    top, bottom = (tuple(TokenProb(*read) for read in reads) for reads in (top, bottom))
    facts = {
        "gradient": Gradient(norm, rank, top, bottom),
        "reversed": Reversed(length, tuple(row)),
    }
    graph = replace(graph, nodes=(replace(graph["L0H2"], **facts),), edges=())
    assert from_json(json.loads(json.dumps(to_json(graph), allow_nan=False))) == graph


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
def test_a_graph_with_any_one_value_replaced_loads_or_is_a_graph_error(measured, draw):
    places = ["root", "node", "edge", "token", "hook", "head", "gradient", "reversed"]
    place = draw.draw(st.sampled_from(places))
    changed = copy.deepcopy(measured)
    head = next(node for node in changed["nodes"] if node["id"] == "L0H0")
    spot = {
        "root": changed,
        "node": changed["nodes"][0],
        "edge": changed["edges"][0],
        "token": changed["nodes"][0]["top"][0],
        "hook": changed["nodes"][0]["hook"],
        "head": head,
        "gradient": head["gradient"],
        "reversed": head["reversed"],
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
