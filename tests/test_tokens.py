"""Text to tokens as the model's own tokenizer does it, and tokens to text that can be read."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests import tiny
from visit_tl import ModelView
from visit_tl.model.tokens import _BYTES, _bytes_of, _show_bytes


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
