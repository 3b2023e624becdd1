"""Shorter JSON for the page: phrases that every hover repeats become single characters.

The characters are of Unicode's private use area. `labels.visible` escapes those in tokens, and what
else is in a figure is ours, so no text can hold one by itself. Measured on a graph of 30 blocks and
4142 nodes: 2.4 MB of figures become 1.5 MB, without a decoder that a browser may lack.
"""

from __future__ import annotations

import json
from typing import Any, Final

from visit_tl.graph.flow import FlowGraph
from visit_tl.view.labels import for_plotly, visible
from visit_tl.view.words import KIND_WORDS

_FIRST: Final = 0xE000
_PHRASES: Final = (
    "<br>top: ",
    "<br>bottom: ",
    "top: ",
    "made by ",
    " at position ",
    "subtracted: it promotes its bottom tokens",
    "<br>norm ",
    " · entropy ",
    " nats · coefficient ",
    " nats",
    "<br>blocks.",
    ".attn.hook_",
    ".mlp.hook_",
    ".hook_",
    "<br>looks at: ",
    "norm of what is added ",
    "norm of the source ",
    "attention ",
    "activation ",
    "entry of z ",
    "&lt;",
    "&gt;",
)


def pack(values: list[Any], graph: FlowGraph) -> tuple[list[str], list[str]]:
    """JSON texts with phrases replaced, and the phrases: the first is that of U+E000, and so on.

    `<`, `>` and `&` are escaped, so that the texts and the phrases can stand in a script element.
    """
    target = for_plotly(visible(graph.target))
    found = [
        f"<br>target {target}: rank ",
        for_plotly(f" of 0..{graph.d_vocab - 1}, p = "),
        *_pieces(),
        *_PHRASES,
    ]
    phrases = [to_json(phrase)[1:-1] for phrase in found]
    texts = []
    for value in values:
        text = to_json(value)
        for i, phrase in enumerate(phrases):
            text = text.replace(phrase, chr(_FIRST + i))
        texts.append(text)
    return texts, phrases


def to_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def _pieces() -> list[str]:
    """What the titles of nodes repeat: the words around the indices, longest first."""
    pieces = {
        piece.partition("}")[2] if "}" in piece else f" · {piece}"
        for words in KIND_WORDS.values()
        for piece in words.split("{")
    }
    return sorted((p for p in pieces if len(p) > 4), key=lambda p: (-len(p), p))
