"""Graphs with features: files, tables, text, pictures, the page, labels and the command line."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import visit_tl as vt
from tests.architectures import PROMPT
from tests.features.tiny_modules import module
from tests.graph.test_neuronpedia import check as check_neuronpedia
from visit_tl.cli import app
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.graph.io.neuronpedia import to_neuronpedia
from visit_tl.model.view import ModelView

DATA = Path(__file__).parents[1] / "data" / "features"
HOSTILE = '<script>alert(1)</script> & "months" \'\u202e'


@pytest.fixture(scope="module")
def view():
    from tests.conftest import made

    return ModelView(made("native"))


@pytest.fixture(scope="module")
def graph(view):
    from tests.conftest import made

    saes = [
        module(view, "z", neuronpedia_id="tiny/1-att-kk"),
        module(view, "transcoder", 0, name="<b>mlp</b>"),
    ]
    plain = vt.flow_graph(made("native"), PROMPT, saes=saes, features=4)
    first = plain.of_kind("feature")[0].id
    return vt.flow_graph(
        made("native"), PROMPT, saes=saes, features=4, labels={str(first): HOSTILE}
    )


@pytest.fixture(scope="module")
def named(graph):
    (node,) = [n for n in graph if n.explanation is not None]
    return node


def test_a_graph_with_features_equals_itself_after_json(graph, tmp_path, named):
    path = graph.save(tmp_path / "g.json")
    again = vt.FlowGraph.load(path)
    assert again == graph and again.feature_sets == graph.feature_sets
    data = json.loads(path.read_text())
    assert data["schema"] == 3 and len(data["feature_sets"]) == 2
    entry = next(n for n in data["nodes"] if n["id"] == str(named.id))
    assert (entry["site"], entry["neuron"]) == (named.id.site, named.id.neuron)
    assert entry["explanation"] == HOSTILE


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.pop("feature_sets"), "is of no set of features"),
        (lambda d: d["feature_sets"].append(d["feature_sets"][0]), "two sets of features"),
        (lambda d: d["feature_sets"][0].update(site="query"), "the sites are"),
        (lambda d: d["feature_sets"][0].update(n_features=1, active=1), "outside the 1 of"),
        (lambda d: d["feature_sets"][0].update(active=999), "do not fit the graph"),
        (lambda d: d["feature_sets"][0].update(error_share=-1.0), "below 0"),
        (lambda d: d["feature_sets"][0].pop("hook"), "has no 'hook'"),
        (lambda d: d["nodes"][0].update(explanation="x"), "but is no feature"),
    ],
)
def test_a_file_whose_features_do_not_fit_is_refused(graph, change, match):
    data = json.loads(json.dumps(to_json(graph)))
    change(data)
    with pytest.raises(vt.GraphError, match=match):
        from_json(data)


def test_subgraphs_keep_the_sets_of_their_blocks(graph):
    part = graph.subgraph([1])
    assert [s.layer for s in part.feature_sets] == [1]
    assert {n.layer for n in part.of_kind("feature")} == {1}
    assert graph.at(graph.position).feature_sets == graph.feature_sets


def test_features_have_a_table_and_columns(graph, named, tmp_path):
    table = graph.features()
    assert list(table.index) == [
        str(n.id) for n in graph.of_kind("feature", "feature_error", "feature_bias")
    ]
    row = table.loc[str(named.id)]
    assert row["explanation"] == HOSTILE and row["index"] == named.id.neuron
    assert row["adds"] == pytest.approx(abs(named.coefficient) * named.norm)
    known = table[table["site"] == "z"].iloc[0]
    assert known["neuronpedia"] == f"tiny/1-att-kk/{known['index']}"
    assert graph.to_dataframe()["site"].notna().sum() == len(table)
    graph.save(tmp_path / "g.csv")
    read = pd.read_csv(tmp_path / "g.csv", na_filter=False).set_index("id")
    assert read.loc[str(named.id), "site"] == named.id.site
    graph.save(tmp_path / "g.csv")  # over a table of ours


def test_networks_hold_sites_and_explanations(graph, named, tmp_path):
    made = graph.to_networkx()
    assert made.nodes[str(named.id)]["site"] == named.id.site
    assert made.nodes[str(named.id)]["explanation"] == HOSTILE
    dot = graph.save(tmp_path / "g.dot").read_text()
    assert 'peripheries="2"' in dot
    graphml = graph.save(tmp_path / "g.graphml").read_text()
    assert "<script>" not in graphml


def test_features_are_found_by_what_they_are_said_to_be(graph, named):
    assert named in graph.find("MONTHS")
    assert graph.find("no such word") == ()


def test_text_tells_of_features_and_of_what_they_miss(graph, named):
    text = graph.text()
    sets = {s.site: s for s in graph.feature_sets}
    assert f"L1.z: tiny-z (standard), {sets['z'].active} of 24 active, error" in text
    assert "said to be" in text and str(named.id) in text and "L0.mlp_out.error" in text
    assert "active features not shown" in text
    assert max(map(len, text.splitlines())) <= 110


def test_pictures_mark_features_and_escape_labels(graph, tmp_path, named):
    svg = graph.save(tmp_path / "g.svg").read_text()
    assert "#7a3fb8" in svg and "rim: feature of an SAE" in svg and "<script>" not in svg
    figure = graph.figure()
    assert any(s.line.color == "#7a3fb8" for s in figure.layout.shapes)
    assert not any("<script>" in label for label in figure.data[0].node.label)
    dark = graph.figure(theme="dark")
    assert any(s.line.color == "#c79bff" for s in dark.layout.shapes)


def test_the_page_shows_features_at_both_depths_with_their_own_colour(graph, tmp_path, named):
    page = graph.save(tmp_path / "g.html").read_text()
    assert "const FEATURES" in page and "rim: feature of an SAE" in page
    assert "--feature:#7a3fb8" in page and "<script>alert" not in page
    assert "&lt;b&gt;mlp&lt;/b&gt;" in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page,
                                re.DOTALL)[1]) if 'id="data"' in page else None  # fmt: skip
    if data is not None:
        place = next(i for i, n in enumerate(graph.nodes) if n.id == named.id)
        site, part, said, about = data["nodes"]["features"][str(place)]
        assert (site, part) == (named.id.site, f"F{named.id.neuron}")
        assert "months" in data["texts"][said] and "error" in about


def test_the_blocks_depth_keeps_features_and_the_z_that_they_are_of(graph):
    from visit_tl.view.page.block_depths import blocks

    small = blocks(graph)
    kinds = {str(n.id) for n in small}
    assert "L1.z" in kinds and "L0.z" not in kinds
    assert {n.id for n in graph.of_kind("feature")} <= {n.id for n in small}
    into = small.edges_into(next(n.id for n in small.of_kind("feature") if n.id.site == "z"))
    assert [str(e.source) for e in into] == ["L1.z"]
    # z itself, not one of the numbers by which it scales the rows of W_O, with that one's sign.
    (past,) = [e for e in small.edges_out_of("L1.z") if str(e.target) == "L1.attn_out"]
    assert (past.kind, past.score) == ("flow", graph["L1.z"].norm)


def test_the_viewers_of_neuronpedia_get_its_ids(graph, view):
    data = to_neuronpedia(graph, "x")
    check_neuronpedia(data)
    placed = {n["node_id"]: n for n in data["nodes"]}
    for node in graph.of_kind("feature"):
        layer, index = node.layer, node.id.neuron
        entry = placed[f"{layer}_{index}_{graph.position}"]
        # Cantor's pairing, undone as the viewers undo it.
        w = int(((8 * entry["feature"] + 1) ** 0.5 - 1) / 2)
        assert entry["feature"] - w * (w + 1) // 2 == index
        assert entry["feature_type"] == "cross layer transcoder"
        known = entry.get("neuronpedia")
        assert known == (f"tiny/1-att-kk/{index}" if node.id.site == "z" else None)
    assert placed["L1.z.error"]["feature_type"] == "lorsa error"
    assert placed["L0.mlp_out.error"]["feature_type"] == "mlp reconstruction error"
    assert placed["L0.mlp_out.b_dec"]["feature_type"] == "bias"
    meta = data["metadata"]
    assert (meta["scan"], meta["schema_version"]) == ("tiny", 1)
    assert meta["feature_details"] == {"neuronpedia_source_set": "att-kk"}
    both = vt.flow_graph(view.model, PROMPT, saes=[module(view, "z"), module(view, "resid_post")])
    check_neuronpedia(to_neuronpedia(both, "x"))


def test_labels_come_as_dicts_files_and_explanations_of_neuronpedia(view, tmp_path):
    sae = module(view, "z", neuronpedia_id="tiny/1-att-kk")
    path = tmp_path / "labels.json"
    other = {"layer": "2-att-kk", "index": "3", "description": "of another"}
    exported = [{"modelId": "tiny", "layer": "1-att-kk", "index": str(i), "description": f"d{i}"}
                for i in range(24)]  # fmt: skip
    for labels, said in (
        ({str(i): f"n{i}" for i in range(24)}, "n"),
        ({i: f"n{i}" for i in range(24)}, "n"),
        ({f"L1.z.F{i}": f"n{i}" for i in range(24)}, "n"),
        ([*exported, other], "d"),
        (path, "d"),
        (str(path), "d"),
    ):
        path.write_text(json.dumps(exported))
        graph = vt.flow_graph(view.model, PROMPT, saes=sae, labels=labels)
        for node in graph.of_kind("feature"):
            assert node.explanation == f"{said}{node.id.neuron}"


def test_labels_that_cannot_be_placed_are_refused(view, tmp_path):
    sae = module(view, "z")
    broken = tmp_path / "broken.json"
    broken.write_text('{"1": NaN}')
    for labels, match in (
        ({"99": "a"}, "label of feature '99', and tiny-z has 0..23"),
        ({-1: "a"}, "label of feature -1, and tiny-z has 0..23"),
        ({"9" * 5000: "a"}, "label of feature '999"),
        ([{"index": "9" * 5000, "description": "a"}], "label of feature '999"),
        ({"L0.z.F1": "a"}, "is of no SAE of this graph; they are at L1.z"),
        ({"L1H0": "a"}, "is no feature"),
        ({"1": 2}, "is 2, not a text"),
        ([3], "objects with index"),
        ([{"index": "x", "description": "a"}], "no number"),
        (3, "must be a dict, a list or the path"),
        (broken, "cannot be read from"),
        (tmp_path / "absent.json", "cannot be read from"),
    ):
        with pytest.raises(vt.VisitError, match=match):
            vt.flow_graph(view.model, PROMPT, saes=sae, labels=labels)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(vt.FileError, match="it is a pipe"):
            vt.flow_graph(view.model, PROMPT, saes=sae, labels=tmp_path / "pipe.json")
    saes = [sae, module(view, "resid_post")]
    with pytest.raises(vt.InputError, match="any of the 2 SAEs"):
        vt.flow_graph(view.model, PROMPT, saes=saes, labels={"1": "a"})


def test_the_command_takes_folders_of_saes(view, tmp_path, monkeypatch):
    folder = tmp_path / "sae"
    shutil.copytree(DATA / "jumprelu", folder)
    monkeypatch.setattr("visit_tl.model.load.load_model", lambda *args, **options: view.model)
    words = ["graph", PROMPT, "--sae", str(folder), "--features", "2", "--json"]
    refused = CliRunner().invoke(app, [*words, str(tmp_path / "a.json")])
    assert refused.exit_code == 1 and "does not fit native" in refused.output
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["model_name"] = "native"
    (folder / "cfg.json").write_text(json.dumps(config))
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    graph = vt.FlowGraph.load(tmp_path / "a.json")
    assert len(graph.of_kind("feature")) == 2
