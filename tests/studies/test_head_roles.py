"""Roles of heads: against loops, TransformerLens's detector, and a model whose roles are set."""

import numpy as np
import pytest
import torch

import visit_tl as vt
from tests import tiny
from tests.circuits import prompt_tokenizers
from visit_tl.model.attention_patterns import patterns
from visit_tl.studies import HeadRoles, roles
from visit_tl.studies.head_roles import values as head_values
from visit_tl.studies.head_roles.attention import (
    attention_scores,
    mean_attention,
    plain_pairs,
    repeated_pairs,
    retrieval_scores,
)
from visit_tl.studies.head_roles.probes import Draws

SMALL = {"probes": 3, "length": 6, "context": 30, "verbose": False}


def draws(view, seed=0):
    return Draws(view, None, seed)


def pattern_of(view, row):
    """Attention of all heads over one sequence, `[layer, head, query, key]`."""
    prompt = view.encode(row.tolist(), None)
    heads = [(i, h) for i in range(view.n_layers) for h in range(view.n_heads)]
    n = len(prompt.ids)
    return patterns(view, prompt, heads).view(view.n_layers, view.n_heads, n, n)


def test_repeated_probes_repeat_and_broken_ones_do_not(native):
    probes = draws(vt.ModelView(native)).repeated(5, 6)
    assert probes.half == 6 and probes.tokens.shape == (5, 13)
    for row, broken in zip(probes.tokens.tolist(), probes.broken.tolist(), strict=True):
        assert row[1:7] == row[7:] and row[:7] == broken[:7]
        assert len(set(broken[1:])) == 12 and row[0] == 0
    again = draws(vt.ModelView(native)).repeated(5, 6)
    assert torch.equal(probes.tokens, again.tokens)
    assert not torch.equal(draws(vt.ModelView(native), 1).repeated(5, 6).tokens, probes.tokens)


def test_needles_are_in_the_hay_and_come_again_at_the_end(native):
    probes = draws(vt.ModelView(native)).needles(4, 32)
    n = probes.needles.shape[1]
    assert probes.tokens.shape == (4, 32) and n == 8
    for i, row in enumerate(probes.tokens.tolist()):
        needle, at = probes.needles[i].tolist(), probes.at[i].tolist()
        key = row[at[0] - 1]
        assert [row[j] for j in at] == needle and row[-n:] == [key, *needle[:-1]]
        hay = row[1 : at[0] - 1] + row[at[-1] + 1 : -n]
        assert not set(hay) & {key, *needle}
        assert all(a != b for a, b in zip(at, probes.others[i].tolist(), strict=True))


def test_attention_scores_are_those_of_loops(model):
    view = vt.ModelView(model)
    own = draws(view)
    probes = own.repeated(3, 6)
    scores, control = attention_scores(view, probes, own.random)
    again = draws(view)
    again.repeated(3, 6)
    _, others = plain_pairs(13, again.random)["other"]
    wanted = {name: [] for name in (*scores, "broken induction", "broken duplicate", "other")}
    for row, broken in zip(probes.tokens, probes.broken, strict=True):
        A, B = pattern_of(view, row), pattern_of(view, broken)
        for i in range(7, 13):
            wanted["duplicate"].append(A[:, :, i, i - 6])
            wanted["induction"].append(A[:, :, i, i - 5])
            wanted["broken duplicate"].append(B[:, :, i, i - 6])
            wanted["broken induction"].append(B[:, :, i, i - 5])
        for k, i in enumerate(range(3, 13)):
            wanted["previous"].append(B[:, :, i, i - 1])
            wanted["sink"].append(B[:, :, i, 0])
            wanted["sink-free"].append(B[:, :, i, 1:].sum(-1))
            wanted["other"].append(B[:, :, i, others[k]])
            assert 0 < others[k] < i - 1
    loops = {name: torch.stack(each).mean(0).numpy() for name, each in wanted.items()}
    for name, grid in scores.items():
        np.testing.assert_allclose(grid, loops[name], atol=1e-6)
    np.testing.assert_allclose(control["induction"], loops["broken induction"], atol=1e-6)
    np.testing.assert_allclose(control["duplicate"], loops["broken duplicate"], atol=1e-6)
    np.testing.assert_allclose(control["previous"], loops["other"], atol=1e-6)
    equal = np.mean([1 / (i + 1) for i in range(3, 13)])
    np.testing.assert_allclose(control["sink-free"], 1 - equal, atol=1e-9)


