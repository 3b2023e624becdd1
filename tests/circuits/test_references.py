"""The references that ship: counts as published; files of one's own, and what is wrong in them."""

from __future__ import annotations

import copy
import json
import re

import pytest

from visit_tl import circuits
from visit_tl.circuits import Edge, Part, Reference, available, load
from visit_tl.circuits.known_circuits import codings_of
from visit_tl.errors import FileError, GraphError, InputError
from visit_tl.graph.circuit_edges import Shape, inside, model_edges

# Name, layers x heads, heads, MLPs, edges.
SHIPPED = [
    ("colored-objects-merullo-2024", (24, 16), 10, 0, 0),
    ("docstring-acdc-24", (4, 8), 6, 0, 24),
    ("docstring-acdc-37", (4, 8), 6, 0, 37),
    ("docstring-heimersheim-2023", (4, 8), 8, 0, 0),
    ("gendered-pronoun-mathwin-2023", (12, 12), 5, 6, 0),
    ("greater-than-acdc-235", (12, 12), 9, 12, 235),
    ("greater-than-acdc-262", (12, 12), 9, 12, 262),
    ("greater-than-hanna-2023", (12, 12), 10, 8, 0),
    ("greater-than-hanna-2024", (12, 12), 11, 8, 0),
    ("ioi-acdc-1041", (12, 12), 26, 12, 1041),
    ("ioi-acdc-182", (12, 12), 26, 0, 182),
    ("ioi-acdc-963", (12, 12), 26, 12, 963),
    ("ioi-core-23", (12, 12), 23, 0, 0),
    ("ioi-merullo-2024", (24, 16), 11, 0, 0),
    ("ioi-naive", (12, 12), 13, 0, 0),
    ("ioi-wang-2022", (12, 12), 26, 0, 0),
    ("tracr-hist-zero", (1, 1), 1, 1, 0),
    ("tracr-reverse-resample", (4, 1), 1, 0, 2),
    ("tracr-reverse-zero", (4, 1), 2, 3, 10),
    ("tracr-sort-zero", (3, 1), 2, 2, 0),
    ("tracr-xproportion-resample", (2, 1), 1, 1, 3),
    ("tracr-xproportion-zero", (2, 1), 1, 1, 5),
]


def test_what_ships_is_listed():
    assert available() == tuple(name for name, *_ in SHIPPED)


@pytest.mark.parametrize(("name", "shape", "heads", "mlps", "edges"), SHIPPED)
def test_the_counts_of_each_reference(name, shape, heads, mlps, edges):
    found = load(name)
    assert isinstance(found, Reference)
    assert found.name == name
    assert (found.n_layers, found.n_heads) == shape
    assert (len(found.heads), len(found.mlps), len(found.edges)) == (heads, mlps, edges)
    assert found.sources
    assert found.coding
    assert load(name) is found


def heads(*names):
    return {Part.parse(name) for name in names}


def test_the_26_heads_of_wang_et_al():
    found = load("ioi-wang-2022")
    assert {name: len(own) for name, own in found.classes.items()} == {
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
        "s-inhibition": 4,
        "induction": 4,
        "duplicate token": 3,
        "previous token": 2,
    }
    assert set(found.classes["name mover"]) == heads("9.9", "10.0", "9.6")
    assert set(found.classes["negative name mover"]) == heads("10.7", "11.10")
    assert set(found.classes["s-inhibition"]) == heads("7.3", "7.9", "8.6", "8.10")
    assert found.class_of[Part.parse("a4.h11")] == "previous token"
    assert found.prompt["bos"] is False
    assert [head.order for head in found.heads] == sorted(head.order for head in found.heads)


def test_the_variants_of_ioi_are_parts_of_the_whole():
    whole = load("ioi-wang-2022")
    assert set(whole.heads) - set(load("ioi-core-23").heads) == heads("5.8", "5.9", "0.10")
    for name in ("ioi-core-23", "ioi-naive"):
        part = load(name)
        assert all(whole.class_of[head] == part.class_of[head] for head in part.heads)
    for name in ("ioi-acdc-182", "ioi-acdc-963", "ioi-acdc-1041"):
        assert load(name).classes == whole.classes


