"""A graph is the same whether its rows of weights are read or looked up, and is read but once."""

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.architectures import ARCHITECTURES
from visit_tl import InputError, ModelView
from visit_tl.atlas.row_cache import SETTING, Atlas, open_atlas
from visit_tl.atlas.weight_rows import KINDS, Places
from visit_tl.graph.ids import NodeId

STATIC = ("attn_neuron", "neuron_key", "neuron")


def static(graph):
    return [node for node in graph if node.kind in STATIC]


def off(monkeypatch, *args, **options):
    with monkeypatch.context() as patch:
        patch.setenv(SETTING, "off")
        return vt.flow_graph(*args, **options)


def test_a_graph_is_the_same_cold_warm_from_disk_and_without_an_atlas(
    model, kept, forget, monkeypatch
):
    wanted = off(monkeypatch, model, "a b c a", target="b")
    cold = vt.flow_graph(model, "a b c a", target="b")
    warm = vt.flow_graph(model, "a b c a", target="b")
    forget()
    again = vt.flow_graph(model, "a b c a", target="b")
    assert static(wanted)
    assert cold == warm == again == wanted


def test_a_row_is_read_once_for_a_target(native, kept, forget, reads):
    graph = vt.flow_graph(native, "a b c a", target="b")
    n = len(static(graph))
    assert reads == [len(graph) - n, n]
    reads.clear()
    assert vt.flow_graph(native, "a b c a", target="b") == graph
    forget()
    assert vt.flow_graph(native, "a b c a", target="b") == graph
    assert reads == [len(graph) - n] * 2
    reads.clear()
    vt.flow_graph(native, "a b c a", target="c")
    assert reads == [len(graph) - n, n]


def test_prompts_that_are_read_together_read_no_row_twice(native, kept, reads):
    prompts, targets = ["a b c a", "c b a b", "a b c a"], ["b", "c", "d"]
    together = vt.flow_graphs(native, prompts, target=targets, verbose=False)
    rows = {node.id for graph in together for node in static(graph)}
    assert reads == [*(len(g) - len(static(g)) for g in together), len(rows)]
    assert together == [
        vt.flow_graph(native, prompt, target=target)
        for prompt, target in zip(prompts, targets, strict=True)
    ]


def test_rows_that_are_read_in_pieces_read_the_same(native, kept, monkeypatch):
    from visit_tl.atlas import row_cache as rooms

    asked = {"target": ["b", "c", "b"], "verbose": False}
    prompts = ["a b c a", "c b a b", "c c a"]
    whole = vt.flow_graphs(native, prompts, **asked)
    vt.atlas.clear()
    rooms.forget()
    monkeypatch.setattr(rooms, "_PIECE", 7)
    assert vt.flow_graphs(native, prompts, **asked) == whole


def test_graphs_that_are_read_together_share_the_words_of_rows(native, kept):
    one, two = vt.flow_graphs(native, ["a b c a"] * 2, target=["b", "c"], verbose=False)
    for node in static(one):
        assert two[node.id].top is node.top
        assert two[node.id].bottom is node.bottom


@pytest.mark.parametrize("part", ["W_U", "ln_final", "W_out", "W_in", "W_O"])
def test_weights_that_were_edited_in_place_are_read_anew(kept, monkeypatch, part):
    model = tiny.native(seed=3)
    vt.flow_graph(model, "a b c a", target="b")
    view = ModelView(model)
    edited = {
        "W_U": view.W_U,
        "ln_final": view.final_norm.weight,
        "W_out": view.weights(1).W_out,
        "W_in": view.weights(1).W_in,
        "W_O": view.weights(0).W_O,
    }[part]
    before = edited.clone()
    edited.data += torch.randn(edited.shape, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(edited, before)
    assert vt.flow_graph(model, "a b c a", target="b") == off(
        monkeypatch, model, "a b c a", target="b"
    )


def test_other_numbers_of_tokens_are_kept_apart(native, kept, monkeypatch):
    for k in (5, 2, 60, 100):
        graph = vt.flow_graph(native, "a b c a", target="b", k=k)
        assert graph == off(monkeypatch, native, "a b c a", target="b", k=k)
    assert len(vt.atlas.info()) == 3  # 60 is the whole vocabulary


@pytest.mark.skipif(not tiny.HAS_BRIDGE, reason="TransformerLens 2.x has no TransformerBridge")
@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if "post-norm" in a.traits])
def test_rows_that_a_post_norm_scales_are_not_static(name, kept, monkeypatch):
    architecture = ARCHITECTURES[name]
    model = architecture.bridge(architecture.hf_model())
    if ModelView(model).norm(0, "ln1_post").kind == "none":
        pytest.skip("this release puts the post-norm elsewhere, and the model is refused")
    sizes = Places.of(ModelView(model)).sizes
    assert (sizes[0], sizes[2]) == (0, 0) and sizes[1] > 0
    for prompt in ([1, 2, 3], [4, 5, 6]):
        assert vt.flow_graph(model, prompt, target=7) == off(monkeypatch, model, prompt, target=7)