def test_attention_equals_transformer_lenss_head_detector(native):
    """Its score is of all queries together, ours the mean over those where there is a target."""
    detector = pytest.importorskip("transformer_lens.head_detector")
    view = vt.ModelView(native)
    tokens = native.to_tokens("abcdeabcde")
    n, half = tokens.shape[1], 5
    found = mean_attention(view, tokens, repeated_pairs(half))
    for name, theirs in (("duplicate", "duplicate_token_head"), ("induction", "induction_head")):
        detected = detector.detect_head(native, "abcdeabcde", theirs).numpy()
        np.testing.assert_allclose(found[name] * half / n, detected, atol=1e-6)
    queries = torch.arange(1, n)
    found = mean_attention(view, tokens, {"previous": (queries, queries - 1)})
    detected = detector.detect_head(native, "abcdeabcde", "previous_token_head").numpy()
    np.testing.assert_allclose(found["previous"] * (n - 1) / n, detected, atol=1e-6)


def test_retrieval_is_that_of_loops(model):
    view = vt.ModelView(model)
    probes = draws(view).needles(4, 32)
    # A small random model copies nothing: what it says is made the needle, so that it does.
    said = []
    for row in probes.tokens:
        logits = view.run(row[None], [])[0]
        said.append(logits[probes.queries].argmax(-1))
    object.__setattr__(probes, "needles", torch.stack(said))
    probes.needles[0, :3] += 1
    scores, control, copied = retrieval_scores(view, probes)
    hits, wrong, count = 0, 0, 0
    for i, row in enumerate(probes.tokens):
        A = pattern_of(view, row)
        for k, query in enumerate(probes.queries.tolist()):
            if int(said[i][k]) == int(probes.needles[i, k]):
                count += 1
                hits = hits + (A[:, :, query].argmax(-1) == probes.at[i, k]).numpy()
                wrong = wrong + (A[:, :, query].argmax(-1) == probes.others[i, k]).numpy()
    assert copied == count == probes.needles.numel() - 3
    np.testing.assert_allclose(scores, hits / count, atol=1e-7)
    np.testing.assert_allclose(control, wrong / count, atol=1e-7)


def test_copying_is_that_of_loops(model):
    view = vt.ModelView(model)
    own = draws(view)
    tokens = own.repeated(2, 6).tokens
    at = torch.tensor([(0, 1), (0, 4), (1, 2), (1, 5)])
    scores, control = head_values.copying_scores(view, tokens, at, own)
    wanted = np.zeros((view.n_layers, view.n_heads))
    for row, position in at.tolist():
        prompt = view.encode(tokens[row].tolist(), None)
        trace = vt.Trace.run(view, prompt, position=position)
        for layer, t in trace.layers.items():
            W_O = view.weights(layer).W_O
            for head in range(view.n_heads):
                group = head // (view.n_heads // t.values.shape[1])
                out = t.values[position, group] @ W_O[head]
                top = vt.read(view, out[None], k=5).top_ids[0].tolist()
                wanted[layer, head] += int(tokens[row, position]) in top
    np.testing.assert_allclose(scores, wanted / len(at), atol=1e-9)
    assert control.shape == scores.shape


def test_successors_are_those_of_loops(native, monkeypatch):
    monkeypatch.setattr(head_values, "CLASSES", {"letters": tuple("abcde"), "few": tuple("ab")})
    view = vt.ModelView(native)
    classes = head_values.one_token_classes(view)
    assert list(classes) == ["letters"] and len(classes["letters"]) == 5
    scores, _ = head_values.successor_scores(view, classes, draws(view))
    ids = classes["letters"]
    wanted = np.zeros((view.n_layers, view.n_heads))
    for k, word in enumerate(ids[:-1]):
        trace = vt.Trace.run(view, view.encode([0, word], None), position=1)
        for layer, t in trace.layers.items():
            for head in range(view.n_heads):
                out = t.values[1, head] @ view.weights(layer).W_O[head]
                logits = vt.read(view, out[None], ids, k=1).target_logits[0]
                wanted[layer, head] += int(logits.argmax()) == k + 1
    np.testing.assert_allclose(scores, wanted / 4, atol=1e-9)


