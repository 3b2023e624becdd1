"""The attribution-graph JSON: of the published shape, and what their viewers do with it holds."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

import visit_tl as vt
from tests.view.synthetic import hostile, realistic
from tests.view.test_any_graph import build, specs
from visit_tl.graph.io.neuronpedia import to_neuronpedia
from visit_tl.graph.records import Effect

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def record(required, **optional):
    return {"type": "object", "required": list(required), "properties": required | optional}


def listed(items):
    return {"type": "array", "items": items}


# What Neuronpedia's graph-schema.json 1.0.0 asks for, in our words.
SCHEMA = record(
    {
        "metadata": record(
            {"slug": TEXT, "scan": TEXT, "prompt_tokens": listed(TEXT), "prompt": TEXT},
            node_threshold=NUMBER,
            info=record(
                {},
                description=TEXT,
                generator=record({}, name=TEXT, version=TEXT, url=TEXT, email=TEXT),
                create_time_ms=NUMBER,
            ),
            generation_settings={"type": "object"},
            pruning_settings=record({}, node_threshold=NUMBER, edge_threshold=NUMBER),
        ),
        "qParams": record(
            {},
            pinnedIds=listed(TEXT),
            supernodes={"type": "array"},
            linkType=TEXT,
            clickedId=TEXT,
            sg_pos=TEXT,
        ),
        "nodes": listed(
            record(
                {
                    "node_id": TEXT,
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": WHOLE,
                    "feature_type": TEXT,
                    "jsNodeId": TEXT,
                    "clerp": TEXT,
                },
                influence={"type": ["number", "null"]},
                activation={"type": ["number", "null"]},
            )
        ),
        "links": listed(record({"source": TEXT, "target": TEXT, "weight": NUMBER})),
    }
)


def check(data):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(data, SCHEMA)
    names = [node["node_id"] for node in data["nodes"]]
    assert len(set(names)) == len(names)
    # The viewers tell nodes apart by this, and links name nodes by their ids.
    features = [(node["layer"], node["feature"], node["ctx_idx"]) for node in data["nodes"]]
    assert len(set(features)) == len(features)
    for link in data["links"]:
        assert link["source"] in names and link["target"] in names
    for node in data["nodes"]:
        assert node["layer"] == "E" or int(node["layer"]) >= 0
        if node["feature_type"] == "logit":
            # As the viewers cut it: the token between the quotes, the number after (p=.
            assert 0 <= float(node["clerp"].split("(p=")[1].split(")")[0]) <= 1
            assert len(node["clerp"].split('"')) == 3
        assert "<" not in node["clerp"]


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c d", heads=2, neurons=3, expand=1)


def test_it_has_the_published_shape_and_every_node_and_edge(graph, tmp_path):
    data = json.loads(graph.save(tmp_path / "mine.json", schema="neuronpedia").read_text())
    check(data)
    assert data["metadata"]["slug"] == "mine" and data["metadata"]["scan"] == graph.model
    assert data["metadata"]["prompt_tokens"] == ["‹bos>", *graph.tokens[1:]]
    assert data["metadata"]["info"]["generator"]["name"] == "visit_tl"
    named = {node["node_id"] for node in data["nodes"]}
    assert {str(node.id) for node in graph} <= named
    assert [(x["source"], x["target"], x["weight"]) for x in data["links"]] == [
        (str(e.source), str(e.target), e.score) for e in graph.edges
    ]


def test_nodes_stand_where_their_vectors_are_made(graph):
    placed = {n["node_id"]: n for n in to_neuronpedia(graph, "x")["nodes"]}
    for node in graph.of_kind("key", "value"):
        made = placed[str(node.id)]
        assert (made["layer"], made["ctx_idx"]) == (str(node.layer), node.id.key_position)
        assert made["activation"] == node.coefficient and made["feature"] < 0
    for node in graph.of_kind("head", "resid_post", "neuron"):
        at = graph.position if node.id.position is None else node.id.position
        assert (placed[str(node.id)]["layer"], placed[str(node.id)]["ctx_idx"]) == (
            str(node.layer),
            at,
        )
    head = graph.of_kind("head")[0]
    assert placed[str(head.id)]["feature_type"] == "attention head"
    assert placed[str(head.id)]["clerp"].startswith(f"{head.id} “{head.label.replace('<', '‹')}”")
    assert (placed["final_norm"]["layer"], placed["logits"]["layer"]) == ("2", "3")
    logit, target = placed["logits"], graph.target.replace("<", "‹")
    assert logit["feature_type"] == "logit" and logit["is_target_logit"]
    assert logit["feature"] == graph.target_id
    assert logit["clerp"] == f'Output "{target}" (p={graph["logits"].prob:.3f})'


def test_each_token_of_the_prompt_has_one_embedding(graph):
    data = to_neuronpedia(graph, "x")
    embedded = [n for n in data["nodes"] if n["feature_type"] == "embedding"]
    assert sorted(n["ctx_idx"] for n in embedded) == list(range(len(graph.tokens)))
    assert all(n["layer"] == "E" for n in embedded)
    linked = {end for link in data["links"] for end in (link["source"], link["target"])}
    assert {n["node_id"] for n in embedded} & linked == {
        str(n.id) for n in graph.of_kind("resid_pre") if n.layer == 0
    }


def test_effects_are_told(graph):
    head = graph.of_kind("head")[0]
    measured = replace(
        graph,
        nodes=tuple(
            replace(n, effect=Effect(-2.0, True), attribution=0.5) if n is head else n
            for n in graph
        ),
        edges=(replace(graph.edges[0], effect=Effect(1.5, True)), *graph.edges[1:]),
    )
    data = to_neuronpedia(measured, "x")
    label = next(n["clerp"] for n in data["nodes"] if n["node_id"] == str(head.id))
    assert label.endswith("attribution 0.5 · effect -2 (measured)")
    assert data["links"][0]["effect"] == 1.5 and "effect" not in data["links"][1]


def test_a_part_without_an_end_has_no_logit_to_click():
    data = to_neuronpedia(realistic((1, 2), 4), "x")
    check(data)
    assert data["qParams"]["clickedId"] == ""
    assert not [n for n in data["nodes"] if n["feature_type"] == "logit"]


@pytest.mark.parametrize("target", ['a"b', "(p=0.9)", "<img src=x onerror=alert(1)>", "\ud800", ""])
def test_no_token_breaks_a_label_or_becomes_markup(target):
    data = to_neuronpedia(replace(hostile(), target=target), "x")
    check(data)
    for token in data["metadata"]["prompt_tokens"]:
        assert "<" not in token
    json.dumps(data, allow_nan=False).encode()


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_graph_has_the_published_shape(spec):
    graph = build(spec)
    if all(math.isfinite(edge.score) for edge in graph.edges):
        check(to_neuronpedia(graph, "x"))