@pytest.mark.parametrize("neurons", [0, (0, 1), (3, 0)])
def test_a_graph_of_few_neurons_or_none_is_the_same(model, kept, monkeypatch, neurons):
    asked = {"target": "b", "layers": [0], "neurons": neurons}
    graph = vt.flow_graph(model, "a b c a", **asked)
    assert graph == off(monkeypatch, model, "a b c a", **asked)
    assert bool(static(graph)) == (neurons != 0)


def test_a_place_is_of_one_row_only(native):
    places = Places.of(ModelView(native))
    found = [
        places.place(NodeId(kind, layer, neuron=n))
        for layer in range(places.n_layers)
        for kind, size in zip(KINDS, places.sizes, strict=True)
        for n in range(size)
    ]
    assert found == list(range(len(places)))
    assert places.place(NodeId("neuron", 0, neuron=places.sizes[2])) is None
    assert places.place(NodeId("resid_pre", 0)) is None


def test_a_whole_atlas_leaves_no_row_to_read(native, kept, forget, reads):
    rows, targets = vt.atlas.build(native, ["b", "c"], verbose=False)
    places = Places.of(ModelView(native))
    assert (rows, targets) == (len(places), 2)
    assert sum(reads) == len(places)
    forget()
    reads.clear()
    for target in ("b", "c"):
        graph = vt.flow_graph(native, "c a b", target=target)
        assert reads.pop() == len(graph) - len(static(graph)) and not reads


@pytest.mark.parametrize("targets", [[], ["no such token"], [-1]])
def test_an_atlas_of_no_target_is_refused(native, kept, targets):
    with pytest.raises(InputError):
        vt.atlas.build(native, targets, verbose=False)


def test_an_atlas_that_would_keep_nothing_is_refused(native, kept, monkeypatch):
    monkeypatch.setenv(SETTING, "off")
    with pytest.raises(InputError, match="nothing is kept of native"):
        vt.atlas.build(native, ["b"], verbose=False)


def test_an_unknown_setting_is_named(native, kept, monkeypatch):
    monkeypatch.setenv(SETTING, "sometimes")
    with pytest.raises(InputError, match="VISIT_TL_ATLAS is 'sometimes'; it can be"):
        vt.flow_graph(native, "a b")


def test_small_vocabularies_are_not_kept(native, kept, monkeypatch):
    from visit_tl.atlas import row_cache as rooms

    monkeypatch.setattr(rooms, "_WORTH", 2**22)
    assert open_atlas(ModelView(native), 5) is None


def test_memory_is_bounded_and_what_is_forgotten_is_read_again(native, kept, monkeypatch):
    from visit_tl.atlas import row_cache as rooms

    monkeypatch.setattr(rooms, "_IN_MEMORY", 1)
    view = ModelView(native)
    places = Places.of(view)
    atlas = Atlas(places, 3, None)
    rows = view.weights(0).W_out[:4]
    at = np.array([places.place(NodeId("neuron", 0, neuron=n)) for n in range(4)])
    asked = rows, at, np.arange(4), np.array([1, 2, 3, 1])
    first = atlas.read(view, *asked)
    assert len(atlas._sheets) == 1
    second = atlas.read(view, *asked)
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])
