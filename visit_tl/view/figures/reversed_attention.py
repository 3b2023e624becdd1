"""Reversed Attention: norms of all heads, and maps of some heads beside their attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import plotly.graph_objects as go

from visit_tl.errors import InputError
from visit_tl.escaping import columns, for_html, table, visible
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.graph.descriptions import number, segments_words
from visit_tl.view import save_figures
from visit_tl.view.attention import AttentionView
from visit_tl.view.attention import attention as draw
from visit_tl.view.figures.gradient_caption import (
    header,
    line,
    loss_words,
    lowers,
    title,
    title_height,
)
from visit_tl.view.figures.head_map import head_map
from visit_tl.view.figures.reversed_maps import maps

KINDS: Final = ("norms", "maps")
Heads = Sequence[tuple[int, int]]
"""Layer and head of each."""

_LEAST_WIDTH: Final = 720
_ENTRIES: Final = 3
"""How many entries of R the text names of each head, at most."""
_ROOM: Final = 77
"""The most columns of them; those that do not fit are left out."""
_TOKEN: Final = 9
_HEADS_AXIS: Final = 44
"""Height in px of the numbers and the name of the axis of heads."""


def figure(
    found: ReversedAttention, kind: str = "norms", *, heads: Heads, theme: str = "light"
) -> go.Figure:
    """Draw the norms of R of all heads, or the maps of some.

    Args:
        found: The reversed attention.
        kind: `norms`: layers x heads. `maps`: for each head its attention and its R.
        heads: The heads of `maps`.
        theme: `light` or `dark`.

    Raises:
        InputError: the kind or theme is unknown, or there are no heads.
    """
    if kind not in KINDS:
        raise InputError(f"reversed attention is drawn as {', '.join(KINDS)}; got {kind!r}")
    return _norms(found, theme) if kind == "norms" else maps(found, heads, theme)


def text(found: ReversedAttention, heads: Heads) -> str:
    """Some heads as text, at most 110 columns wide; ends in a newline.

    For each head the norms of R and of the attention, and the largest entries of R as
    `query → key value`.
    """
    lines = [
        *header(found),
        line("R", f"reversed attention; a step along -R lowers {lowers(found)}"),
    ]
    rows = [["head", "norm of R", "norm of A", "largest entries of R, query → key"]]
    for layer, head in heads:
        i = found.layers.index(layer)
        norms = (number(float(n[i, head])) for n in (found.norms, found.forward_norms))
        rows.append([f"L{layer}H{head}", *norms, _largest(found, layer, head)])
    lines += ["", *(row.rstrip() for row in table(rows, right=(1, 2)))]
    return "\n".join(lines) + "\n"


def html(found: ReversedAttention) -> str:
    """The strongest heads as text, for the output cell of a notebook."""
    return f"<pre>{for_html(text(found, found.strongest()))}</pre>"


def circuitsvis(found: ReversedAttention, heads: Heads) -> AttentionView:
    """The attention of some heads, and the positive and the negative part of R, by CircuitsVis.

    CircuitsVis draws numbers from 0 to 1. The parts of R are divided by the largest |R| of their
    head, so that they can be compared with each other, but not between heads.

    Raises:
        InputError: there are no heads.
    """
    patterns, names = [], []
    for layer, head in heads:
        r = found.map(layer, head)
        most = float(np.abs(r).max()) or 1.0
        patterns += [found.forward_map(layer, head), np.maximum(r, 0) / most]
        patterns.append(np.maximum(-r, 0) / most)
        names += [f"L{layer}H{head}·{part}" for part in ("A", "R+", "R−")]
    n = len(found.tokens)
    patched = f" (patched at {', '.join(found.patched)})" if found.patched else ""
    masked = f" (segments: {segments_words(found.segments)})" if found.segments else ""
    return draw(
        np.stack(patterns) if patterns else np.zeros((0, n, n)),
        list(found.tokens),
        names,
        title=f"{found.model}: {found.prompt}{masked}{patched} · {loss_words(found)} · "
        "A: attention · R+, R−: reversed attention above and below 0, divided by the largest |R| "
        "of its head",
        segments=found.segments,
    )


def save(
    found: ReversedAttention,
    path: str | Path,
    *,
    overwrite: bool = False,
    kind: str = "norms",
    heads: Heads,
    theme: str = "light",
) -> Path:
    """Write the result in the format that the suffix of the path names.

    Args:
        found: The reversed attention.
        path: Where. An `.html` file has the norms and the maps of the heads; a `.csv` file has all
            heads.
        overwrite: Replace an existing file even if visit_tl did not write it.
        kind: What a picture shows, as for `figure`.
        heads: As for `figure`, and the heads of the text.
        theme: As for `figure`.

    Raises:
        FileError: as `save_figures.save`.
        InputError: as `figure`.
    """

    def sections() -> list[save_figures.Section]:
        drawn = [figure(found, one, heads=heads, theme=theme) for one in KINDS]
        return [save_figures.Section("Reversed Attention", drawn, text(found, heads))]

    return save_figures.save(
        path,
        save_figures.Content(
            figure=lambda: figure(found, kind, heads=heads, theme=theme),
            text=lambda: text(found, heads),
            table=found.to_dataframe,
            sections=sections,
            title=f"Reversed Attention · {found.model} · {found.prompt}",
            theme=theme,
        ),
        overwrite=overwrite,
    )


def _norms(found: ReversedAttention, theme: str) -> go.Figure:
    drawn = head_map(found.norms, score="‖R‖", theme=theme)
    said = ["colour: ‖R‖, the norm of the reversed attention"]
    width = max(drawn.layout.width, _LEAST_WIDTH)
    top = title_height(found, said) + _HEADS_AXIS
    margin = drawn.layout.margin
    names = [str(layer) for layer in found.layers]
    # Layers that were not computed have no row.
    step = drawn.layout.yaxis.dtick
    rows = [i for i, layer in enumerate(found.layers) if layer % step == 0 or len(names) < step]
    drawn.update_layout(
        title=title(found, said, width),
        width=width,
        height=drawn.layout.height - margin.t + top,
        margin={"t": top, "r": margin.r + width - drawn.layout.width},
        yaxis={
            "tickmode": "array",
            "tickvals": rows,
            "ticktext": [names[i] for i in rows],
        },
    )
    drawn.data[0].customdata = [
        [_hover(found, i, head) for head in range(found.n_heads)] for i in range(len(names))
    ]
    return drawn


def _hover(found: ReversedAttention, i: int, head: int) -> str:
    return (
        f"<b>L{found.layers[i]}H{head}</b><br>norm of R {number(float(found.norms[i, head]))}<br>"
        f"norm of A, the attention, {number(float(found.forward_norms[i, head]))}"
    )


def _largest(found: ReversedAttention, layer: int, head: int) -> str:
    """The largest entries of R of a head."""
    r = found.map(layer, head)
    order = np.argsort(-np.abs(r), axis=None, kind="stable")[:_ENTRIES]
    said = ""
    for at in order:
        query, key = divmod(int(at), r.shape[1])
        value = float(r[query, key])
        more = f"{_named(found, query)} → {_named(found, key)} {value:+.1e}"
        if value == 0 or columns(said) + columns(more) > _ROOM:
            break
        said += f"{more}  "
    return said.rstrip()


def _named(found: ReversedAttention, position: int) -> str:
    at = str(position)
    return f"{visible(found.tokens[position], _TOKEN - len(at))} {at}"
