"""Attention of chosen heads over the whole prompt, drawn by CircuitsVis, without a network.

CircuitsVis gives an HTML snippet, and tries to reach a search engine to decide whether to load its
script from a CDN. Here the script that ships with it is put into a separate page, in a sandboxed
frame, with a content security policy that forbids all requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import File, Flag
from visit_tl.errors import InputError
from visit_tl.escaping import for_html, visible
from visit_tl.graph.descriptions import readable

_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
_HEIGHT: Final = 620
_CALL: Final = "CircuitsVis.render("


@dataclass(frozen=True)
class AttentionView:
    """Attention of some heads, to look at: it draws itself in a notebook.

    Attributes:
        heads: Names of the heads, in the order given.
        html: The whole page.
    """

    heads: tuple[str, ...]
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="attention of {for_html(", ".join(self.heads))}" '
            f'sandbox="allow-scripts" style="width:100%;height:{_HEIGHT}px;border:0" '
            f'srcdoc="{for_html(self.html)}"></iframe>'
        )

    @checked
    def save(self, path: File, *, overwrite: Flag = False) -> Path:
        """Write the page to an `.html` file; see `FlowGraph.save` for what is refused.

        Raises:
            FileError: another suffix, or a path that cannot be written.
        """
        from visit_tl.files import write_page

        return write_page(path, self.html, overwrite=overwrite)


def attention(
    patterns: Float[np.ndarray, "head pos pos"],
    tokens: Sequence[str],
    heads: Sequence[str],
    *,
    title: str = "",
    segments: Sequence[tuple[int, int]] = (),
) -> AttentionView:
    """Draw attention patterns from each token to those that it sees, one map per head.

    Args:
        patterns: Attention in [0, 1]; rows are query positions.
        tokens: Text of the tokens.
        heads: Names of the heads.
        title: Text above the maps.
        segments: Ranges of tokens that see each other; without any, later keys are left out.

    Raises:
        InputError: there is no head, or the patterns do not fit the numbers of heads and tokens.
    """
    if not heads or patterns.shape != (len(heads), len(tokens), len(tokens)):
        raise InputError(
            f"patterns of {list(patterns.shape)} do not fit {len(heads)} heads and "
            f"{len(tokens)} tokens: they must be [head, pos, pos], of at least one head"
        )
    from circuitsvis.attention import attention_heads

    rendered = attention_heads(
        attention=np.round(np.asarray(patterns, dtype=float), 4),
        tokens=[visible(token) for token in tokens],
        attention_head_names=[visible(head) for head in heads],
        max_value=1.0,
        min_value=0.0,
        mask_upper_tri=not segments,
    )
    return AttentionView(tuple(heads), _page(rendered.local_src, title))


def _page(snippet: str, title: str) -> str:
    """The snippet as a page; our texts in its script are escaped, so that they cannot end it."""
    before, _, call = snippet.rpartition(_CALL)
    arguments, closing, _ = call.rpartition("</script>")
    name = snippet.partition('id="')[2].partition('"')[0]
    safe = arguments.replace("<", "\\u003c").replace("\u2028", "\\u2028")
    script = f"{before}{_CALL}{safe}{closing}".replace(name, "attention")
    words = for_html(readable(title)) if title else "attention"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{for_html(_POLICY)}">'
        f'<meta name="generator" content="visit_tl"><title>{words}</title>'
        "<style>body{font:14px/1.4 sans-serif;margin:12px}</style></head>"
        f"<body><p>{words}</p>{script}</body></html>"
    )