def test_the_codings_of_ioi_by_acdc_hold_each_other():
    small, middle, large = (set(load(f"ioi-acdc-{n}").edges) for n in (182, 963, 1041))
    assert small < middle < large
    ends = ("input", "logits")
    touching = [e for e in small if e.source.kind in ends or e.target.kind in ends]
    # 58 and 124: the decomposition in ACDC's Figure 14.
    assert (len(touching), len(small) - len(touching)) == (58, 124)
    assert all(
        "mlp" in (e.source.kind, e.target.kind) or str(e) == "input->logits" for e in middle - small
    )
    assert len(large - middle) == 78 == sum(e.internal for e in large)


@pytest.mark.parametrize(
    ("name", "there", "absent"),
    [
        (
            "ioi-acdc-182",
            ("a2.h2->a5.h5<k>", "a7.h3->a9.h9<q>", "a0.h1->a7.h3<v>", "a11.h10->logits"),
            ("a2.h2->a5.h5<q>", "a7.h3->a9.h9<k>", "a5.h5->a6.h9<k>", "a4.h11->logits"),
        ),
        (
            "ioi-acdc-963",
            ("a0.h1->m0", "m10->a11.h2<q>", "m11->logits", "a9.h9->m9", "input->logits"),
            ("m10->a11.h0<q>", "a9.h8->m9", "a0.h1->logits", "a0.h2->m0"),
        ),
        (
            "greater-than-acdc-235",
            ("a0.h1->m3", "m4->a5.h5<q>", "m7->m8", "m8->a9.h1<q>", "a9.h1->m9", "m0->a5.h5<v>"),
            ("a0.h3->m0", "m4->a5.h5<k>", "m7->m9", "a8.h8->m8", "input->m4", "m7->logits"),
        ),
        (
            "docstring-acdc-24",
            ("a1.h4->a3.h0<q>", "input->a2.h0<q>"),
            ("a1.h4->a3.h0<k>", "input->logits"),
        ),
        (
            "tracr-reverse-zero",
            ("m2->a3.h0<q>", "input->a3.h0<k>", "m0->m1"),
            ("m1->a3.h0<q>", "m0->m2"),
        ),
    ],
)
def test_edges_that_rules_must_make_and_must_not_make(name, there, absent):
    edges = set(load(name).edges)
    assert {Edge.parse(text) for text in there} <= edges
    assert not {Edge.parse(text) for text in absent} & edges


def test_the_edges_of_the_tracr_truths_under_resampling():
    assert set(map(str, load("tracr-reverse-resample").edges)) == {
        "input->L3H0<v>",
        "L3H0->logits",
    }
    assert set(map(str, load("tracr-xproportion-resample").edges)) == {
        "input->m0",
        "m0->L1H0<v>",
        "L1H0->logits",
    }


def test_internal_edges_are_those_of_the_inputs_in_use():
    for small, large, count in (
        ("docstring-acdc-24", "docstring-acdc-37", 13),
        ("greater-than-acdc-235", "greater-than-acdc-262", 27),
    ):
        more = set(load(large).edges) - set(load(small).edges)
        assert len(more) == count
        assert more == set(inside(load(small).edges))
    assert load("ioi-acdc-1041").internal
    assert not load("ioi-acdc-963").internal


def test_a_model_has_as_many_edges_as_eap_and_acdc_count():
    assert len(model_edges(Shape(12, 12))) == 32491
    assert len(model_edges(Shape(12, 12), True)) == 32923
    assert len(model_edges(Shape(4, 8, mlps=False), True)) == 1377
    for name, *_ in SHIPPED:
        found = load(name)
        if found.edges:
            assert set(found.edges) <= set(model_edges(found.shape, found.internal))


@pytest.mark.parametrize("parallel", [False, True])
def test_the_edges_of_a_model_by_counting(parallel):
    shape = Shape(3, 2, parallel=parallel)
    # Block l reads the input, 2 l heads and l MLPs in 6 places; its MLP 2 heads more in series.
    in_heads = sum(6 * (1 + 3 * layer) for layer in range(3))
    in_mlps = sum(1 + 3 * layer + (0 if parallel else 2) for layer in range(3))
    assert len(model_edges(shape)) == in_heads + in_mlps + 1 + 6 + 3
    edges = model_edges(shape)
    assert [e.order for e in edges] == sorted(e.order for e in edges)
    assert (Edge.parse("a1.h0->m1") in edges) is not parallel


