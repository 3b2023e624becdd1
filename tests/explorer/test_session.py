"""The session: stages, changes, questions and files, held against the public calls."""

import dataclasses
import json

import pytest

import visit_tl as vt
from tests.explorer.conftest import PROMPT
from visit_tl import GraphError, InputError
from visit_tl.escaping import visible
from visit_tl.explorer import limits
from visit_tl.explorer.requests import Request, Runs, read
from visit_tl.explorer.session import Kept, Session
from visit_tl.graph.io.json_format import to_json

ZERO = {"node": "L0H1", "how": "zero", "factor": 0}
HALF = {"node": "L1H1.v2", "how": "scale", "factor": 0.5}


def events(session, *runs, **more):
    return list(session.run(read(Runs, {"runs": list(runs), **more})))


def asked(session, what, prompt=PROMPT, **more):
    given = {"what": what, "run": {"prompt": prompt}, **more}
    (event,) = session.work("ask", given)()
    return event


def test_a_picture_comes_in_stages_and_is_the_graph_of_the_call(session):
    found = events(session, {"prompt": PROMPT, "target": " c"})
    assert [event["stage"] for event in found] == ["states", "heads", "whole"]
    states, heads, whole = found
    graph = vt.flow_graph(session.views[0].model, PROMPT, target=" c")
    assert session.graph(whole["picture"]).nodes == graph.nodes
    assert heads["nodes"] < whole["nodes"] == len(graph)
    assert states["rank"] == graph["logits"].rank
    assert states["prob"] == pytest.approx(graph["logits"].prob, abs=1e-5)
    table = vt.lens_table(session.views[0].model, PROMPT, target=" c")
    assert [[cell[1] for cell in row] for row in states["cells"]] == [
        [node.rank for node in row] for row in table.cells
    ]


def test_the_same_request_is_answered_from_what_is_kept(session):
    first = events(session, {"prompt": "b b a"})
    again = events(session, {"prompt": "b b a"})
    assert [event["stage"] for event in again] == ["states", "whole"]
    assert again[-1]["picture"] == first[-1]["picture"]
    assert again[0]["cells"] == first[0]["cells"]


def test_changes_give_the_patched_graph_its_difference_and_measured_effects(session):
    model = session.views[0].model
    clean = vt.flow_graph(model, PROMPT)
    found = events(session, {"prompt": PROMPT}, {"prompt": PROMPT, "changes": [ZERO, HALF]})
    by = {(event.get("slot"), event["stage"]): event for event in found}
    hooks = vt.causal.change_hooks(model, PROMPT, [("L0H1", "zero"), ("L1H1.v2", 0.5)])
    patched = vt.flow_graph(model, PROMPT, target=clean.target_id, fwd_hooks=hooks)
    assert session.graph(by[1, "whole"]["picture"]).nodes == patched.nodes
    diff = clean.diff(patched)
    told = by[None, "diff"]["diff"]
    assert told["counts"] == [len(diff.changed), len(diff.appeared), len(diff.vanished), diff.same]
    effects = by[0, "effects"]["effects"]
    question = vt.causal.log_probability(clean.target_id)
    alone = vt.causal.effects(model, PROMPT, question, nodes=["L0H1"], how="zero", verbose=False)[
        "L0H1"
    ].value
    assert effects["alone"][0]["effect"] == pytest.approx(alone, abs=1e-5)
    marked = session.graph(by[0, "effects"]["picture"])["L0H1"].effect
    assert marked.exact and marked.value == pytest.approx(alone, abs=1e-5)
    assert effects["all"] == pytest.approx(effects["after"] - effects["before"])


def test_two_prompts_and_two_models_stand_side_by_side(session):
    found = events(session, {"prompt": PROMPT}, {"prompt": "b a d c"}, same_target=False)
    assert [event.get("slot") for event in found if event["stage"] == "whole"] == [0, 1]
    found = events(session, {"prompt": PROMPT}, {"prompt": PROMPT, "model": 1})
    graphs = [session.graph(event["picture"]) for event in found if event["stage"] == "whole"]
    assert graphs[0].target_id == graphs[1].target_id and graphs[0].model != graphs[1].model
    found = events(session, {"prompt": PROMPT}, {"prompt": PROMPT, "segments": "0:3"})
    assert found[-1]["stage"] == "diff" and found[-1]["diff"]["counts"][0] > 0


def test_questions_are_answered_by_the_public_calls(session):
    model = session.views[0].model
    why = asked(session, "why", node="L1H1", key=2)
    found = vt.causal.attention_attribution(model, PROMPT, "L1H1", -1, 2, top=12)
    assert [row[:2] for row in why["table"]["rows"]] == [[p.query, p.key] for p in found.parts]
    lower = asked(session, "lower")
    maps = vt.reversed_attention(model, PROMPT)
    strongest = [f"L{layer}H{head}" for layer, head in maps.strongest(12)]
    assert [row[0] for row in lower["table"]["rows"]] == strongest
    assert len(asked(session, "origin", node="logits")["table"]["rows"]) == 5
    with pytest.raises(InputError, match="is of gpt2"):
        asked(session, "circuit", reference="ioi-wang-2022")
    with pytest.raises(InputError, match="choose a node"):
        asked(session, "why")
    with pytest.raises(InputError, match="is no head"):
        asked(session, "why", node="L1.mlp_out")


