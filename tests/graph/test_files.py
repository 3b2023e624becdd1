"""Files are written whole or not at all, and never over what is not ours."""

import os

import pytest

import visit_tl as vt
from visit_tl import FileError
from visit_tl.graph import files


@pytest.fixture(scope="module")
def graph():
    from tests.conftest import made

    return vt.flow_graph(made("native"), "a b c", heads=1, neurons=2)


def test_a_graph_replaces_a_graph_without_asking(graph, tmp_path):
    path = graph.save(tmp_path / "g.json")
    before = path.read_bytes()
    assert graph.save(path).read_bytes() == before


@pytest.mark.parametrize("name", ["notes.json", "page.html"])
def test_a_file_that_is_not_ours_is_kept_unless_told_otherwise(graph, tmp_path, name):
    path = tmp_path / name
    path.write_text("my thesis")
    with pytest.raises(FileError, match=r"exists and is no visit_tl graph; .*--force"):
        graph.save(path)
    assert path.read_text() == "my thesis"
    graph.save(path, overwrite=True)
    assert path.read_text() != "my thesis"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("g.txt", r"'g\.txt' has the suffix '\.txt'; this is saved as \.json or \.html"),
        ("g", "has the suffix ''"),
        ("none/g.json", "the folder .*none does not exist; make it first"),
    ],
)
def test_paths_that_cannot_be_written_are_refused(graph, tmp_path, path, message):
    with pytest.raises(FileError, match=message):
        graph.save(tmp_path / path)


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
