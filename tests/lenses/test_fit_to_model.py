"""A lens of another model is refused; fits are TransformerLens's; what graphs keep of a lens."""

import dataclasses
import functools
import json
from importlib.metadata import version

import pytest
import torch
from typer.testing import CliRunner

import visit_tl as vt
from tests import tiny
from tests.conftest import made
from tests.lenses.made_lenses import affine, matrices
from visit_tl import FlowGraph, GraphError, InputError, ModelError
from visit_tl.atlas.row_cache import open_atlas
from visit_tl.cli import app
from visit_tl.graph.io.json_format import from_json
from visit_tl.graph.io.neuronpedia import to_neuronpedia
from visit_tl.graph.node_descriptions import node_facts
from visit_tl.lenses import Lens
from visit_tl.model.facts import revision
from visit_tl.view.page.payload import payload

PROMPT = "a b c d"
REFUSED = {
    "another width": ({0: torch.eye(8)}, "16 wide"),
    "other blocks": (matrices(16, 2), "map of block 1"),
    "a name": (dataclasses.replace(affine(16, 1), model="org/llama"), "it is of 'org/llama'"),
    "a number of blocks": (dataclasses.replace(affine(16, 1), n_layers=9), "of 9 blocks"),
    "no map of a block": ({-1: torch.eye(16)}, "no map of block 0"),
    "no dict, path or function": (3, "a lens is what visit_tl.lenses.load"),
    "a function that fails": (lambda block: 1 / 0, "failed: division by zero"),
    "a function of no matrix": (lambda block: None, "not a tensor of floats"),
    "a block that is none": ({"0": torch.eye(16)}, "by its number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_lens_that_does_not_fit_is_refused_with_the_reason(case):
    lens, said = REFUSED[case]
    for call in (vt.flow_graph, vt.lens_table):
        with pytest.raises(InputError, match=said):
            call(made("gpt2"), PROMPT, lens=lens)


def test_layers_need_the_maps_of_their_own_blocks_and_of_the_one_before():
    lens = Lens("one", {0: torch.eye(16)})
    graph = vt.flow_graph(made("gpt2"), PROMPT, lens=lens, layers=[1])
    assert graph["L1.resid_pre"].rank == vt.flow_graph(made("gpt2"), PROMPT)["L1.resid_pre"].rank
    with pytest.raises(InputError, match="no map of block 0, which these layers need; it has -1"):
        vt.flow_graph(made("gpt2"), PROMPT, lens={-1: torch.eye(16)}, layers=[1])


def test_the_name_of_a_model_is_compared_without_owner_folder_and_case():
    model = made("gpt2")
    for name in ("gpt2", "openai-community/GPT2", "/home/me/models/gpt2/"):
        lens = dataclasses.replace(affine(16, 1), model=name)
        assert vt.lens_table(model, "a b", lens=lens).lens == lens.record


ONE, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="only bridges keep what transformers noted")
def test_a_lens_of_another_revision_is_refused_if_both_are_known(monkeypatch):
    model = made("gpt2")
    of_model = functools.partial(monkeypatch.setattr, model.original_model.config, "_commit_hash")

    def read(said, name="model_revision", model_name="gpt2"):
        lens = dataclasses.replace(affine(16, 1), model=model_name, facts={name: said})
        return vt.lens_table(model, "a b", lens=lens)

    of_model(ONE, raising=False)
    for name in ("model_revision", "base_model_revision"):
        with pytest.raises(InputError, match=f"revision {OTHER} of .* revision {ONE}"):
            read(OTHER, name)
        for said in (ONE, ONE.upper(), ONE[:7], "main", "step3000", None, 3):
            read(said, name)
    read(OTHER, model_name=None)
    with pytest.raises(InputError, match=f"fitted on revision {OTHER[:8]} of 'gpt2'"):
        vt.read(vt.ModelView(model), torch.ones(1, 16), lens=dataclasses.replace(
            affine(16, 1), model="gpt2", facts={"model_revision": OTHER[:8]}))  # fmt: skip
    # Commits of the repositories of two owners say nothing of one another.
    monkeypatch.setattr(model.cfg, "model_name", "me/gpt2")
    read(OTHER, model_name="openai-community/gpt2")
    with pytest.raises(InputError, match="fitted on revision"):
        read(OTHER, model_name="Me/GPT2")
    monkeypatch.setattr(model.original_model.config, "_name_or_path", "", raising=False)
    for unknown in (None, "", 3):
        of_model(unknown)
        read(OTHER)


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="only bridges keep what transformers noted")
def test_the_revision_is_the_commit_that_transformers_read(tmp_path):
    from transformers import AutoModelForCausalLM

    repository = tmp_path / "models--me--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(ONE)
    tiny.hf_llama().save_pretrained(repository / "snapshots" / ONE)
    snapshot = str(repository / "snapshots" / ONE)
    assert revision(tiny.bridged(AutoModelForCausalLM.from_pretrained(snapshot))) == ONE
    hf = AutoModelForCausalLM.from_pretrained("me/small", cache_dir=tmp_path, local_files_only=True)
    found = revision(tiny.bridged(hf))
    if version("transformers").startswith("4."):
        assert found == ONE
    else:  # 5.20 and later note none
        assert found == getattr(hf.config, "_commit_hash", None) and found in (ONE, None)