def hand_made():
    """Attention only, two blocks, 8 words, one-hot: what every head does is set by hand.

    The stream holds [word (12) | position (24) | word before (12)]. L0H0 looks at the position
    before and writes that word into the third part; L0H1 looks at the same word. L1H0 looks for a
    position whose word before is its own word, and says the word there: an induction head.
    """
    words, places = 12, 24
    width = 2 * words + places
    model = tiny.native(
        d_model=width, d_head=places, n_heads=2, n_layers=2, n_ctx=places, d_vocab=words,
        normalization_type=None, attn_only=True,
    )  # fmt: skip
    model.tokenizer = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model, words, places, width


def set_by_hand():
    if not tiny.HAS_BRIDGE:
        pytest.skip("the weights are set in the modules of a bridge")
    model, words, places, width = hand_made()
    eye = torch.eye
    with torch.no_grad():
        model.embed.original_component.weight[:, :words] = eye(words)
        model.pos_embed.original_component.weight[:, words : words + places] = eye(places)
        model.unembed.original_component.weight[:, :words] = eye(words)
        one, two = (
            {n: getattr(block.attn, n).original_component.weight for n in "qkvo"}
            for block in model.blocks
        )
        sharp = 400.0
        # Rows of Linear are outputs: head 0 is rows 0..23, head 1 rows 24..47.
        at = slice(words, words + places)
        one["q"][:places, at] = sharp * eye(places).roll(-1, 0)
        one["q"][places - 1] = 0
        one["k"][:places, at] = eye(places)
        one["v"][:words, :words] = eye(words)
        one["o"][words + places :, :words] = eye(words)
        # The same word; its own position is refused by its place in the other entries.
        one["q"][places : places + words, :words] = sharp * eye(words)
        one["k"][places : places + words, :words] = eye(words)
        two["q"][:words, :words] = sharp * eye(words)
        two["k"][:words, words + places :] = eye(words)
        two["v"][:words, :words] = eye(words)
        two["o"][:words, :words] = eye(words)
    return model


def test_heads_whose_weights_were_set_have_their_roles_and_no_others():
    model = set_by_hand()
    found = roles(model, only=("previous", "duplicate", "induction", "sink"), probes=4, length=5,
                  verbose=False)  # fmt: skip
    names = {role: [str(h) for h in found.passing(role)] for role in found.names}
    assert found["previous"][0, 0] == pytest.approx(1, abs=1e-6)
    assert found["induction"][1, 0] == pytest.approx(1, abs=1e-6)
    # L0H1 shares its attention between the word and its copy.
    assert found["duplicate"][0, 1] == pytest.approx(0.5, abs=1e-6)
    assert names["duplicate"] == ["L0H1"] and names["induction"] == ["L1H0"]
    assert names["previous"][0] == "L0H0"
    assert found["previous"][0, 1] == pytest.approx(0, abs=1e-6)
    assert found["duplicate"][0, 0] == found["induction"][0, 0] == pytest.approx(0, abs=1e-6)
    assert found["sink"][0, 0] == pytest.approx(0, abs=1e-6)
    assert found.of("L1H0")[0] == "induction"


def test_the_same_seed_gives_the_same_scores_alone_or_together(llama):
    every = roles(llama, **SMALL)
    for only in ("induction", "copying"):
        alone = roles(llama, only=only, **SMALL)
        np.testing.assert_array_equal(alone[only], every[only])
        assert alone.thresholds[only] == every.thresholds[only]
    other = roles(llama, only="induction", seed=1, **SMALL)
    assert not np.array_equal(other["induction"], every["induction"])


def test_a_model_without_a_tokenizer_has_all_roles_but_successor(native):
    bare = tiny.native()
    bare.tokenizer = None
    found = roles(bare, **SMALL)
    assert np.isnan(found["successor"]).all() and np.isfinite(found["copying"]).all()
    assert np.isnan(found.thresholds["successor"]) and found.passing("successor") == ()
    assert any("successor is not measured" in note for note in found.notes)
    assert "not measured" in str(found) and found.figure().data


def test_what_passes_is_above_the_largest_control_and_the_margin(llama):
    found = roles(llama, margin=0.05, **SMALL)
    for role in found.names:
        limit = found.thresholds[role]
        extra = 0 if role == "sink-free" else 0.05
        if np.isnan(limit):
            continue
        assert limit == pytest.approx(found.controls[role].max() + extra)
        passing = {str(h) for h in found.passing(role)}
        above = {f"L{i}H{h}" for i, h in zip(*np.nonzero(found[role] > limit), strict=True)}
        assert passing == above
        for head in passing:
            assert role in found.of(head)
    frame = found.to_dataframe()
    assert len(frame) == 8 and frame.loc["L1H2", "previous"] == found["previous"][1, 2]


