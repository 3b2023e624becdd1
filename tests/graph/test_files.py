"""Files are written whole or not at all, and never over what is not ours."""

import json
import os
from dataclasses import replace

import pytest

import visit_tl as vt
from visit_tl import FileError, FlowGraph, GraphError, InputError, VisitError, files, saving


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c", heads=1, neurons=2)


# Each is made again byte by byte, and knows itself for ours.
MARKED = ("g.json", "g.html", "g.svg", "g.graphml", "g.dot", "g.csv")
TEXTS = {
    "g.html": "<!doctype html>",
    "g.svg": "<?xml",
    "g.graphml": "<?xml",
    "g.dot": "// made by visit_tl\ndigraph",
    "g.csv": "id,label,kind,",
}


@pytest.mark.parametrize("name", MARKED)
def test_a_graph_replaces_a_graph_without_asking(graph, tmp_path, name):
    path = graph.save(tmp_path / name)
    assert path == tmp_path / name
    before = path.read_bytes()
    assert before.decode().startswith(TEXTS.get(name, '{"schema": '))
    assert graph.save(str(path)).read_bytes() == before


def test_the_json_for_other_viewers_and_our_own_replace_each_other(graph, tmp_path):
    path = graph.save(tmp_path / "g.json", schema="neuronpedia")
    graph.save(path, schema="neuronpedia")
    assert FlowGraph.load(graph.save(path)) == graph
    graph.save(path, schema="neuronpedia")
    with pytest.raises(GraphError, match="for the viewers of Neuronpedia and circuit-tracer"):
        FlowGraph.load(path)


FOREIGN = {
    "notes.json": "my thesis",
    "schema.json": '{"schema": 1, "name": "a reference circuit"}',
    "page.html": "my thesis",
    "drawing.svg": "<svg xmlns='http://www.w3.org/2000/svg'><!-- not made by visit_tl --></svg>",
    "other.graphml": "<?xml version='1.0'?>\n<graphml/>",
    "other.dot": "digraph { a -> b }",
    "other.csv": "id,label\n1,x\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_not_ours_is_kept_unless_told_otherwise(graph, tmp_path, name):
    path = tmp_path / name
    path.write_text(FOREIGN[name])
    with pytest.raises(FileError, match=r"exists and is no visit_tl graph; .*--force"):
        graph.save(path)
    assert path.read_text() == FOREIGN[name]
    graph.save(path, overwrite=True)
    assert path.read_text() != FOREIGN[name]
    graph.save(path)


def test_a_file_that_cannot_say_who_made_it_is_kept_unless_told_otherwise(graph, tmp_path):
    pytest.importorskip("pyarrow")
    path = graph.save(tmp_path / "g.parquet")
    with pytest.raises(FileError, match=r"a \.parquet file does not say who made it; .*--force"):
        graph.save(path)
    graph.save(path, overwrite=True)
    for name in ("g.png", "g.pdf"):
        (tmp_path / name).write_bytes(b"a picture")
        with pytest.raises(FileError, match=rf"{name} exists and a \.\w+ file does not say"):
            graph.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"a picture"


def test_of_two_tables_neither_is_written_over_a_foreign_file(graph, tmp_path):
    foreign = tmp_path / "g.edges.csv"
    foreign.write_text("my,edges\n")
    with pytest.raises(FileError, match=r"g\.edges\.csv exists and is no visit_tl graph"):
        graph.save(tmp_path / "g.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["g.edges.csv"]
    assert foreign.read_text() == "my,edges\n"
    # Nor is a table of nodes written over a table of edges.
    edges = graph.save(tmp_path / "h.csv").with_name("h.edges.csv")
    with pytest.raises(FileError, match=r"h\.edges\.csv exists and is no visit_tl graph"):
        graph.save(edges)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "g.txt",
            r"'g\.txt' has the suffix '\.txt'; this is saved as \.html, \.svg, \.png, \.pdf, "
            r"\.json, \.graphml, \.dot, \.csv or \.parquet$",
        ),
        ("g", "has the suffix ''"),
        ("none/g.json", "the folder .*none does not exist; make it first"),
        ("none/g.svg", "the folder .*none does not exist; make it first"),
    ],
)
def test_paths_that_cannot_be_written_are_refused(graph, tmp_path, path, message):
    with pytest.raises(FileError, match=message):
        graph.save(tmp_path / path)