def test_a_model_that_has_only_weights_has_no_revision():
    assert revision(made("native")) is None and revision(object()) is None


def test_a_lens_of_raw_activations_is_refused_by_a_centred_model_and_matrices_are_not():
    raw = dataclasses.replace(affine(16, 1), raw=True)
    for name in ("gpt2", "llama", "llama-folded"):
        vt.lens_table(made(name), "a b", lens=raw)
    with pytest.raises(InputError, match="centred the residual stream"):
        vt.lens_table(made("gpt2-folded"), "a b", lens=raw)
    vt.lens_table(made("gpt2-folded"), "a b", lens=matrices(16, 1))


def test_an_object_whose_parts_do_not_fit_together_is_refused():
    class Theirs:
        jacobians, d_model, source_layers, metadata = matrices(16, 1), 17, [0], {}

    with pytest.raises(InputError, match="says d_model 17"):
        vt.lens_table(made("gpt2"), "a b", lens=Theirs())
    Theirs.d_model, Theirs.metadata = 16, {"target_layer": 5}
    with pytest.raises(InputError, match="of 6 blocks, the model has 2"):
        vt.lens_table(made("gpt2"), "a b", lens=Theirs())


def test_a_fit_is_transformer_lens_own():
    tools = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(tools, "JacobianLens"):
        pytest.skip("JacobianLens came with TransformerLens 4")
    texts = ["a b c d e ab cd a b c", "e d c b a e d c b"]
    sizes = {"max_seq_len": 20, "corpus": "letters"}
    theirs = tools.JacobianLens.fit(
        made("gpt2"), texts, skip_first_positions=2, show_progress=False, **sizes
    )
    lens = vt.lenses.fit(made("gpt2"), texts, skip_first=2, verbose=False, **sizes)
    torch.testing.assert_close(lens.maps[0], theirs.jacobians[0], atol=1e-6, rtol=1e-5)
    assert lens.model == "gpt2" and lens.n_layers == 2 and lens.facts["n_prompts"] == 2
    with pytest.raises(ModelError, match="raw TransformerBridge"):
        vt.lenses.fit(object.__new__(type("Other", (), {})), texts, corpus="x")
    with pytest.raises(InputError, match="fitted no Jacobian lens: compatibility mode"):
        vt.lenses.fit(made("gpt2-folded"), texts, corpus="x", verbose=False)