# --- looking -------------------------------------------------------------------------------------


def test_tables_and_text_and_html():
    found = load("greater-than-acdc-235")
    frame = found.to_dataframe()
    assert list(frame.columns) == ["kind", "layer", "head", "class"]
    assert list(frame.loc["L9H1"]) == ["head", 9, 1, "AMID"]
    assert (frame.loc["m8", "class"], len(frame)) == ("MLATE", 21)
    edges = found.edges_dataframe()
    assert list(edges.loc["L0H1->L5H5<k>"]) == ["L0H1", "L5H5", "k", "01", "AMID"]
    assert list(edges.loc["input->m0"])[:2] == ["input", "m0"]
    assert edges["input"].isna().sum() == sum(e.target.kind != "head" for e in found.edges)
    assert len(load("ioi-naive").edges_dataframe()) == 0
    text = found.text()
    assert "9 heads, 12 MLPs, 235 edges" in text
    assert "0305: L0H3, L0H5" in text
    assert "gpt2, 12 layers x 12 heads" in text
    assert "<table>" in found._repr_html_()


def test_codings_of_one_circuit():
    names = {ref.name for ref in codings_of("greater-than")}
    assert names == {name for name in available() if name.startswith("greater-than")}


def test_the_room_imports_only_what_is_asked_for():
    assert circuits.Edge is Edge
    assert circuits.metrics.jaccard([1], [1]) == 1
    assert {"load", "compare", "available", "metrics"} <= set(dir(circuits))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = circuits.nothing


# --- files of one's own --------------------------------------------------------------------------

OWN = {
    "schema": 1,
    "name": "mine",
    "circuit": "mine",
    "coding": "two heads",
    "model": {"name": "small", "n_layers": 3, "n_heads": 2},
    "heads": {"<b>early": ["0.1"], "late": ["a2.h0"]},
    "mlps": {"middle": ["m1"]},
    "edges": {
        "list": ["input->m1"],
        "rules": [
            {"from": ["<b>early", "middle"], "to": ["late"], "inputs": "vk"},
            {"from": ["heads"], "to": ["logits", "mlps"]},
        ],
    },
    "counts": {"heads": 2, "mlps": 1, "edges": 8},
    "sources": ["myself"],
}


def written(tmp_path, data):
    path = tmp_path / "mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_file_of_ones_own(tmp_path):
    path = written(tmp_path, OWN)
    found = load(path)
    assert load(str(path)) == found
    assert list(map(str, found.edges)) == [
        "input->m1",
        "L0H1->m1",
        "L0H1->L2H0<k>",
        "L0H1->L2H0<v>",
        "L0H1->logits",
        "m1->L2H0<k>",
        "m1->L2H0<v>",
        "L2H0->logits",
    ]
    assert found.class_of[Part.parse("0.1")] == "<b>early"
    assert "&lt;b&gt;early" in found._repr_html_()
    assert "<b>" not in found._repr_html_()


def test_side_by_side_blocks_join_no_head_to_its_own_mlp(tmp_path):
    data = copy.deepcopy(OWN) | {"heads": {"all": ["0.0", "1.0"]}, "counts": {}}
    data["edges"] = {"rules": [{"from": ["all"], "to": ["mlps"]}]}
    assert len(load(written(tmp_path, data)).edges) == 2
    data["model"]["parallel"] = True
    assert list(map(str, load(written(tmp_path, data)).edges)) == ["L0H0->m1"]


