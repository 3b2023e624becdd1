"""The command line: what it writes and prints, its exit codes, and one line for each refusal."""

import json
import re

import pytest
from typer.testing import CliRunner

import visit_tl as vt
from tests.conftest import made
from visit_tl.cli import app

PROMPT = "a b c d"


@pytest.fixture
def run(monkeypatch):
    """Runs the command with the small native model in place of any name."""
    import visit_tl.model.load as load

    monkeypatch.setattr(load, "load_model", lambda name, **_: made("native"))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_a_graph_is_written_as_a_page_and_as_json_and_printed(run, tmp_path):
    page, data = tmp_path / "g.html", tmp_path / "g.json"
    result = run("graph", PROMPT, "--out", str(page), "--json", str(data))
    assert result.exit_code == 0, result.output
    graph = vt.flow_graph(made("native"), PROMPT)
    assert vt.FlowGraph.load(data) == graph
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert graph.text() in result.output
    assert f"wrote {page}" in result.output and f"wrote {data}" in result.output


def test_the_suffix_says_what_is_written(run, tmp_path):
    graph = vt.flow_graph(made("native"), PROMPT)
    for name in ("g.svg", "g.graphml", "g.dot", "g.csv"):
        result = run("graph", PROMPT, "--out", str(tmp_path / name), "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        expected = graph.save(tmp_path / f"expected{name[1:]}")
        assert (tmp_path / name).read_bytes() == expected.read_bytes()
    result = run("graph", PROMPT, "--out", str(tmp_path / "g.gif"))
    assert result.exit_code == 2 and ".svg" in result.stderr


def test_every_option_reaches_the_graph(run, tmp_path):
    data = tmp_path / "g.json"
    result = run(
        "graph", PROMPT, "--json", str(data), "--layers", "1", "--target", " b", "--position", "2",
        "--no-bos", "--heads", "2", "--values", "1", "--neurons", "4", "--preset", "paper",
        "--quiet",
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")
    graph = vt.FlowGraph.load(data)
    assert (graph.layers, graph.target, graph.position, graph.prepend_bos) == ((1,), " b", 2, False)
    assert graph.pruning == {
        "heads": 2, "values": 1, "high_neurons": 3, "low_neurons": 1, "neurons_by": "activation",
    }  # fmt: skip


def test_gradients_are_printed_or_written(run, tmp_path):
    asked = ("--target", " b", "--layers", "1", "--position", "2", "--no-bos")
    options = {"layers": [1], "position": 2, "prepend_bos": False}
    lens = vt.backward_lens(made("native"), PROMPT, " b", **options)
    found = vt.reversed_attention(made("native"), PROMPT, " b", **options)
    for command, result in (("backward", lens), ("reversed", found)):
        printed = run(command, PROMPT, *asked)
        assert (printed.exit_code, printed.output) == (0, result.text())
        path = tmp_path / f"{command}.html"
        saved = run(command, PROMPT, *asked, "--out", str(path), "--theme", "dark")
        assert saved.exit_code == 0, saved.output
        assert saved.output.startswith("model       native\n")
        assert saved.output.endswith(f"wrote {path}\n")
        wanted = result.save(tmp_path / "wanted.html", theme="dark")
        assert path.read_bytes() == wanted.read_bytes()
    one = run("backward", PROMPT, *asked, "--matrix", "W_in", "--kind", "norms")
    assert one.output == lens.text("W_in")
    heads = ("--head", "L1H2", "--head", "L1H0", "--kind", "maps")
    assert run("reversed", PROMPT, *asked, *heads).output == found.text(["L1H2", "L1H0"])
    quiet = run("reversed", PROMPT, "--quiet", "--out", str(tmp_path / "x.csv"))
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_why_prints_the_text_of_the_call(run):
    found = vt.causal.attention_attribution(made("native"), PROMPT, "L1H2", -1, 1, top=5)
    asked = ("why", "--prompt", PROMPT, "--head", "L1H2", "--key", "1", "--top", "5")
    assert run(*asked).output == str(found)
    assert "comes after the query 0" in run(*asked, "--query", "0").stderr


def test_gradients_do_not_replace_a_foreign_file(run, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my thesis")
    for command in ("backward", "reversed"):
        refused = run(command, PROMPT, "--out", str(path))
        assert refused.exit_code == 1 and "is no visit_tl graph" in refused.stderr
    assert path.read_text() == "my thesis"
    assert run("backward", PROMPT, "--out", str(path), "--force").exit_code == 0
    assert path.read_text().startswith("model       native")


def test_segments_reach_every_command_that_takes_them(run, tmp_path):
    spans, asked = [(0, 3), (3, 4)], ("--segments", "0:3, 3:4", "--target", " b")
    data = tmp_path / "g.json"
    result = run("graph", PROMPT, *asked, "--json", str(data), "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    graph = vt.flow_graph(made("native"), PROMPT, target=" b", segments=spans)
    assert vt.FlowGraph.load(data) == graph and graph.segments == ((0, 3), (3, 4))
    steps = run("graph", PROMPT, "--segments", "0:3", "--generate", "2")
    assert steps.output.count("segments    0..2 see all of themselves") == 2
    for command, call in (("backward", vt.backward_lens), ("reversed", vt.reversed_attention)):
        printed = run(command, PROMPT, *asked)
        wanted = call(made("native"), PROMPT, " b", segments=spans).text()
        assert (printed.exit_code, printed.output) == (0, wanted)
        assert "segments    0..2, 3 see all of themselves" in wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["graph", PROMPT, "--segments", "0:3,2:4"], r"segments \(0, 3\) and \(2, 4\) overlap"),
        (["graph", PROMPT, "--segments", "3:3"], r"segment \(3, 3\) is empty"),
        (["reversed", PROMPT, "--segments", "0:99"], r"segment \(0, 99\) ends past the prompt"),
        (["graph", ""], "the prompt is empty"),
        (["graph", PROMPT, "--target", "abc"], "is 3 tokens of native"),
        (["graph", PROMPT, "--layers", "0-7"], r"layer 2 is outside 0\.\.1 of native"),
        (["graph", PROMPT, "--layers", "0-999999"], "more than any model has"),
        (["graph", PROMPT, "--generate", "999999999999"], "more than any model has room for"),
        (["graph", PROMPT, "--position", "9"], "position 9 is outside the prompt"),
        (["graph", PROMPT, "--heads", "0"], "heads must be an integer of at least 1"),
        (["graph", PROMPT, "--theme", "pink"], "'pink' is unknown; the themes are light and dark"),
        (["graph", PROMPT, "--preset", "best"], "'best' is unknown"),
        (["graph", PROMPT, "--json", "/nowhere/g.json"], "the folder /nowhere does not exist"),
        (["backward", ""], "the prompt is empty"),
        (["backward", PROMPT, "--theme", "pink"], "the themes are light and dark"),
        (["backward", PROMPT, "--kind", "maps"], "the kinds are table, norms, ranks"),
        (["backward", PROMPT, "--matrix", "W_X"], "W_X"),
        (["backward", PROMPT, "--out", "/nowhere/x.csv"], "the folder /nowhere does not exist"),
        (["reversed", PROMPT, "--kind", "table"], "the kinds are norms, maps"),
        (["reversed", PROMPT, "--head", "L9H0"], "L9H0 is no head of this result"),
        (["reversed", PROMPT, "--head", "five"], "five"),
        (["reversed", PROMPT, "--layers", "0-7"], r"layer 2 is outside 0\.\.1 of native"),
        (
            ["sweep", "--prompts", "absent.jsonl", "--study", "heads_ov", "--out", "run"],
            "there is no file absent.jsonl",
        ),
        (
            ["sweep", "--prompts", "x.jsonl", "--study", "heads", "--out", "run"],
            "there is no study 'heads'; there are .*heads_ov",
        ),
        (
            ["sweep", "--prompts", "x.jsonl", "--paper", "--out", "run", "--n", "0"],
            "n must be an integer of at least 1",
        ),
        (["summary", "/nowhere"], "/nowhere is no folder of a run"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert re.fullmatch(rf"visit-tl: .*{message}.*\n", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["graph"],
        ["graph", PROMPT, "--layers", "x"],
        ["graph", PROMPT, "--layers", "5-2"],
        ["graph", PROMPT, "--position", "end"],
        ["graph", PROMPT, "--out", "g.json"],
        ["graph", PROMPT, "--json", "g.html"],
        ["graph", PROMPT, "--nonsense"],
        ["graph", PROMPT, "--segments", "0-3"],
        ["graph", PROMPT, "--segments", ""],
        ["backward", PROMPT, "--segments", "0:3,"],
        ["reversed", PROMPT, "--segments", "-1:3"],
        ["backward"],
        ["backward", PROMPT, "--out", "x.gif"],
        ["reversed", PROMPT, "--out", "x.json"],
        ["reversed", PROMPT, "--layers", "x"],
        ["sweep"],
        ["sweep", "--prompts", "x.jsonl", "--out", "run"],
        ["summary"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_a_foreign_file_is_kept_unless_forced_and_no_model_is_loaded_for_it(run, tmp_path):
    path = tmp_path / "notes.json"
    path.write_text("my thesis")
    refused = run("graph", PROMPT, "--json", str(path))
    assert refused.exit_code == 1 and "is no visit_tl graph" in refused.stderr
    assert path.read_text() == "my thesis"
    assert run("graph", PROMPT, "--json", str(path), "--force").exit_code == 0
    assert json.loads(path.read_text())["schema"] == 3


def test_a_continuation_writes_numbered_files(run, tmp_path):
    result = run("graph", PROMPT, "--generate", "2", "--json", str(tmp_path / "g.json"), "--quiet")
    assert result.exit_code == 0, result.output
    graphs = vt.generate(made("native"), PROMPT, 2, verbose=False)
    names = [f"g-{i}.json" for i in range(1, len(graphs) + 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert [vt.FlowGraph.load(tmp_path / name) for name in names] == graphs
    assert run("graph", PROMPT, "--generate", "2", "--position", "1").exit_code == 2
    assert run("graph", PROMPT, "--generate", "-2").exit_code == 2


def test_memories_are_followed_back(run, tmp_path):
    path = tmp_path / "g.json"
    result = run("graph", PROMPT, "--expand", "1", "--json", str(path))
    assert result.exit_code == 0, result.output
    assert vt.FlowGraph.load(path) == vt.flow_graph(made("native"), PROMPT, expand=1)
    assert "memories back" in result.output
    assert run("graph", PROMPT, "--expand", "1", "--generate", "2").exit_code == 2
    assert run("graph", PROMPT, "--expand", "-1").exit_code == 1


def test_a_sweep_is_made_continued_and_told(run, tmp_path):
    pytest.importorskip("pyarrow")
    facts, out = tmp_path / "facts.jsonl", tmp_path / "run"
    lines = [{"prompt": "a b", "target": " c"}, {"prompt": ""}, {"prompt": "b a c"}]
    facts.write_text("\n".join(map(json.dumps, lines)))
    asked = ("sweep", "--prompts", str(facts), "--out", str(out), "--study", "heads_ov,top_heads")
    made_now = run(*asked, "--no-bos", "--per-shard", "1")
    assert made_now.exit_code == 0, made_now.output
    opened = vt.sweeps.open(out)
    assert f"{opened}\nwrote {out}" in made_now.output and "prompt 1: the prompt is empty" in str(
        opened
    )
    assert opened.about["prepend_bos"] is False and opened.studies == ("heads_ov", "top_heads")
    again = run(*asked, "--no-bos", "--per-shard", "1", "--quiet")
    assert (again.exit_code, again.output) == (0, "")
    other = run(*asked, "--per-shard", "1")
    assert other.exit_code == 1 and "is of another run: its prepend_bos is False" in other.stderr
    strict = run(*asked[:3], "--out", str(tmp_path / "b"), "--study", "heads_ov", "--strict")
    assert strict.exit_code == 1 and "prompt 1 failed: the prompt is empty" in strict.stderr
    told = run("summary", str(out))
    assert told.exit_code == 0 and told.output.startswith("heads_ov\n layer  n  share")
    table = run("summary", str(out), "--study", "heads_ov", "--by", "head", "--csv")
    assert table.output == opened.summary("heads_ov", ["head"]).to_csv(index=False)
    assert run("summary", str(out), "--csv").exit_code == 2
    assert run("summary", str(out), "--by", "x").exit_code == 1


def test_the_paper_is_measured_with_one_command_and_drawn_on_one_page(run, tmp_path):
    pytest.importorskip("pyarrow")
    facts, out = tmp_path / "facts.jsonl", tmp_path / "run"
    facts.write_text("\n".join(json.dumps({"prompt": p}) for p in ("a b", "b a")))
    asked = ("sweep", "--prompts", str(facts), "--paper", "--out", str(out))
    refused = run(*asked)
    assert refused.exit_code == 1 and "needs a target for every prompt" in refused.stderr
    paper = run(*asked, "--only", "all", "--n", "1", "--study", "head_effects")
    assert paper.exit_code == 0, paper.output
    known = [name for name, one in vt.sweeps.studies().items() if one.paper]
    assert vt.sweeps.open_paper(out).correct.studies == (*known, "head_effects")
    page = (out / "paper.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == len(known) + 1 and f"wrote {out / 'paper.html'}" in paper.output
    again = run(*asked, "--only", "all", "--n", "1", "--study", "head_effects", "--quiet")
    assert (again.exit_code, again.output) == (0, "")


def test_prompts_are_made_told_and_written_for_a_sweep(monkeypatch, tmp_path):
    import visit_tl.model.load as load
    from tests.circuits import prompt_tokenizers

    words = prompt_tokenizers.model(tasks=True)
    monkeypatch.setattr(load, "load_model", lambda name, **_: words)

    def run(*arguments):
        return CliRunner().invoke(app, ["prompts", *arguments])

    file, kept = tmp_path / "doc.jsonl", tmp_path / "doc.json"
    result = run("docstring", "--n", "3", "--seed", "5", "--out", str(file))
    assert result.exit_code == 0, result.output
    expected = vt.circuits.prompts.docstring(words, 3, seed=5)
    found = vt.circuits.prompts.baseline(words, expected, verbose=False)
    assert repr(expected) in result.output and repr(found) in result.output
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["prompt"], row["target"]) for row in rows] == [
        (list(pair.ids), pair.answers[0]) for pair in expected
    ]
    run_of = vt.sweep(words, file, ["observed_heads"], tmp_path / "run", verbose=False)
    assert len(run_of.table("observed_heads")) == 3 * 2 * 4
    assert run("docstring", "--n", "3", "--out", str(file)).exit_code == 1
    quiet = run("docstring-acdc-24", "--n", "3", "--no-bos", "--out", str(kept), "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    loaded = vt.circuits.prompts.PromptSet.load(kept)
    assert loaded == vt.circuits.prompts.docstring(words, 3, prepend_bos=False)
    assert run("tracr-sort-zero").exit_code == run("x").exit_code == 1
    assert run("docstring", "--out", "x.csv").exit_code == 2


def test_debug_shows_the_traceback(run):
    result = run("graph", "", "--debug")
    assert isinstance(result.exception, vt.InputError)


def test_the_embedded_models_are_listed(run):
    result = run("models")
    assert result.exit_code == 0 and "smollm2-135m" in result.output


def test_the_version_is_that_of_the_package(run):
    for asked in ("version", "--version"):
        assert run(asked).output.strip() == vt.__version__


def test_the_atlas_is_built_listed_and_cleared(run, tmp_path, monkeypatch):
    from visit_tl.atlas import row_cache as atlas

    monkeypatch.setenv("VISIT_TL_CACHE", str(tmp_path))
    monkeypatch.setenv("VISIT_TL_ATLAS", "disk")
    monkeypatch.setattr(atlas, "_WORTH", 0)
    built = run("atlas", "build", "native", "--target", "b", "--target", "c", "--quiet")
    assert built.exit_code == 0, built.output
    assert re.search(r"[0-9]+ rows of native are known for 2 targets", built.output)
    listed = run("atlas", "info")
    assert "native: 2 targets, 0.0 MB" in listed.output and str(tmp_path) in listed.output
    assert "removed 0.0 MB" in run("atlas", "clear").output
    assert run("atlas", "info").output.startswith("0.0 MB of at most 512 MB")


@pytest.mark.parametrize("arguments", [(), ("--target", "no such token")])
def test_an_atlas_without_a_target_is_not_built(run, arguments):
    assert run("atlas", "build", *arguments, "--quiet").exit_code in (1, 2)