def test_what_a_file_has_not_is_not_asked_of_it(graph, tmp_path):
    with pytest.raises(InputError, match=r"schema visit_tl or neuronpedia, .* got 'gephi' for"):
        graph.save(tmp_path / "g.json", schema="gephi")
    with pytest.raises(InputError, match=r"no other file has one; got 'neuronpedia' for 'g\.svg'"):
        graph.save(tmp_path / "g.svg", schema="neuronpedia")
    with pytest.raises(InputError, match=r"a \.dot file holds all of a graph; save g\.subgraph"):
        graph.save(tmp_path / "g.dot", layers=[1])
    with pytest.raises(InputError, match=r"'pink' is no theme"):
        graph.save(tmp_path / "g.svg", theme="pink")
    assert list(tmp_path.iterdir()) == []


def test_only_json_is_loaded(graph, tmp_path):
    for name, what in (("g.html", "a page"), ("g.svg", r"a \.svg file")):
        with pytest.raises(GraphError, match=rf"is {what} to look at .* from their \.json"):
            FlowGraph.load(graph.save(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"schema": ' * 10**5,
        b'{"schema": NaN}',
        b'{"schema": 2, "schema": 2}',
        b"9" * 10**5,
        b"\xff\xfe",
        b"\x00",
        b"",
        b"null",
    ],
    ids=[
        "deep",
        "deep objects",
        "nan",
        "key twice",
        "long integer",
        "utf-16",
        "nul",
        "empty",
        "null",
    ],
)
def test_a_hostile_file_is_refused_with_an_error_of_the_package(tmp_path, content):
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with pytest.raises(VisitError):
        FlowGraph.load(path)


def test_an_integer_that_no_float_holds_and_a_path_with_nul_are_refused(graph, tmp_path):
    path = graph.save(tmp_path / "graph.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    data["edges"][0]["score"] = 10**400
    path.write_text(json.dumps(data))
    with pytest.raises(GraphError, match="not a finite number"):
        FlowGraph.load(path)
    with pytest.raises(InputError, match="path must be a path, .* which holds a NUL character"):
        FlowGraph.load("a\0b.json")


def test_a_byte_order_mark_is_no_fault(graph, tmp_path):
    path = graph.save(tmp_path / "graph.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert FlowGraph.load(path) == graph


def test_a_number_that_json_has_not_is_a_refusal_and_leaves_no_file(graph, tmp_path):
    first, *rest = graph.nodes
    broken = replace(graph, nodes=(replace(first, norm=float("nan")), *rest))
    with pytest.raises(GraphError, match="a number that is not finite, which JSON cannot hold"):
        broken.save(tmp_path / "g.json")
    assert list(tmp_path.iterdir()) == []


def test_a_lone_surrogate_survives_the_round_trip(graph, tmp_path):
    odd = replace(graph, prompt="\ud800\x00 \u2028", tokens=("\udfff", *graph.tokens[1:]))
    path = odd.save(tmp_path / "g.json")
    assert FlowGraph.load(path) == odd
    assert json.loads(path.read_text())["prompt"] == "\ud800\x00 \u2028"


def test_what_is_not_installed_is_said_before_the_work_is_done(graph, tmp_path, monkeypatch):
    import importlib.util
    from importlib import metadata

    def missing(name, *_):
        if name in ("pyarrow", "kaleido"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    real = metadata.version
    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(FileError, match=r"pip install 'visit-tl\[parquet\]', or .* as \.csv"):
        saving.check(tmp_path / "g.parquet")
    for name in ("g.png", "g.pdf"):
        with pytest.raises(FileError, match=r"is not installed: pip install 'visit-tl\[image\]'"):
            saving.check(tmp_path / name)
    monkeypatch.setattr(metadata, "version", lambda name: "0.2.1")
    with pytest.raises(FileError, match=r"kaleido 1\.0 or newer, which is 0\.2\.1, which is too"):
        graph.save(tmp_path / "g.png")


def test_a_folder_is_no_file(graph, tmp_path):
    (tmp_path / "g.json").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        graph.save(tmp_path / "g.json")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(graph, tmp_path, monkeypatch):
    path = graph.save(tmp_path / "g.json")
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError, match="cannot be written: No space left on device"):
        graph.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["g.json"]


def test_of_two_files_none_is_moved_before_both_are_written(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"old")
    with pytest.raises(FileError, match=r"none/b cannot be written: No such file"):
        files.write_all({first: b"new", tmp_path / "none" / "b": b"new"})
    assert first.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    files.write_all({first: b"new", second: b"too"})
    assert [p.read_bytes() for p in (first, second)] == [b"new", b"too"]


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "g.json", b"x")
    assert os.listdir(tmp_path) == []


def test_a_saved_file_has_the_rights_that_a_new_file_has(graph, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (graph.save(tmp_path / "g.json").stat().st_mode & 0o777) == plain.stat().st_mode & 0o777