def changed(path, value):
    data = copy.deepcopy(OWN)
    *way, last = path
    place = data
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), None, "it has no schema"),
        (("schema",), 2, "it has schema 2, but this release of visit_tl reads schema 1"),
        (("schema",), True, "it has schema True"),
        (("name",), None, "name is missing"),
        (("sources",), None, "sources is missing"),
        (("name",), 3, "name must be text, got 3"),
        (("head",), {}, "the file has no 'head'; it may have schema, name"),
        (("model", "n_layers"), 0, "model.n_layers must be an integer from 1 up, got 0"),
        (("model", "n_heads"), True, "model.n_heads must be an integer from 1 up, got True"),
        (("model", "name"), None, "model.name must be text, got None"),
        (("model", "d_model"), 4, "model has no 'd_model'"),
        (("model", "parallel"), 1, "model.parallel must be true or false, got 1"),
        (("heads", "late"), "2.0", "heads.late must be a list, got '2.0'"),
        (("heads", "late"), [2.0], r"heads.late\[0\] must be text, got 2.0"),
        (("heads", "late"), ["m2"], "heads.late: 'm2' is no head"),
        (("heads", "late"), ["2.0", "0.1"], "L0H1 is in '<b>early' and in 'late'"),
        (("heads", "late"), ["3.0", "2.2"], "small has 3 layers x 2 heads, but not L3H0, L2H2"),
        (("heads", "late"), ["x"], "'x' is no part of a circuit"),
        (("heads", "mlps"), ["2.1"], "a class cannot be called 'mlps', a word that edge"),
        (("mlps", "late"), ["m2"], "'late' is the name of a class of heads and of a group of MLPs"),
        (("mlps", "middle"), ["0.0"], "mlps.middle: '0.0' is no mlp"),
        (("edges", "lists"), [], "edges has no 'lists'; it may have rules, list, internal"),
        (("edges", "list"), ["input->m1", "embed->m1"], "edges.list has input->m1 twice"),
        (("edges", "list"), ["a0.h0->m7"], "it has 3 layers x 2 heads, but not m7"),
        (("edges", "list"), ["m1->m0"], "m1->m0 runs against the forward pass"),
        (("edges", "internal"), "yes", "edges.internal must be true or false, got 'yes'"),
        (("edges", "rules", 0), [], r"edges.rules\[0\] must be an object"),
        (("edges", "rules", 0, "to"), None, r"edges.rules\[0\].to must be a list, got None"),
        (("edges", "rules", 0, "into"), [], r"edges.rules\[0\] has no 'into'"),
        (("edges", "rules", 0, "from"), ["erly"], "'erly' is no part of a circuit"),
        (("edges", "rules", 0, "inputs"), "vv", r"edges.rules\[0\].inputs must be letters of qkv"),
        (("edges", "rules", 0, "inputs"), "o", r"must be letters of qkv, got 'o'"),
        (("edges", "rules", 0, "inputs"), None, "heads as targets and must say at which inputs"),
        (("counts", "edges"), 9, "counts.edges is 9, but the file lists 8"),
        (("counts", "head"), 2, "counts has no 'head'; it may have heads, mlps, edges"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, path, value, words):
    file = written(tmp_path, changed(path, value))
    with pytest.raises(GraphError, match=f"the reference {re.escape(str(file))}: .*{words}"):
        load(file)


@pytest.mark.parametrize("text", ["{", "", "\ud83d"])
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode("utf-16", "surrogatepass"))
    with pytest.raises(GraphError, match="is not UTF-8 text|is no JSON"):
        load(path)
    with pytest.raises(GraphError, match="it has no schema, so it is no reference circuit"):
        load(written(tmp_path, "[1]"))


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, '{"a":' * 10**5, '{"schema": NaN}', '{"schema": 1, "schema": 1}', "9" * 10**5],
)
def test_a_hostile_file_is_no_json_or_no_reference(tmp_path, text):
    with pytest.raises(GraphError):
        load(written(tmp_path, text))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    file = written(tmp_path, OWN)
    as_it_was = load(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file) == as_it_was


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="name must be .* a path, .* which holds a NUL character"):
        load("a\0b.json")
    with pytest.raises(FileError, match="none.json cannot be read: No such file"):
        load(tmp_path / "none.json")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'ioi' is no reference circuit; there are colored-ob"):
        load("ioi")
    with pytest.raises(InputError, match=r"ioi-wang-2022.*loaded by the path of its \.json file"):
        load("ioi-wang")


def test_an_attention_only_model_has_no_mlps(tmp_path):
    data = changed(("model", "mlps"), False)
    with pytest.raises(GraphError, match="3 layers x 2 heads and no MLPs, but not m1"):
        load(written(tmp_path, data))