def graph_with_roles(native):
    graph = vt.flow_graph(native, "a b c")
    grid = np.zeros((2, 4))
    strong = grid.copy()
    strong[1, 2], strong[0, 1] = 0.9, 0.4
    sink = grid.copy()
    sink[1, 2] = sink[1, 3] = 1.0
    scores = {"induction": strong, "sink": sink, "copying": strong * 0.5}
    found = HeadRoles("native", scores, dict.fromkeys(scores, grid), 0.1, 0)
    return found, found.onto(graph)


def test_roles_are_put_on_the_heads_of_a_graph_and_survive_files(native, tmp_path):
    found, graph = graph_with_roles(native)
    assert graph["L1H2"].roles == ("induction", "copying", "sink")
    assert graph["L1H3"].roles == ("sink",) and graph["L0H0"].roles == ()
    assert vt.FlowGraph.load(graph.save(tmp_path / "g.json")) == graph
    assert "induction copying sink" in graph.text()
    page = graph.save(tmp_path / "g.html").read_text(encoding="utf-8")
    assert '"roleNames":["induction","copying","sink"]' in page or '"roleNames":[' in page
    assert "const ROLES" in page and "rim of a head" in page
    table = graph.save(tmp_path / "g.csv").read_text(encoding="utf-8")
    assert table.splitlines()[0].endswith(",roles") and '""induction""' in table
    graph.save(tmp_path / "g.csv")
    assert list(graph.heads().loc["L1H2", "roles"]) == ["induction", "copying", "sink"]
    plain = vt.flow_graph(native, "a b c").save(tmp_path / "p.html").read_text(encoding="utf-8")
    assert "ROLES" not in plain and "roleNames" not in plain
    other = HeadRoles("other", found.scores, found.controls, 0.1, 0)
    with pytest.raises(vt.GraphError, match="roles are of other"):
        other.onto(graph)


def test_roles_are_compared_with_the_classes_of_a_reference():
    grid = np.zeros((12, 12))
    reference = vt.circuits.load("ioi-wang-2022")
    heads = reference.classes["induction"]
    for head in heads:
        grid[head.layer, head.head] = 0.8
    found = HeadRoles("gpt2", {"induction": grid}, {"induction": np.zeros((12, 12))}, 0.1, 0)
    frame = found.compared("ioi-wang-2022")
    row = frame.loc[("induction", "induction")]
    assert row["auroc"] == 1 and row["with role"] == row["heads"] == len(heads)
    with pytest.raises(vt.InputError, match="roles are of x"):
        HeadRoles("x", {"a": grid[:2, :2]}, {"a": grid[:2, :2]}, 0.1, 0).compared(reference)


def test_refusals(native):
    with pytest.raises(vt.InputError, match="roles are previous"):
        roles(native, only="name mover")
    with pytest.raises(vt.InputError, match="no role was asked"):
        roles(native, only=[])
    with pytest.raises(vt.InputError, match="4 tokens twice"):
        roles(native, length=2, only="induction")
    bare = tiny.native()
    bare.tokenizer = None
    with pytest.raises(vt.InputError, match="no BOS"):
        roles(bare, prepend_bos=True)
    found = roles(native, only="induction", **SMALL)
    with pytest.raises(vt.InputError, match="measured are induction"):
        found["previous"]
    with pytest.raises(vt.InputError, match="8 heads"):
        found.top("induction", 9)
    with pytest.raises(vt.GraphError, match="no head of native"):
        found.of("L7H0")


def test_words_of_a_class_are_found_by_any_tokenizer():
    model = prompt_tokenizers.model()
    assert head_values.one_token_classes(vt.ModelView(model)) == {}


@pytest.mark.model
def test_smollm2_has_induction_heads_fed_by_a_previous_token_head(smol):
    found = roles(smol, only=("previous", "induction"), probes=2, verbose=False)
    assert str(found.top("previous", 1)[0]) == "L16H0"
    assert {"L18H6", "L17H3", "L17H4"} <= {str(h) for h in found.top("induction", 5)}
    scores = vt.circuits.composition_scores(smol, kinds="k", verbose=False)
    edges = [str(edge) for edge in scores.top(8)]
    assert "L16H0->L17H3<k>" in edges and "L16H0->L18H6<k>" in [*edges, *map(str, scores.top(12))]
