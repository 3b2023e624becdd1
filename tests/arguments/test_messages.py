"""What is refused says which argument of which call, what is taken, and what was given."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

import visit_tl as vt
from visit_tl import releases
from visit_tl.arguments import releases_note
from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Model

A_TYPE, A_VALUE = vt.ArgumentTypeError, vt.ArgumentValueError


@pytest.fixture(scope="module")
def graph():
    from tests import tiny

    return vt.flow_graph(tiny.native(), "a b", layers=[1], heads=1, neurons=1)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"k": None}, A_TYPE,
         "flow_graph: k must be an integer of at least 1, got None; for example k=5"),
        ({"k": 0}, A_VALUE,
         "flow_graph: k must be an integer of at least 1, got 0; for example k=5"),
        ({"k": True}, A_TYPE,
         "flow_graph: k must be an integer of at least 1, got True; for example k=5"),
        ({"neurons": (1, 2, 3)}, A_VALUE,
         "flow_graph: neurons must be an integer of at least 0, or two of them, (high, low), or "
         "None, got (1, 2, 3); for example neurons=(18, 7)"),
        ({"positions": [0, "x"]}, A_TYPE,
         "flow_graph: positions must be a position, a list of positions or 'all', or None, got "
         "[0, 'x'], whose item [1] is 'x'; for example positions=[0, -1]"),
        ({"positions": itertools.count()}, A_VALUE,
         "flow_graph: positions must be a position, a list of positions or 'all', or None, got a "
         "count, which gives more than 10000000 items; for example positions=[0, -1]"),
        ({"layers": range(10**30)}, A_VALUE,
         "flow_graph: layers must be a layer, a list of layers or 'all', or None, got range(0, "
         "1000000000000000000000000000000), which gives more than 10000000 items; for example "
         "layers=[0, 1]"),
        ({"target": torch.tensor([1, 2])}, A_TYPE,
         "flow_graph: target must be one token, as text or as id, or None, got a tensor of shape "
         "[2] (torch.int64); for example target=' Tokyo'"),
        ({"prepend_bos": "yes"}, A_TYPE,
         "flow_graph: prepend_bos must be True or False, or None, got 'yes'; for example "
         "prepend_bos=True"),
        ({"fwd_hooks": [print]}, A_TYPE,
         "flow_graph: fwd_hooks must be a list of pairs, the name of a hook and a function, or "
         "None, got [the function print], whose item [0] is the function print; for example "
         "fwd_hooks=[('blocks.0.hook_attn_out', f)]"),
    ],
)  # fmt: skip
def test_an_argument_of_flow_graph(given, kind, message):
    with pytest.raises(kind) as caught:
        vt.flow_graph(None, "a", **given)  # arguments are read before the model
    assert str(caught.value) == message


def test_what_methods_refuse_names_their_class(graph):
    with pytest.raises(A_TYPE) as caught:
        graph[None]
    assert (
        str(caught.value)
        == "FlowGraph[...]: node must be the id of a node, got None; for example 'L9H6'"
    )
    with pytest.raises(A_TYPE, match=r"^FlowGraph\.save: path must be a path, got 5; for example"):
        graph.save(5)
    with pytest.raises(A_TYPE, match=r"^FlowGraph\.diff: other must be a FlowGraph, got 'x'$"):
        graph.diff("x")
    with pytest.raises(A_VALUE, match="which holds a NUL character"):
        graph.save("a\0.json")
    for long in ("a" * 300 + ".json", "a/" * 3000 + "b.json", "~/" + "a" * 300 + ".json"):
        with pytest.raises(A_VALUE, match="which is longer than a path may be"):
            graph.save(long)


def test_the_errors_are_also_pythons_own(graph):
    assert issubclass(A_TYPE, TypeError) and issubclass(A_VALUE, ValueError)
    assert issubclass(A_TYPE, vt.InputError) and issubclass(A_VALUE, vt.InputError)
    with pytest.raises(TypeError, match="kk"):
        vt.flow_graph(None, "a", kk=5)
    with pytest.raises(TypeError, match="missing .*argument"):
        vt.flow_graph()
    with pytest.raises(TypeError, match="positional arguments"):
        vt.flow_graph(None, "a", "b")


def test_what_was_given_is_never_shown_at_length():
    with pytest.raises(A_TYPE) as caught:
        vt.flow_graph(None, "a", k="long" * 10_000)
    assert len(str(caught.value)) < 200
    with pytest.raises(A_TYPE, match="got a Sequential;"):
        vt.flow_graph(None, "a", k=torch.nn.Sequential(*[torch.nn.Linear(2, 2)] * 50))


def test_not_a_number_is_no_number():
    with pytest.raises(A_VALUE, match="threshold must be a finite number, or None, got nan"):
        vt.circuits.compare({}, "ioi-wang-2022", threshold=float("nan"))


# --- newer releases -------------------------------------------------------------------------------

NOTE = "Installed is transformers 99.0"


@checked
def fails(model: Model, error: Exception, k: Count = 1):
    """A call whose model does what it should not."""
    raise error


@pytest.fixture
def newer(monkeypatch):
    monkeypatch.setattr(releases, "newer", lambda: NOTE)


def test_an_unexpected_error_says_that_a_library_is_newer(newer):
    with pytest.raises(AttributeError) as caught:
        fails(None, AttributeError("no attribute 'rotary'"))
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == [NOTE] and str(caught.value) == "no attribute 'rotary'"
    else:
        assert str(caught.value) == f"no attribute 'rotary'\n{NOTE}"


def test_a_decomposition_that_does_not_hold_says_so_in_its_message(newer):
    with pytest.raises(vt.DecompositionError) as caught:
        fails(None, vt.DecompositionError("heads do not sum"))
    assert str(caught.value) == f"heads do not sum\n{NOTE}"


def test_python_without_notes_has_it_in_the_message(newer, monkeypatch):
    monkeypatch.setattr(releases_note.sys, "version_info", (3, 10))
    error = KeyError("blocks.0.hook_q")
    releases_note.note_newer_releases(error)
    assert error.args == (f"blocks.0.hook_q\n{NOTE}",)


def test_the_note_is_there_once_and_not_on_what_is_refused_on_purpose(newer):
    error = vt.DecompositionError("heads do not sum")
    for _ in range(2):
        releases_note.note_newer_releases(error)
    assert str(error).count(NOTE) == 1
    with pytest.raises(vt.InputError, match="^no such layer$"):
        fails(None, vt.InputError("no such layer"))


def test_with_the_tested_releases_errors_are_as_they_were(monkeypatch):
    monkeypatch.setattr(releases, "newer", lambda: None)
    with pytest.raises(AttributeError) as caught:
        fails(None, AttributeError("gone"))
    assert not getattr(caught.value, "__notes__", ())