def test_a_model_that_cannot_be_run_is_not_fitted(monkeypatch):
    tools = pytest.importorskip("transformer_lens.tools.analysis")
    if not hasattr(tools, "JacobianLens"):
        pytest.skip("JacobianLens came with TransformerLens 4")

    def fail(self, *args, **kwargs):
        raise RuntimeError("strides should be multiple of 16 bytes")

    model = tiny.gpt2(seed=5)
    monkeypatch.setattr(type(model.blocks[0].attn), "forward", fail)
    with pytest.raises(ModelError, match="run of the model failed: strides should be"):
        vt.lenses.fit(model, ["a b c d e ab cd a b c"], corpus="x", skip_first=2, verbose=False)


def test_a_release_without_jacobian_lenses_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformer_lens.tools.analysis", None)
    with pytest.raises(ModelError, match="has no JacobianLens"):
        vt.lenses.fit(made("gpt2"), ["a b"], corpus="x")


def test_files_keep_which_lens_read_the_graph_and_only_if_it_is_another(tmp_path):
    model, lens = made("gpt2"), affine(16, 1)
    graph = vt.flow_graph(model, PROMPT, lens=lens)
    assert FlowGraph.load(graph.save(tmp_path / "g.json")) == graph
    data = json.loads((tmp_path / "g.json").read_text())
    wanted = {"name": "affine", "blocks": [-1, 0], "digest": lens.digest}
    assert data["lens"] == wanted and data["schema"] == 3
    assert "lens" not in vt.flow_graph(model, PROMPT).to_json()
    for changed, said in (
        ({"blocks": [0, -1]}, "has the blocks"),
        ({"blocks": []}, "has the blocks"),
        ({"blocks": [-1]}, "do not fit the layers"),
        ({"blocks": [0, 1]}, "do not fit the layers"),
        ({"name": ""}, "has the blocks"),
        ({"digest": 3}, "digest"),
    ):
        with pytest.raises(GraphError, match=said):
            from_json({**data, "lens": {**wanted, **changed}})
    assert graph.to_networkx().graph["lens"] == "affine"


def test_graphs_of_two_lenses_are_not_compared():
    model, lens = made("gpt2"), affine(16, 1)
    graph, plain = vt.flow_graph(model, PROMPT, lens=lens), vt.flow_graph(model, PROMPT)
    other = vt.flow_graph(model, PROMPT, lens=dataclasses.replace(affine(16, 1, seed=9)))
    for pair in ((graph, plain), (plain, graph), (graph, other)):
        with pytest.raises(GraphError, match="read by different lenses"):
            pair[0].diff(pair[1])
    assert graph.diff(vt.flow_graph(model, PROMPT, lens=lens)).changed == ()


def test_every_view_says_which_lens_read_the_graph(tmp_path):
    graph = vt.flow_graph(made("gpt2"), PROMPT, lens=Lens("<b>mine", matrices(16, 1)))
    assert "lens        <b>mine; the embedding, queries, keys" in graph.text()
    assert "lens: &lt;b&gt;mine; the embedding" in graph.figure().layout.title.text
    page = graph.save(tmp_path / "g.html").read_text()
    assert "&lt;b&gt;mine; the embedding" in page and "<b>mine" not in page
    table = vt.lens_table(made("gpt2"), PROMPT, lens={0: torch.eye(16)})
    assert "lens        own lens; the embedding by the logit lens" in table.text()
    assert "lens: own lens; the embedding" in table.figure().layout.title.text
    assert "lens " not in vt.lens_table(made("gpt2"), PROMPT).text()


