"""Ranks of a target by block, a line for each lens."""

from __future__ import annotations

from typing import Any, Final

import plotly.graph_objects as go

from visit_tl.escaping import clip_start, for_html, for_plotly, table, visible
from visit_tl.graph.descriptions import number, readable
from visit_tl.graph.ranks_by_lens import LensRanks
from visit_tl.view.style import CLASS_COLOURS, FONT_SIZE, ground, palette

_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_NO_MAP: Final = "·"


def figure(found: LensRanks, theme: str = "light") -> go.Figure:
    """Rank of the target by block, on a logarithmic axis with rank 0 at the top.

    The axis is of rank + 1. A block without a map is left out of the line.

    Args:
        found: The ranks.
        theme: `light` or `dark`.

    Raises:
        InputError: there is no such theme.
    """
    colours, kinds = palette(theme), CLASS_COLOURS[theme]
    made = go.Figure([
        go.Scatter(
            x=[_block(b) for b, rank in zip(found.blocks, ranks, strict=True) if rank is not None],
            y=[rank + 1 for rank in ranks if rank is not None],
            customdata=[[rank, number(prob or 0.0)] for rank, prob in zip(ranks, probs, strict=True)
                        if rank is not None],
            hovertemplate="rank %{customdata[0]} · p = %{customdata[1]}",
            name=for_plotly(readable(name)),
            mode="lines+markers",
            line={"color": kinds[i % len(kinds)], "width": 2, "dash": _DASHES[i % len(_DASHES)]},
            marker={"size": 5},
        )
        for i, (name, ranks, probs) in enumerate(
            zip(found.lenses, found.ranks, found.probs, strict=True)
        )
    ])  # fmt: skip
    layout = ground(colours)
    del layout["hoverlabel"]["align"]  # Plotly aligns a hover of several lines itself
    ticks = [1, *(10**i + 1 for i in range(1, 7) if 10**i < found.d_vocab)]
    grid = {"gridcolor": colours.rule, "zeroline": False, "linecolor": colours.rule}
    made.update_layout(
        **layout,
        width=760,
        height=400,
        margin={"l": 76, "r": 24, "t": 92, "b": 56},
        hovermode="x unified",
        title=_title(found),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis=grid | {"title": {"text": "state after block", "standoff": 8}} | _blocks(found),
        yaxis=grid
        | {
            "type": "log",
            "title": {"text": "rank of the target"},
            "tickvals": ticks,
            "ticktext": [f"{tick - 1:,}" for tick in ticks],
            "autorange": "reversed",
        },
    )
    return made


def text(found: LensRanks) -> str:
    """The ranks as text: a row for each block, a column for each lens; ends in a newline."""
    rows = [["block", *(readable(name) for name in found.lenses)]]
    for i, block in enumerate(found.blocks):
        ranks = [own[i] for own in found.ranks]
        rows.append([_block(block), *(_NO_MAP if r is None else f"{r:,}" for r in ranks)])
    lines = [
        f"model       {readable(found.model)}",
        f'prompt      "{clip_start(readable(found.prompt), 96)}"',
        f"position    {found.position} ({visible(found.tokens[found.position])})",
        f"target      {visible(found.target)} ({_whose(found)})",
        "",
        *table(rows, right=tuple(range(len(rows[0])))),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def html(found: LensRanks) -> str:
    """The ranks as text, for the output cell of a notebook."""
    return f"<pre>{for_html(text(found))}</pre>"


def _block(block: int) -> str:
    return "embedding" if block < 0 else str(block)


def _whose(found: LensRanks) -> str:
    return "given" if found.target_given else "the model's own prediction"


def _blocks(found: LensRanks) -> dict[str, Any]:
    names = [_block(block) for block in found.blocks]
    step = max(1, len(names) // 12)
    shown = [names[0], *names[1::step]]
    short = ["emb." if name == "embedding" else name for name in shown]
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": names,
        "tickvals": shown,
        "ticktext": short,
        "tickangle": 0,
        "tickfont": {"size": FONT_SIZE},
    }


def _title(found: LensRanks) -> dict[str, Any]:
    prompt = for_plotly(clip_start(readable(found.prompt), 66))
    here = f"position {found.position} ({visible(found.tokens[found.position])})"
    second = for_plotly(f"target {visible(found.target)} ({_whose(found)}) · {here}")
    return {
        "text": f"<b>{for_plotly(readable(found.model))}</b> · “{prompt}”<br>"
        f'<span style="font-size:13px">{second}</span>',
        "font": {"size": 15},
        "x": 0,
        "xref": "container",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"l": 14, "t": 14},
    }
