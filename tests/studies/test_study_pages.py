"""Pages of studies say what their data say, and their notebook was run."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "studies" / "visit_paper.md"


def script(name):
    """A script of the examples, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


TABLES = script("visit_paper_tables").TABLES


@pytest.mark.parametrize("name", list(TABLES))
def test_a_table_of_the_page_is_that_of_the_data(name):
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    assert found is not None
    assert found[1].strip().splitlines() == TABLES[name]()


def test_the_number_of_facts_is_that_of_the_data():
    data = json.loads((ROOT / "docs" / "data" / "visit_paper.json").read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert f"The prompts are the {data['settings']['known']} of the 1,209 facts" in text
    assert data["settings"]["prompts"] == 1209


def test_every_figure_of_the_page_is_there_and_every_drawn_study_is_shown():
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"images/studies/visit_paper/(\w+)\.svg", text)
    assert sorted(shown) == sorted(
        path.stem for path in (PAGE.parents[1] / "images" / "studies" / "visit_paper").glob("*")
    )
    for found in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (PAGE.parent / found).resolve().exists() or "notebooks" in found, found


def test_the_notebook_was_run_from_top_to_bottom_without_an_error():
    path = ROOT / "examples" / "visit_paper.ipynb"
    cells = [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]


def test_the_tables_of_what_foretells_effects_are_those_of_the_data():
    page = ROOT / "docs" / "studies" / "what_foretells_effects.md"
    text = page.read_text(encoding="utf-8")
    for mark, lines in script("what_foretells_effects").by_mark().items():
        found = text.split(f"<!-- {mark} -->\n")[1].split("<!-- end -->")[0]
        assert found.strip().splitlines() == lines, mark
