"""Every Python block of the README and the docs runs, one after the other, as a reader would."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import visit_tl as vt
from visit_tl.cli import app

# A page is many graphs of the real model, one after the other.
pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text(encoding="utf-8")
)


def test_there_are_blocks_to_run():
    assert "README.md" in PAGES and "docs/index.md" in PAGES


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, smol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visit_tl.model.load.load_model", lambda *args, **options: smol)
    names = {}
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), names)
    assert vt.load_model() is smol


def test_the_commands_of_the_readme_run(smol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("visit_tl.model.load.load_model", lambda *args, **options: smol)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    visit-tl (.+)$", text, re.MULTILINE)
    assert len(lines) > 4
    written = {"steps-1.html", "steps-2.html"}
    for line in lines:
        words = shlex.split(line, comments=True)
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (line, done.output)
        written |= {word for word in words if word.endswith((".html", ".json"))} - {"steps.html"}
    assert {path.name for path in tmp_path.iterdir()} == written