def test_every_node_says_what_read_it(tmp_path):
    own = Lens("<b>mine", matrices(16, 1))
    graph = vt.flow_graph(made("gpt2"), PROMPT, lens=own, layers="all")
    wanted = {
        "L0.resid_pre": "the logit lens: no map carries it",
        "L0.resid_post": "<b>mine, by the map of block 0",
        "L0H0": "<b>mine, by the map of block 0",
        "L1.resid_pre": "<b>mine, by the map of block 0",
        "L1H1": "<b>mine, as it is: it is at the last block's output",
        "logits": "<b>mine, as it is: it is at the last block's output",
        "L0.attn_in": "the logit lens: no map carries it",
        "L1.mlp_in": "the logit lens: no map carries it",
    }
    for kind in ("head_query", "key", "neuron_key"):
        wanted |= {str(n.id): "the logit lens: no map carries it" for n in graph.of_kind(kind)}
    for kind in ("value", "neuron"):
        nodes = [n.id for n in graph.of_kind(kind) if n.layer == 0]
        wanted |= {str(i): "<b>mine, by the map of block 0" for i in nodes}
    data = payload(graph)
    said = dict(zip(map(str, (n.id for n in graph)), data["nodes"]["lens"], strict=True))
    for node, words in wanted.items():
        assert f"read by {words}" in node_facts(graph[node], graph)
        assert data["texts"][said[node]] == words, node
    carried = affine(16, 1)
    assert carried.blocks[0] == -1
    graph = vt.flow_graph(made("gpt2"), PROMPT, lens=carried)
    facts = node_facts(graph["L0.resid_pre"], graph)
    assert "read by affine, by the map of the embedding" in facts
    about = to_neuronpedia(graph, "a")["metadata"]["info"]["description"]
    assert "read by affine; queries, keys" in about and "by the logit lens. A link's" in about
    plain = vt.flow_graph(made("gpt2"), PROMPT)
    page = plain.save(tmp_path / "g.html").read_text()
    assert "LENS" not in page and "read by" not in page and "lens" not in payload(plain)["nodes"]
    assert not any("read by" in fact for node in plain for fact in node_facts(node, plain))


def test_a_graph_does_not_hold_the_maps_that_its_lens_table_needs():
    model, lens = made("gpt2"), affine(16, 1)
    graph = vt.flow_graph(model, PROMPT, lens=lens)
    with pytest.raises(GraphError, match="pass it as lens="):
        graph.lens_table()
    assert graph.lens_table(lens=lens).lens == lens.record
    assert graph.lens_table(lens=None).lens is None
    cell, node = graph.lens_table(lens=lens)["L0.resid_post"], graph["L0.resid_post"]
    assert cell.rank == node.rank and cell.prob == pytest.approx(node.prob, rel=1e-4)


def test_rows_of_weights_are_kept_apart_by_lens(tmp_path, monkeypatch):
    from visit_tl.atlas import row_cache

    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path))
    monkeypatch.setenv("VISIT_TL_ATLAS", "off")
    model = made("gpt2")
    lenses = (None, affine(16, 1), affine(16, 1, seed=9))
    wanted = [vt.flow_graph(model, PROMPT, lens=lens) for lens in lenses]
    monkeypatch.setenv("VISIT_TL_ATLAS", "disk")
    monkeypatch.setattr(row_cache, "_WORTH", 0)
    view = vt.ModelView(model)
    folders = {open_atlas(view, 5, lens).kept.path.name for lens in lenses}
    assert len(folders) == 3
    for _ in range(2):  # the second time they are looked up on disk
        row_cache.forget()
        for lens, own in zip(lenses, wanted, strict=True):
            found = vt.flow_graph(model, PROMPT, lens=lens)
            for node, other in zip(found, own, strict=True):
                assert (node.id, node.rank) == (other.id, other.rank)
                assert node.prob == pytest.approx(other.prob, rel=1e-4, abs=1e-7)
    row_cache.forget()


def test_the_command_line_reads_a_graph_through_a_file(tmp_path, monkeypatch):
    import visit_tl.model.load as load

    monkeypatch.setattr(load, "load_model", lambda name, **_: made("gpt2"))
    lens = affine(16, 1)
    path, out = vt.lenses.save(lens, tmp_path / "l.safetensors"), tmp_path / "g.json"
    asked = ["graph", PROMPT, "--json", str(out), "--lens"]
    result = CliRunner().invoke(app, [*asked, str(path)])
    assert result.exit_code == 0, result.output
    assert vt.FlowGraph.load(out) == vt.flow_graph(made("gpt2"), PROMPT, lens=lens)
    result = CliRunner().invoke(app, [*asked, str(tmp_path / "absent.pt")])
    assert result.exit_code == 1 and "cannot be read" in result.output
