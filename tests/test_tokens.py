"""Text to tokens as the model's own tokenizer does it, and tokens to text that can be read."""

import copy
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

import visit_tl as vt
from tests import tiny
from visit_tl import ModelView
from visit_tl.circuits.prompts.tokenizing import open_tokens
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.model.tokens import _BYTES, _bytes_of, _show_bytes
from visit_tl.view.page.document import page


def test_strings_become_tokens_as_the_models_own_to_tokens_does_it(model):
    view = ModelView(model)
    assert list(view.tokens.encode("a b", None).ids) == model.to_tokens("a b")[0].tolist()
    assert (
        list(view.tokens.encode("a b", False).ids)
        == model.to_tokens("a b", prepend_bos=False)[0].tolist()
    )


def test_whether_a_bos_was_prepended_is_said(model):
    tokens = ModelView(model).tokens
    assert tokens.encode("a b", None).prepend_bos is True
    assert tokens.encode("a b", True).prepend_bos is True
    assert tokens.encode("a b", False).prepend_bos is False
    assert tokens.encode([0, 1, 2], None).prepend_bos is False


CHAT = "<bos>a b<bos>c"


def test_a_text_that_begins_with_bos_gets_no_other(model):
    """`<bos>` is 0, `a` 1, ` b` 13, `c` 3; a BOS further on is a token like any other."""
    tokens = ModelView(model).tokens
    for asked in (None, False):
        prompt = tokens.encode(CHAT, asked)
        assert (prompt.ids, prompt.prepend_bos) == ((0, 1, 13, 0, 3), False)
        assert prompt.bos_in_prompt and prompt.text == CHAT
    assert not tokens.encode("a b", None).bos_in_prompt
    assert tokens.encode([0, 1], None).bos_in_prompt and not tokens.encode([1], None).bos_in_prompt


def test_a_second_bos_comes_only_if_it_is_asked_for(model):
    prompt = ModelView(model).tokens.encode(CHAT, True)
    assert (prompt.ids, prompt.prepend_bos) == ((0, 0, 1, 13, 0, 3), True)
    assert prompt.bos_in_prompt


def test_a_tokenizer_alone_puts_one_bos_as_well():
    tokens = open_tokens(tiny.tokenizer())
    assert tokens.encode(CHAT, None).ids == (0, 1, 13, 0, 3)
    assert tokens.encode("a b", None).ids == (0, 1, 13)


def test_the_graph_of_a_chat_template_has_one_bos_and_says_so():
    model = tiny.native()
    # A tokenizer of its own: the others are shared.
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    text = model.tokenizer.apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False)
    assert text == "<bos>a b"
    graph = vt.flow_graph(model, text)
    assert graph.token_ids == (0, 1, 13)
    assert (graph.prepend_bos, graph.bos_in_prompt) == (False, True)
    assert "no BOS put before: the prompt begins with one itself" in _one_line(graph.text())
    assert "no BOS put before: the prompt begins with one itself" in page(graph)
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph
    # The same numbers as those of the prompt whose BOS the model put there.
    same = vt.flow_graph(model, "a b")
    assert (same.prepend_bos, same.bos_in_prompt) == (True, False)
    assert same.nodes == graph.nodes
    forced = vt.flow_graph(model, text, prepend_bos=True)
    assert forced.token_ids == (0, 0, 1, 13)
    assert "which begins with another itself" in _one_line(forced.text())


def test_one_bos_wherever_a_prompt_is_given(native):
    def metric(logits):
        return logits[0, -1, 5]

    text, other, ids = "<bos>a b", "<bos>c d", [0, 1, 13]
    quiet = {"verbose": False}
    assert [g.token_ids for g in vt.flow_graphs(native, [text, "a b"], **quiet)] == [(0, 1, 13)] * 2
    assert vt.generate(native, text, 1, **quiet)[0].token_ids == (0, 1, 13)
    assert vt.lens_table(native, text).tokens == ("<bos>", "a", " b")
    assert vt.causal.attribute(native, text).token_ids == (0, 1, 13)
    asked = {"corrupted": other, "verbose": False}
    by_text = vt.causal.effects(native, text, metric, **asked)
    by_ids = vt.causal.effects(native, ids, metric, corrupted=[0, 3, 15], verbose=False)
    assert (by_text.token_ids, by_text.values) == ((0, 1, 13), by_ids.values)
    edges = vt.causal.edge_effects(native, text, metric, receivers=["logits"], **asked)
    assert edges.token_ids == (0, 1, 13)
    pairs = [[(text, other)], [(ids, [0, 3, 15])]]
    one, two = (vt.causal.faithfulness(native, p, metric, ["L0H0"], **quiet) for p in pairs)
    assert one == two


def test_an_older_file_without_the_fact_is_read_as_before(native):
    data = to_json(vt.flow_graph(native, "a b")) | {"schema": 2}
    assert data.pop("bos_in_prompt") is False
    assert from_json(data).bos_in_prompt is False


def _one_line(text):
    return " ".join(text.split())


def test_ids_are_taken_as_they_are_and_shown_as_text(native):
    prompt = ModelView(native).tokens.encode([1, 12, 3], None)
    assert (prompt.ids, prompt.text) == ((1, 12, 3), "a ac")


def test_a_stray_byte_is_shown_as_a_byte(native):
    assert ModelView(native).tokens.text(17) == "<0xE2>"


def test_tokens_are_read_once_for_a_tokenizer_until_it_is_given_more():
    model = tiny.native()
    count = len(model.tokenizer)
    assert ModelView(model).tokens.text(count) == f"<{count}>"
    assert ModelView(model).tokens.text(3) is ModelView(model).tokens.text(3)
    model.tokenizer.add_tokens(["new"])
    assert ModelView(model).tokens.text(count) == "new"


@given(st.binary(min_size=1, max_size=12))
def test_bytes_are_shown_as_text_where_they_are_text(raw):
    shown = _show_bytes(raw)
    assert "\N{REPLACEMENT CHARACTER}" not in shown or "\N{REPLACEMENT CHARACTER}".encode() in raw
    rebuilt = b""
    rest = shown
    while rest:
        if rest.startswith("<0x") and rest[5:6] == ">" and int(rest[3:5], 16) >= 0x80:
            rebuilt, rest = rebuilt + bytes([int(rest[3:5], 16)]), rest[6:]
        else:
            rebuilt, rest = rebuilt + rest[0].encode(), rest[1:]
    assert rebuilt == raw or b"<0x" in raw


def test_the_byte_alphabet_has_a_stand_in_for_every_byte():
    assert sorted(_BYTES.values()) == list(range(256))
    assert _bytes_of("\u0120a") == b" a"
    assert _bytes_of("\u4e2d") is None


@pytest.mark.parametrize("target", [" b", 13])
def test_a_target_is_one_token_as_text_or_as_id(native, target):
    assert ModelView(native).tokens.single(target) == 13