def test_the_python_and_the_notebook_make_the_graphs_that_are_shown(session, capsys):
    runs = [
        {"prompt": PROMPT, "position": 3, "layers": [0, 1], "bos": True},
        {"prompt": PROMPT, "position": 3, "layers": [0, 1], "bos": True,
         "changes": [ZERO, HALF, {"node": "L1N3", "how": "resample"}], "others": ["b a d e"]},
    ]  # fmt: skip
    found = events(session, *runs)
    shown = [session.graph(event["picture"]) for event in found if event["stage"] == "whole"]
    name, _, script = session.kept_file({"form": "py", "runs": runs})
    names = {"model": session.views[0].model, "other_model": session.views[1].model}
    exec(compile(script.decode(), name, "exec"), names)
    assert (names["g"].nodes, names["h"].nodes) == (shown[0].nodes, shown[1].nodes)
    notebook = json.loads(session.kept_file({"form": "ipynb", "runs": runs})[2])
    source = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert source == script.decode().rstrip("\n")
    assert "changed rank" in capsys.readouterr().out


def test_a_graph_is_kept_and_opened_again(session):
    events(session, {"prompt": "d c b"})
    run = {"prompt": "d c b"}
    name, _, content = session.kept_file({"form": "json", "runs": [run]})
    assert name == "graph.json"
    request = session.open(content)["request"]
    told, event = events(session, request)
    graph = session.graph(event["picture"])
    assert graph.nodes == session.graph(read(Request, run).key).nodes
    assert [token["text"] for token in told["tokens"]] == ["<bos>", "d", "␣c", "␣b"]
    assert (told["model"], told["position"], told["target"]) == ("native", 3, visible(graph.target))
    html = session.kept_file({"form": "html", "runs": [run]})[2]
    assert b"FRAMED" not in html and b"tellAround" not in html
    pair = [run, {"prompt": "d c b", "changes": [ZERO]}]
    events(session, *pair)
    both = session.kept_file({"form": "export", "runs": pair})[2].decode()
    assert both.count("<iframe") == 2 and "default-src &#x27;none&#x27;" in both


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"prompt": 3}, "prompt: Input should be a valid string"),
        ({"prompt": "a", "more": 1}, "more: Extra inputs"),
        ({"prompt": "a" * (limits.CHARACTERS + 1)}, "prompt: String should have at most"),
        ({"prompt": "a", "model": 2}, "model: "),
        ({"prompt": "a", "expand": 99}, "expand: "),
        ({"prompt": "a", "changes": [ZERO] * 17}, "changes: "),
        ({"prompt": "a", "changes": [{**HALF, "factor": float("nan")}]}, "factor: "),
        ({"prompt": "a", "saved": "../../x"}, "saved: "),
        (7, "the request: "),
    ],
)
def test_what_is_not_asked_in_its_form_is_refused_by_name(session, data, words):
    with pytest.raises(InputError) as error:
        session.tokens(data)
    assert words in str(error.value)


def test_the_place_of_a_fault_is_named_as_the_reader_knows_it():
    for runs, words in (
        ([{"position": 10**9}], "position: Input should be less"),
        ([{}, {"expand": 9}], "second picture, expand: Input should be less"),
    ):
        with pytest.raises(InputError) as error:
            read(Runs, {"runs": runs})
        assert str(error.value).startswith(words)


def test_what_does_not_fit_the_model_is_refused_with_the_calls_own_words(session):
    for run, words in (
        ({"prompt": PROMPT, "target": "a b"}, "is 2 tokens"),
        ({"prompt": PROMPT, "position": 9}, "outside the prompt"),
        ({"prompt": PROMPT, "layers": [0, 9]}, "layer 9 is outside 0..1"),
        ({"prompt": PROMPT, "layers": [-(10**12), 10**12]}, "layer -1000000000000 is outside"),
        ({"prompt": PROMPT, "layers": [0, 10**12]}, "layer 1000000000000 is outside 0..1"),
        ({"prompt": PROMPT, "layers": [1, 0]}, "the first layer, 1, is after the last, 0"),
        ({"prompt": PROMPT, "segments": "0-3"}, "segments are ranges"),
        ({"prompt": PROMPT, "chat": True}, "has no chat template"),
        ({"prompt": "a" * 99}, "tokens"),
        ({"prompt": PROMPT, "changes": [{"node": "L9H9", "how": "zero"}]}, "L9H9 is not in"),
        ({"prompt": PROMPT, "changes": [{"node": "L0H1", "how": "resample"}]}, "pass corrupted"),
    ):
        with pytest.raises(InputError, match=words):
            events(session, run)
    with pytest.raises(GraphError, match="no JSON"):
        session.open(b"<script>")
    with pytest.raises(GraphError):
        session.open(b'{"schema": 99}')
    with pytest.raises(GraphError, match="was dropped"):
        session.graph("0" * 24)


def test_a_question_about_a_file_is_never_answered_by_the_open_model(session):
    graph = vt.flow_graph(session.views[0].model, PROMPT)
    named = dataclasses.replace(graph, model="another")
    request = session.open(json.dumps(to_json(named)).encode())["request"]
    for what in ("why", "lower", "origin"):
        with pytest.raises(InputError, match="a graph from a file; run its prompt"):
            asked(session, what, run=request, node="L1H1")
    with pytest.raises(InputError, match="but the graph is of another, of 2 layers x 4 heads"):
        asked(session, "circuit", run=request, reference="ioi-wang-2022")
    with pytest.raises(GraphError, match="was dropped"):
        asked(session, "circuit", run={**request, "saved": "0" * 24})


def test_only_the_last_graphs_are_kept():
    kept = Kept(2)
    for name in "abac":
        kept.put(name, name) if kept.get(name) is None else None
    assert [kept.get(name) for name in "abc"] == ["a", None, "c"] and len(kept) == 2


def test_a_session_of_one_model_has_no_second(native):
    session = Session([native])
    with pytest.raises(InputError, match="has one model"):
        session.tokens({"prompt": "a", "model": 1})
