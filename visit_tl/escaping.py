"""Make tokens readable: every character visible, and nothing read as markup.

A vocabulary holds spaces, newlines, control characters, incomplete characters and text that looks
like HTML. `visible` makes each of them visible; `for_plotly`, `for_html` and `for_xml` then escape
the result for the format in which it is drawn. Escape once, where the text is drawn.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from typing import Final

ELLIPSIS: Final = "…"

_NAMED: Final = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": r"\r"}
_WORD: Final = re.compile(r"\S+")
# The Unicode blocks that hold all right-to-left characters (bidirectional classes R, AL, AN).
_MAY_TURN: Final = re.compile(
    "[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
# Characters that XML 1.0 cannot hold, and the carriage return, which XML parsers rewrite.
_NOT_CARRIED: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNSEEN: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"))
_RIGHT_TO_LEFT: Final = frozenset(("R", "AL", "AN"))

# Plotly reads a subset of HTML, TeX between dollar signs where MathJax is loaded, and %{...}
# where a layout has `meta`; it turns numeric entities back into characters after all three.
_PLOTLY: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"})


@lru_cache(maxsize=1 << 16)
def visible(text: str, limit: int | None = None) -> str:
    r"""A token or prompt with every character visible.

    Args:
        text: The text as the tokenizer decodes it.
        limit: The maximum number of terminal columns of the result; a longer text ends in an
            ellipsis. None for no limit.

    Returns:
        The text with spaces as `␣`, newlines as `⏎`, tabs as `⇥`, and every other character that
        cannot be seen (controls, bidi marks, zero-width characters, halves of surrogate pairs) as
        an escape such as `\x00` or `\u202e`. A combining mark without a base character gets a
        dotted circle. The empty string is `⟨empty⟩`.
    """
    if not text:
        return "⟨empty⟩"
    pieces, bare = [], True
    for character in text:
        piece = _visible_character(character)
        pieces.append("◌" + piece if bare and unicodedata.combining(character) else piece)
        bare = piece != character
    shown = "".join(pieces)
    return shown if limit is None else clip(shown, limit)


def clip_start(text: str, limit: int) -> str:
    """Clip a text at its start to at most `limit` terminal columns, with an ellipsis.

    For prompts: the graph is about the end of the prompt, so the end is kept.
    """
    return clip(text[::-1], limit)[::-1]


def columns(text: str) -> int:
    """How many terminal columns a text takes: two for wide characters, none for combining marks."""
    return len(text) if text.isascii() else sum(map(_width, text))


def pad(text: str, width: int) -> str:
    """The text, filled with spaces to a number of terminal columns."""
    return text + " " * max(0, width - columns(text))


def for_html(text: str) -> str:
    """Escape text for an HTML element or a quoted attribute."""
    return html.escape(text, quote=True)


def carried(text: str) -> str:
    r"""Escape the characters that not every file format can hold; keep spaces and newlines.

    NUL, other control characters, halves of surrogate pairs and noncharacters become escapes such
    as `\x00`.
    """
    return _NOT_CARRIED.sub(lambda found: _visible_character(found[0]), text)


def for_xml(text: str) -> str:
    """Escape text for an XML element or a quoted attribute; the result is always well formed.

    Right-to-left words are isolated; see `isolated`.
    """
    return html.escape(isolated(carried(text)), quote=True)


def for_plotly(text: str) -> str:
    """Escape text for Plotly's labels, hovers, titles and annotations.

    Plotly then shows it as it is. Right-to-left words are isolated; see `isolated`.
    """
    return isolated(text.translate(_PLOTLY))


def isolated(text: str) -> str:
    """Isolate right-to-left words, so that they do not reorder the text around them."""
    # Few texts have such words. Testing every character of every text took a fifth of the time
    # of making a page.
    return _WORD.sub(_isolate, text) if _MAY_TURN.search(text) else text


def _isolate(word: re.Match[str]) -> str:
    if any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in word[0]):
        return f"\u2068{word[0]}\u2069"
    return word[0]


def _visible_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(maxsize=1 << 12)
def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, limit: int) -> str:
    """Clip a text at its end to at most `limit` terminal columns, with an ellipsis."""
    if columns(text) <= limit:
        return text
    kept, used = [], 0
    for character in text:
        used += _width(character)
        if used > limit - 1:
            break
        kept.append(character)
    return "".join(kept) + ELLIPSIS


def table(rows: list[list[str]], right: tuple[int, ...] = ()) -> list[str]:
    """Rows as lines of text with aligned columns; those in `right` are aligned to the right."""
    sizes = [max(columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            pad("", sizes[i] - columns(cell)) + cell if i in right else pad(cell, sizes[i])
            for i, cell in enumerate(row)
        )
        for row in rows
    ]
