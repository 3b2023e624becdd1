"""The text view, letter by letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.view.synthetic import HOSTILE, hostile, realistic
from visit_tl.errors import InputError
from visit_tl.escaping import columns, visible
from visit_tl.view.text import WIDTH, text

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["realistic", "hostile"])
def test_it_is_the_same_text_as_ever(name):
    graph = {"realistic": realistic, "hostile": hostile}[name]()
    expected = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert text(graph) == expected, (
        "if the change is meant, write the new text to tests/view/golden"
    )


def test_lines_fit_a_terminal_and_show_every_character():
    for graph in (realistic(), hostile()):
        lines = text(graph).splitlines()
        assert max(map(columns, lines)) <= WIDTH
        assert all(line == line.rstrip() for line in lines)
        assert all(line.replace(" ", "") == "" or visible(line.replace(" ", "x")) for line in lines)
        assert "\x00" not in text(graph)
    tokens = text(hostile()).partition("position")[0]
    flat = tokens.replace("\n" + " " * 12, "  ")
    for i, token in enumerate(HOSTILE):
        assert f"{i} {visible(token)}" in flat


def test_of_many_layers_the_last_are_shown_and_the_rest_is_named():
    graph = realistic(tuple(range(6)), 6)
    shown = text(graph)
    assert "layers 4..5 of 0..5 shown; text(layers=range(0, 6)) shows all 6" in shown
    assert "L3H0" not in shown
    assert text(graph, layers=range(6)).count("block ") == 6
    assert "layer 2 of 0..5 shown" in text(graph, layers=[2])
    with pytest.raises(InputError, match=r"layer 7 is outside 0\.\.5"):
        text(graph, layers=[7])
