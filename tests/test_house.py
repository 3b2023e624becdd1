"""The rules of the house (docs/architecture.md), held against the code."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import visit_tl

grimp = pytest.importorskip("grimp", reason="import-linter is not installed here")

ROOT = Path(visit_tl.__file__).parents[1]
DOOR = ("visit_tl.drawn", "visit_tl.view.registry")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="not a checkout of the repository"
)


@functools.cache
def rooms():
    """The script that draws the map."""
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "hooks" / "rooms.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def lint(root):
    code = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def test_the_contracts_hold():
    code, told = lint(ROOT)
    assert code == 0, told


def test_the_contract_of_the_one_room_names_every_other_room():
    config = rooms().tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["id"]: one for one in config["tool"]["importlinter"]["contracts"]}
    others = {room for row in rooms().layers() for room in row} - {"model"}
    assert set(contracts["one-room"]["source_modules"]) == {f"visit_tl.{room}" for room in others}


@pytest.mark.parametrize(
    ("where", "line", "broken"),
    [
        ("graph/ids.py", "import torch", "graph/ is data"),
        ("graph/records.py", "import plotly.graph_objects", "graph/ is data"),
        ("graph/routes.py", "def f():\n    from visit_tl import flow", "Imports point down"),
        ("xray/build.py", "import transformer_lens", "Only model/ imports"),
        ("causal/metrics.py", "def f():\n    import transformers", "Only model/ imports"),
        ("causal/metrics.py", "import visit_tl.circuits.references", "Imports point down"),
        ("model/view.py", "def f():\n    import visit_tl.xray.build", "Imports point down"),
        ("causal/patching/options.py", "import visit_tl.causal.paths.chosen_edges", "No circle"),
        ("view/page/payload.py", "import torch", "Pages need no torch"),
        ("sweeps/sweep_call.py", "def f():\n    import ray", "Only the engine of that name"),
    ],
    ids=lambda value: value if "/" in value and " " not in value else "",
)
def test_a_planted_violation_breaks_its_contract(tmp_path, where, line, broken):
    shutil.copytree(ROOT / "visit_tl", tmp_path / "visit_tl")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "visit_tl" / where
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    code, told = lint(tmp_path)
    assert code != 0
    assert any(broken in said and "BROKEN" in said for said in told.splitlines()), told


def test_no_module_reaches_itself_whatever_the_kind_of_import():
    graph = grimp.build_graph("visit_tl", exclude_type_checking_imports=False)
    graph.remove_import(importer=DOOR[0], imported=DOOR[1])
    graph.remove_module("visit_tl")  # it names the public names for type checkers
    import networkx as nx

    arrows = nx.DiGraph(
        (module, target)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
    )
    assert [sorted(one) for one in nx.strongly_connected_components(arrows) if len(one) > 1] == []


def test_the_drawn_map_is_that_of_the_code():
    drawn = rooms().PICTURE.read_text(encoding="utf-8")
    assert drawn == rooms().svg(), "the rooms changed: python docs/hooks/rooms.py"


@pytest.mark.parametrize(
    "modules",
    [
        "visit_tl",
        "visit_tl.graph.container, visit_tl.graph.io.json_format, visit_tl.graph.difference",
        "visit_tl.flow, visit_tl.saving, visit_tl.graph.io.networks, visit_tl.graph.routes",
        "visit_tl.view.page.document, visit_tl.view.svg, visit_tl.view.text, visit_tl.view.dot",
        "visit_tl.circuits.known_circuits, visit_tl.graph.circuit_parts",
        "visit_tl.cli",
    ],
)
def test_importing_them_imports_neither_torch_nor_plotly(modules):
    code = (
        f"import sys, {modules}\n"
        "found = {'torch', 'plotly', 'transformer_lens', 'transformers'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_saved_graph_is_loaded_asked_and_drawn_without_torch_and_plotly(tmp_path):
    path = ROOT / "docs" / "data" / "ioi.json"
    code = (
        "import sys, visit_tl as vt\n"
        f"g = vt.FlowGraph.load({str(path)!r})\n"
        f"g.save({str(tmp_path / 'g.html')!r}); g.save({str(tmp_path / 'g.svg')!r}); g.text()\n"
        "assert g.route('L0.resid_pre') and g.subgraph([0]) and g.diff(g).same == len(g)\n"
        "found = {'torch', 'plotly', 'transformer_lens'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_lies_in_the_first_folder_that_a_run_has_left_there():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    run = subprocess.run(
        [git, "-c", "safe.directory=*", "ls-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folders = {path.split("/")[0] for path in run.stdout.splitlines() if "/" in path}
    assert folders == {".ci", "constraints", "docs", "examples", "tests", "visit_tl"}


def test_every_folder_says_in_a_few_lines_what_lives_there():
    for folder in [ROOT / "visit_tl", *(ROOT / "visit_tl").rglob("*/")]:
        if not folder.is_dir() or not list(folder.glob("*.py")):
            continue
        first = (folder / "__init__.py").read_text(encoding="utf-8")
        assert first.startswith('"""') and len(first.split('"""')[1].strip()) > 40, folder
