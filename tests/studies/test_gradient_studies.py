"""The three studies of gradients: their notebooks were run, their pages say what the data say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.studies.test_notebooks import code_cells

ROOT = Path(__file__).parents[2]
STUDIES = ("attention_patching_tasks", "backward_lens_facts", "reversed_attention_tasks")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up there.
    importlib.sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def page(study):
    return (ROOT / "docs" / "studies" / f"{study}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("study", STUDIES)
def test_the_notebook_was_run_from_top_to_bottom_without_an_error(study):
    path = ROOT / "examples" / f"{study}.ipynb"
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    assert path.stat().st_size < 100_000
    assert "<script" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("study", STUDIES)
def test_the_tables_of_the_page_are_those_of_the_data(study):
    lines = script("gradient_tables").TABLES[study]()
    assert len(lines) > 8
    text = page(study)
    assert [line for line in lines if line not in text] == []


@pytest.mark.parametrize("study", STUDIES)
def test_the_figure_of_the_page_is_drawn_from_the_data(study):
    drawn = script("gradient_figures").FIGURES[study]()
    kept = ROOT / "docs" / "images" / "studies" / f"{study}.svg"
    assert kept.read_text(encoding="utf-8") == drawn
    assert f"images/studies/{study}.svg" in page(study)


@pytest.mark.parametrize("study", STUDIES)
def test_the_page_names_its_notebook_its_script_and_its_data(study):
    text = page(study)
    for name in (f"{study}.html", "examples/gradient_studies.py", f"docs/data/{study}.json"):
        assert name in text
    assert f"studies/{study}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for found in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        target = (ROOT / "docs" / "studies" / found).resolve()
        assert target.exists() or "notebooks" in found, found
