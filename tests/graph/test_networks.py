"""Networks for other tools: what is written is read back by networkx and by Graphviz."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings

import visit_tl as vt
from tests.view.synthetic import HOSTILE, hostile, realistic
from tests.view.test_any_graph import build, specs
from visit_tl.escaping import carried
from visit_tl.graph.io.networks import graphml
from visit_tl.graph.records import Edge, Effect
from visit_tl.view.dot import dot


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    built = vt.flow_graph(made("native"), "a b c d", heads=2, neurons=3, expand=1)
    first, *rest = built.nodes
    edge, *edges = built.edges
    measured = replace(first, attribution=0.5, effect=Effect(-1.25, True))
    return replace(
        built,
        nodes=(measured, *rest),
        edges=(replace(edge, effect=Effect(0.75, False)), *edges),
    )


def test_every_node_and_edge_is_there_with_what_it_knows(graph):
    made = graph.to_networkx()
    assert type(made) is nx.DiGraph and nx.is_directed_acyclic_graph(made)
    assert list(made) == [str(node.id) for node in graph]
    assert [(a, b) for a, b in made.edges] and made.number_of_edges() == len(graph.edges)
    for node in graph:
        facts = made.nodes[str(node.id)]
        assert facts["label"] == node.label and facts["kind"] == node.kind
        assert facts["rank"] == node.rank and facts["prob"] == node.prob
        assert facts["position"] == (
            graph.position if node.id.position is None else node.id.position
        )
        assert json.loads(facts["top"]) == [read.token for read in node.top]
        for name in ("layer", "head", "key_position", "neuron"):
            assert facts.get(name) == getattr(node.id, name)
        assert facts.get("coefficient") == node.coefficient
        if node.hook is None:
            assert "hook" not in facts and "index" not in facts
        else:
            assert facts["hook"] == node.hook.name
            assert tuple(json.loads(facts["index"])) == node.hook.index
        assert all(isinstance(fact, str | int | float | bool) for fact in facts.values())
    first = made.nodes[str(graph.nodes[0].id)]
    assert (first["attribution"], first["effect"], first["effect_exact"]) == (0.5, -1.25, True)
    for edge in graph.edges:
        facts = made.edges[str(edge.source), str(edge.target)]
        assert (facts["kind"], facts["score"]) == (edge.kind, edge.score)
    assert made.edges[str(graph.edges[0].source), str(graph.edges[0].target)]["effect"] == 0.75
    assert (made.graph["model"], made.graph["target"]) == (graph.model, graph.target)
    assert json.loads(made.graph["tokens"]) == list(graph.tokens)


def test_its_ancestors_are_those_of_the_graph(graph):
    made = graph.to_networkx()
    for node in graph:
        assert nx.ancestors(made, str(node.id)) == {str(a) for a in graph.ancestors(node.id)}


def test_two_edges_between_the_same_nodes_are_both_kept(graph):
    edge = graph.edges[0]
    doubled = replace(graph, edges=(*graph.edges, Edge(edge.source, edge.target, "sum", 7.0)))
    made = doubled.to_networkx()
    assert type(made) is nx.MultiDiGraph
    assert [f["score"] for f in made[str(edge.source)][str(edge.target)].values()] == [
        edge.score,
        7.0,
    ]
    assert nx.parse_graphml(graphml(doubled).decode()).number_of_edges() == len(doubled.edges)


def same(left, right):
    """Equal, NaN included."""
    return left == right or (left != left and right != right)


def assert_read_back(made, read):
    assert list(read) == list(made)
    for name, facts in made.nodes(data=True):
        assert facts.keys() == read.nodes[name].keys()
        for key, fact in facts.items():
            back = read.nodes[name][key]
            assert same(back, carried(fact) if isinstance(fact, str) else fact), (name, key)
    assert sorted(map(str, read.edges(data="score"))) == sorted(map(str, made.edges(data="score")))


def test_graphml_is_read_back_by_networkx_as_it_was(graph, tmp_path):
    path = graph.save(tmp_path / "g.graphml")
    read = nx.read_graphml(path)
    made = graph.to_networkx()
    assert_read_back(made, read)
    assert read.graph["prompt"] == graph.prompt and read.graph["position"] == graph.position
    assert read.edges[str(graph.edges[0].source), str(graph.edges[0].target)] == {
        "kind": graph.edges[0].kind,
        "score": graph.edges[0].score,
        "effect": 0.75,
        "effect_exact": False,
    }


def test_graphml_of_hostile_tokens_is_well_formed_and_tells_them_all(tmp_path):
    graph = hostile()
    path = graph.save(tmp_path / "g.graphml")
    ElementTree.parse(path)
    read = nx.read_graphml(path)
    assert_read_back(graph.to_networkx(), read)
    # Lists are JSON, whose escapes bring back even what XML cannot hold.
    assert tuple(json.loads(read.graph["tokens"])) == HOSTILE


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_graph_is_written_and_read_back(spec):
    graph = build(spec)
    read = nx.parse_graphml(graphml(graph).decode(), force_multigraph=True)
    made = nx.MultiDiGraph(graph.to_networkx())
    assert list(read) == list(made)
    found = sorted((e["kind"], e["score"]) for _, _, e in read.edges(data=True))
    wanted = sorted((e.kind, e.score) for e in graph.edges)
    assert len(found) == len(wanted)
    if not any(math.isnan(score) for _, score in wanted):
        assert found == wanted
    assert dot(graph).count(" -> ") >= len(graph.edges)


def test_dot_is_read_by_graphviz_whatever_the_tokens():
    program = shutil.which("dot")
    if program is None:
        pytest.skip("Graphviz is not installed")
    graph = hostile()
    drawn = subprocess.run(
        [program, "-Tjson0"], input=dot(graph).encode(), capture_output=True, check=True
    )
    assert drawn.stderr == b""
    read = json.loads(drawn.stdout)
    assert [o["name"] for o in read["objects"]] == [str(node.id) for node in graph]
    for node, found in zip(graph, read["objects"], strict=True):
        assert found["hook"] == node.hook.name and int(found["rank"]) == node.rank
        # Graphviz keeps escapes in what it does not draw.
        told = carried(node.label).replace("\\", "\\\\").replace("\n", "\\n")
        assert found.get("label_token", "") == told
    assert len(read["edges"]) == len(graph.edges)


def test_dot_draws_in_the_colours_of_the_other_pictures():
    graph = realistic((0,), 1)
    light, dark = dot(graph), dot(graph, "dark")
    assert light.startswith("// made by visit_tl\ndigraph flow {\n")
    assert 'bgcolor="#ffffff"' in light and 'bgcolor="#0f1318"' in dark
    assert '"L0H0" -> "L0.z" [kind="sum"' in light
    with pytest.raises(vt.InputError, match="'pink' is no theme"):
        dot(graph, "pink")
