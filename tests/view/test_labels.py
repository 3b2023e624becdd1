"""Tokens are readable, and never markup."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.view.synthetic import HOSTILE
from visit_tl.escaping import clip, clip_start, columns, for_html, for_plotly, pad, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Tokyo", "␣Tokyo"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        ("\x00", r"\x00"),
        ("\xa0", r"\xa0"),
        ("\u202eabc", r"\u202eabc"),
        ("\u200d", r"\u200d"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        ("\u0301", "◌\u0301"),
        ("\ufffd", "\ufffd"),
        ("🙂", "🙂"),
        ("", "⟨empty⟩"),
        ("<b>", "<b>"),
    ],
)
def test_every_character_shows(token, shown):
    assert visible(token) == shown


@given(st.text())
def test_nothing_unseen_is_left(text):
    shown = visible(text)
    assert shown
    shown.encode()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl"}


@given(st.text(min_size=1), st.integers(1, 20))
def test_a_limit_holds(text, limit):
    assert columns(visible(text, limit)) <= limit


def test_wide_characters_count_twice():
    assert columns("日本") == 4
    assert clip("日本語", 5) == "日本…"
    assert pad("日", 4) == "日  "
    assert clip_start("abcdef", 4) == "…def"


@given(st.text() | st.sampled_from(HOSTILE))
def test_plotly_gets_no_tag_no_template_and_no_tex(text):
    drawn = for_plotly(visible(text))
    assert not re.search(r"[<>$%]", drawn)
    assert not re.search(r"&(?!(amp|lt|gt|#36|#37);)", drawn)
    assert re.sub("[\u2068\u2069]", "", html.unescape(drawn)) == visible(text)


def test_right_to_left_text_is_isolated():
    assert for_plotly("שלום 0.5 a") == "\u2068שלום\u2069 0.5 a"


@given(st.text())
def test_html_is_escaped_once(text):
    assert html.unescape(for_html(text)) == text
    assert not set("<>\"'") & set(for_html(text))


def test_every_character_that_turns_words_round_is_in_the_blocks_that_are_looked_at():
    import sys
    import unicodedata

    from visit_tl.escaping import _MAY_TURN, _RIGHT_TO_LEFT

    turning = [
        c
        for c in map(chr, range(sys.maxunicode + 1))
        if unicodedata.bidirectional(c) in _RIGHT_TO_LEFT
    ]
    assert len(turning) > 1000
    assert all(_MAY_TURN.search(c) for c in turning)
