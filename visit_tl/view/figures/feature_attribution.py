"""The pre-activation of a feature over heads and source positions; as text and as HTML."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.causal.attribution.feature_attribution_result import FeatureAttribution
from visit_tl.errors import InputError
from visit_tl.escaping import clip, clip_start, columns, for_html, for_plotly, table, visible
from visit_tl.graph.descriptions import number, patched_words, readable, segments_words
from visit_tl.view.figures.head_map import colour_scale
from visit_tl.view.style import FONT_SIZE, Palette, ground, palette

_POSITIONS: Final = 48
_CELL: Final = (30, 24)
"""Width and height of a cell in px."""
_BARS: Final = (180, 110)
"""Length in px of the axis of the bars that lie, and of those that stand."""
_NUMBER: Final = (44, 18)
"""Room in px for the number of a bar that lies, and of one that stands."""
_GAP: Final = 10
_LABEL: Final = 12
_CHARACTER: Final = 7.2
_TOP: Final = 100
_SIDE: Final = 16
_ROWS: Final = 12
_TEXT_WIDTH: Final = 110


def text(found: FeatureAttribution) -> str:
    """The pre-activation, the largest memory values, and the heads, as text."""
    rows = [["memory value", "of", "adds", "share"]]
    for row in found.to_dataframe().head(_ROWS).itertuples():
        token = f"{visible(row.token, 20)}@{row.key_position}"
        rows.append([row.value, token, number(row.adds), _share(found, row.adds)])
    heads = [["head", "adds", "share"]]
    sums: list[float] = found.heads.tolist()
    order = sorted(range(len(sums)), key=lambda h: (-abs(sums[h]), h))[:_ROWS]
    layer = found.feature.layer
    heads += [[f"L{layer}H{h}", number(sums[h]), _share(found, sums[h])] for h in order]
    heads.append(["b_enc", number(found.bias), _share(found, found.bias)])
    lines = [
        _line("model", readable(found.model)),
        _line("prompt", f'"{clip_start(readable(found.prompt), _TEXT_WIDTH - 14)}"'),
        _line("feature", _feature(found)),
        _line("value", _value(found)),
        *(_line(name, fact) for name, fact in _changed(found)),
        "",
        *(row.rstrip() for row in table(rows, right=(2, 3))),
        "",
        *(row.rstrip() for row in table(heads, right=(1, 2))),
    ]
    return "\n".join(lines) + "\n"


def html(found: FeatureAttribution) -> str:
    """The text, escaped, for the output cell of a notebook."""
    return f"<pre>{for_html(text(found))}</pre>"


def _feature(found: FeatureAttribution) -> str:
    token = visible(found.tokens[found.position], 20)
    return f"{found.feature} of {readable(found.sae)} at {token}@{found.position}"


def _value(found: FeatureAttribution) -> str:
    return (
        f"pre-activation {number(found.pre_activation)} (bias {number(found.bias)}), "
        f"activation {number(found.activation)}"
    )


def _share(found: FeatureAttribution, value: float) -> str:
    return f"{value / found.pre_activation:.0%}" if found.pre_activation else ""


def _line(name: str, fact: str) -> str:
    return clip(f"{name:<12}{fact}", _TEXT_WIDTH)


def _changed(found: FeatureAttribution) -> list[tuple[str, str]]:
    facts = []
    if found.patched:
        facts.append(("patched", patched_words(found.patched)))
    if found.segments:
        facts.append(("segments", segments_words(found.segments)))
    return facts


def figure(
    found: FeatureAttribution, theme: str = "light", positions: int = _POSITIONS
) -> go.Figure:
    """A heat map of heads (rows) and source positions (columns), with the sums of both as bars.

    With more source positions than are shown, those that add the most have a column each, in the
    order of the prompt, and the last column is the sum of all others.

    Args:
        found: The attribution.
        theme: `light` or `dark`.
        positions: The most source positions that have a column of their own.

    Raises:
        InputError: there is no such theme, or positions is below 1.
    """
    colours = palette(theme)
    if type(positions) is not int or positions < 1:
        raise InputError(f"positions is {positions!r}; it must be an integer of at least 1")
    names, cells = _columns(found, positions)
    heads = [f"L{found.feature.layer}H{h}" for h in range(len(cells))]
    label = round(max(map(len, heads)) * _CHARACTER) + 18
    below = round(max(map(columns, names)) * _CHARACTER) + 16
    wide, high = _CELL[0] * len(names), _CELL[1] * len(heads)
    box = (_SIDE + label, _TOP + _BARS[1] + _GAP)
    width = max(box[0] + wide + _GAP + _BARS[0] + _SIDE, 640)
    height = box[1] + high + below + _SIDE
    x, y = (box[0], box[0] + wide), (box[1], box[1] + high)
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
    named = plain | {"tickmode": "array", "automargin": False}
    drawn = go.Figure(
        [
            _map(found, cells, names, heads, colours),
            _bars(cells.sum(1), heads, "y", colours),
            _bars(cells.sum(0), names, "x", colours),
        ]
    )
    drawn.update_layout(
        **ground(colours),
        xaxis=named
        | {
            "domain": [x[0] / width, x[1] / width],
            "range": [-0.5, len(names) - 0.5],
            "tickvals": list(range(len(names))),
            "ticktext": [for_plotly(name) for name in names],
            "tickangle": -90,
            "anchor": "y",
        },
        yaxis=named
        | {
            "domain": [1 - y[1] / height, 1 - y[0] / height],
            "range": [len(heads) - 0.5, -0.5],
            "tickvals": list(range(len(heads))),
            "ticktext": [f"{head} " for head in heads],
            "anchor": "x",
        },
        xaxis2=_sums(cells.sum(1), "x", colours)
        | {"domain": [(x[1] + _GAP) / width, (x[1] + _GAP + _BARS[0]) / width], "anchor": "y"},
        yaxis2=_sums(cells.sum(0), "y", colours)
        | {
            "domain": [1 - (y[0] - _GAP) / height, 1 - (y[0] - _GAP - _BARS[1]) / height],
            "anchor": "x",
        },
        width=width,
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        showlegend=False,
        bargap=0.3,
        hovermode="closest",
        title=_title(found, width),
    )
    return drawn


def _columns(
    found: FeatureAttribution, positions: int
) -> tuple[list[str], Float[np.ndarray, "head column"]]:
    """The names of the columns, and what each head adds by each."""
    seen = int(np.flatnonzero(found.parts.any(0)).max(initial=found.position)) + 1
    parts, most = found.parts[:, :seen], np.abs(found.parts[:, :seen]).sum(0)
    chosen = sorted(np.argsort(-most, kind="stable")[:positions].tolist())
    names = [f"{visible(found.tokens[j], _LABEL)} {j}" for j in chosen]
    cells = parts[:, chosen]
    if len(chosen) < seen:
        rest = parts.sum(1) - cells.sum(1)
        return [*names, f"{seen - len(chosen)} others"], np.column_stack([cells, rest])
    return names, cells


def _map(
    found: FeatureAttribution,
    cells: Float[np.ndarray, "head column"],
    names: list[str],
    heads: list[str],
    colours: Palette,
) -> go.Heatmap:
    most = float(np.abs(cells).max()) or 1.0
    scale = colour_scale(colours, signed=True)
    scale[len(scale) // 2][1] = colours.background
    hovers = [
        [
            f"<b>{head}</b> from <b>{for_plotly(name)}</b><br>adds {number(float(cells[h, j]))} to "
            f"the pre-activation {number(found.pre_activation)}"
            for j, name in enumerate(names)
        ]
        for h, head in enumerate(heads)
    ]
    return go.Heatmap(
        z=cells,
        zmin=-most,
        zmax=most,
        colorscale=scale,
        xgap=1,
        ygap=1,
        showscale=False,
        customdata=hovers,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _bars(
    sums: Float[np.ndarray, " part"], names: list[str], along: str, colours: Palette
) -> go.Bar:
    places = list(range(len(sums)))
    blue, _, _, _, orange = colours.ranks
    said = {
        "text": [_short(value) for value in sums.tolist()] if along == "y" else None,
        "textposition": "outside",
        "textfont": {"size": FONT_SIZE},
        "constraintext": "none",
        "cliponaxis": False,
        "marker": {"color": [f"rgb{blue if value >= 0 else orange}" for value in sums]},
        "customdata": [
            f"<b>{for_plotly(name)}</b> adds {number(float(value))} in all"
            for name, value in zip(names, sums, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    if along == "y":
        return go.Bar(x=sums, y=places, orientation="h", xaxis="x2", yaxis="y", **said)
    return go.Bar(x=places, y=sums, xaxis="x", yaxis="y2", **said)


def _short(value: float) -> str:
    """Two decimals, or three digits of a large number; with a minus sign of full width."""
    shown = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
    return ("0.00" if shown == "-0.00" else shown).replace("-", "−")


def _sums(sums: Float[np.ndarray, " part"], along: str, colours: Palette) -> dict[str, Any]:
    """The axis of the bars; the numbers of those that lie have room at both ends."""
    low, high = min(0.0, float(sums.min())), max(0.0, float(sums.max()))
    room = _NUMBER[0] if along == "x" else 4
    ends = (room if low < 0 else 4), (room if high > 0 else 4)
    unit = ((high - low) or 1.0) / (_BARS[along == "y"] - sum(ends))
    return {
        "range": [low - ends[0] * unit, high + ends[1] * unit],
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
        "nticks": 4,
        "showticklabels": along == "y",
        "side": "right",
        "zeroline": True,
        "zerolinecolor": colours.rule,
        "zerolinewidth": 1,
    }


def _title(found: FeatureAttribution, width: int) -> dict[str, Any]:
    model, room = readable(found.model), (width - 2 * _SIDE) / 7.2
    prompt = clip_start(readable(found.prompt), max(20, round(room / 1.2) - len(model) - 8))
    small = [_feature(found), _value(found)]
    small.append("rows: heads · columns: source positions · bars: their sums, without the bias")
    small[2] += "".join(f" · {name} {fact}" for name, fact in _changed(found))
    said = [f"<b>{for_plotly(model)}</b> · “{for_plotly(prompt)}”"]
    said += [
        f'<span style="font-size:13px">{for_plotly(clip(line, round(room)))}</span>'
        for line in small
    ]
    return {
        "text": "<br>".join(said),
        "x": 0,
        "xref": "container",
        "pad": {"l": _SIDE, "t": 28},
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "font": {"size": 15},
    }
