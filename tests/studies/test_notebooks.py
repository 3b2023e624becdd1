"""The studies' notebooks as they are kept, and the pages that quote them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import visit_tl as vt
from tests import tiny
from tests.circuits import prompt_tokenizers

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "examples").glob("ioi_*.ipynb"))
PAGES = ROOT / "docs" / "studies"


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def printed(cell):
    return "".join("".join(out["text"]) for out in cell["outputs"] if "text" in out)


@pytest.fixture(scope="module")
def results():
    """What the last cell of the study of SmolLM2-135M printed."""
    return json.loads(printed(code_cells(ROOT / "examples" / "ioi_smollm2.ipynb")[-1]))


def test_both_studies_are_there():
    assert [path.name for path in KEPT] == ["ioi_gpt2.ipynb", "ioi_smollm2.ipynb"]
    assert {"ioi_gpt2.md", "ioi_smollm2.md"} <= {path.name for path in PAGES.iterdir()}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_a_kept_notebook_was_run_from_top_to_bottom_without_an_error(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell["outputs"]]
    assert outputs
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_a_kept_notebook_is_small_and_holds_no_script(path):
    assert path.stat().st_size < 1_500_000
    kinds = {
        kind for cell in code_cells(path) for out in cell["outputs"] for kind in out.get("data", ())
    }
    assert kinds <= {"text/plain", "text/html", "image/png"}
    assert "<script" not in path.read_text(encoding="utf-8")


def test_what_is_kept_is_of_at_least_a_hundred_prompts(results):
    assert results["prompts"] >= 100
    first = printed(code_cells(ROOT / "examples" / "ioi_smollm2.ipynb")[0])
    assert f"PromptSet({results['prompts']} ioi prompts" in first


def numbers(value):
    """Every number in a value of JSON."""
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers(part)]
    return [float(value)] if isinstance(value, (int, float)) else []


def read(text):
    return float(text.replace("−", "-").replace(",", "").rstrip("%"))


def rows_of_heads(page):
    """Of the page's tables by head: head, column, what stands there."""
    header = []
    for line in page.splitlines():
        fields = [field.strip(" `") for field in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = fields
        elif re.fullmatch(r"L\d+H\d+", fields[0]):
            yield from ((fields[0], c, v) for c, v in zip(header[1:], fields[1:], strict=True))


def test_the_tables_of_the_page_are_the_notebooks(results):
    page = (PAGES / "ioi_smollm2.md").read_text(encoding="utf-8")
    compared = 0
    for head, column, text in rows_of_heads(page):
        known = results["heads"][head] | results["paths"].get(head, {})
        if column not in known or not re.search(r"\d", text):
            continue
        first, *error = re.findall(r"[-−]?[\d,]*\.?\d+", text)
        assert read(first) == pytest.approx(known[column]), (head, column)
        if error:
            assert read(error[0]) == pytest.approx(known[f"± {column}"]), (head, column)
        compared += 1
    assert compared >= 60


def test_the_edges_of_the_page_are_the_notebooks(results):
    page = (PAGES / "ioi_smollm2.md").read_text(encoding="utf-8")
    row = r"^\| `(\w+)`, at [\w+]+ → (\w)\w+ of `(\w+)` \| (\S+) \|$"
    edges = re.findall(row, page, flags=re.MULTILINE)
    assert len(edges) >= 5
    for sender, slot, reader, text in edges:
        assert read(text) == results["edges"][f"{sender}->{reader}<{slot}>"], (sender, reader)


@pytest.mark.parametrize(("at", "score"), [("END", "norm"), ("S2", "S2 to S1")])
def test_the_agreement_in_the_page_is_the_notebooks(results, at, score):
    page = (PAGES / "ioi_smollm2.md").read_text(encoding="utf-8")
    scores = results[f"agreement at {at}"]
    assert score in scores
    columns = ["auroc", "average_precision", "spearman", "auroc_one", "spearman_one"]
    for name, found in scores.items():
        line = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", page, flags=re.MULTILINE)
        assert line, name
        assert [read(field) for field in line[1].split(" | ")] == [found[c] for c in columns]


def test_every_number_in_the_page_is_one_of_the_notebooks(results):
    page = (PAGES / "ioi_smollm2.md").read_text(encoding="utf-8")
    known = {round(abs(n), 2) for n in numbers(results)}
    known |= {round(100 * results[which]["positive"], 1) for which in ("clean", "ABC")}
    text = re.sub(r"<!--.*?-->|\(http[^)]*\)|smollm2[-_.\w]*", "", page, flags=re.DOTALL)
    found = re.findall(r"(?<![\w.])[-−]?\d+\.\d+%?(?![\w.])", text)
    assert len(found) > 60
    assert [n for n in found if abs(read(n)) not in known] == []


def test_the_notebook_of_gpt2_runs_where_there_are_weights(monkeypatch):
    """Of its shape, with random weights: what is found is noise, found in the same way."""
    pytest.importorskip("IPython")
    words = prompt_tokenizers.words()
    monkeypatch.setattr(tiny, "tokenizer", lambda: words)
    shape = {"n_layers": 12, "n_heads": 12, "d_head": 4, "d_model": 48}
    model = tiny.native(d_vocab=len(words), **shape)
    monkeypatch.setattr(vt, "load_model", lambda *args, **kwargs: model)
    monkeypatch.setenv("VISIT_STUDY_PROMPTS", "2")
    space = {}
    for cell in code_cells(ROOT / "examples" / "ioi_gpt2.ipynb"):
        exec(compile("".join(cell["source"]), "ioi_gpt2.ipynb", "exec"), space)
    assert len(space["scores"]) == 2 and len(space["table"]) == 144
    assert list(space["compared"]) == list(space["found"])
    for name, one in space["compared"].items():
        assert 0 <= one.auroc <= 1, name
    assert np.isfinite(space["scores"]["effect at S1+1"]).all()


def test_every_number_in_the_page_of_scores_is_one_of_its_data():
    page = (PAGES / "ioi_scores.md").read_text(encoding="utf-8")
    data = json.loads((ROOT / "docs" / "data" / "ioi_scores.json").read_text(encoding="utf-8"))

    def every(value):
        parts = value.values() if isinstance(value, dict) else value
        return [n for p in parts for n in every(p)] if isinstance(value, (dict, list)) else [value]

    known = {round(abs(float(n)), 2) for n in every(data)}
    found = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", page.replace("2.4e-6", ""))
    assert len(found) > 150
    assert [n for n in found if float(n) not in known] == []
    assert max(head["largest error"] for head in data["heads"].values()) < 2.4e-06
    assert data["prompts"] == 16 and "run on 16 IOI prompts" in page
    assert (ROOT / "examples" / "ioi_scores.py").exists()
