"""The pre-activation of a feature over heads and source positions; as text and as HTML."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from visit_tl.causal.attribution.feature_attribution_result import FeatureAttribution
from visit_tl.errors import InputError
from visit_tl.escaping import columns, for_plotly, table, visible
from visit_tl.graph.descriptions import number, readable
from visit_tl.view.figures import map_with_bars
from visit_tl.view.figures.map_with_bars import GAP, NAMED_AXIS, SIDE, TOP, line, share
from visit_tl.view.style import Palette, ground, palette

_POSITIONS: Final = 48
_CELL: Final = (30, 24)
"""Width and height of a cell in px."""
_BARS: Final = (180, 110)
"""Length in px of the axis of the bars that lie, and of those that stand."""
_NUMBER: Final = 44
"""Room in px for the number of a bar that lies."""
_LABEL: Final = 12
_CHARACTER: Final = 7.2
_ROWS: Final = 12


def text(found: FeatureAttribution) -> str:
    """The pre-activation, the largest memory values, and the heads, as text."""
    whole, rows = found.pre_activation, [["memory value", "of", "adds", "share"]]
    for row in found.to_dataframe().head(_ROWS).itertuples():
        token = f"{visible(row.token, 20)}@{row.key_position}"
        rows.append([row.value, token, number(row.adds), share(row.adds, whole)])
    heads = [["head", "adds", "share"]]
    sums: list[float] = found.heads.tolist()
    order = sorted(range(len(sums)), key=lambda h: (-abs(sums[h]), h))[:_ROWS]
    layer = found.feature.layer
    heads += [[f"L{layer}H{h}", number(sums[h]), share(sums[h], whole)] for h in order]
    heads.append(["b_enc", number(found.bias), share(found.bias, whole)])
    lines = [
        line("model", readable(found.model)),
        map_with_bars.prompt_line(found.prompt),
        line("feature", _feature(found)),
        line("value", _value(found)),
        *(line(name, fact) for name, fact in _changed(found)),
        "",
        *(row.rstrip() for row in table(rows, right=(2, 3))),
        "",
        *(row.rstrip() for row in table(heads, right=(1, 2))),
    ]
    return "\n".join(lines) + "\n"


def html(found: FeatureAttribution) -> str:
    """The text, escaped, for the output cell of a notebook."""
    return map_with_bars.preformatted(text(found))


def _feature(found: FeatureAttribution) -> str:
    token = visible(found.tokens[found.position], 20)
    return f"{found.feature} of {readable(found.sae)} at {token}@{found.position}"


def _value(found: FeatureAttribution) -> str:
    return (
        f"pre-activation {number(found.pre_activation)} (bias {number(found.bias)}), "
        f"activation {number(found.activation)}"
    )


def _changed(found: FeatureAttribution) -> list[tuple[str, str]]:
    return map_with_bars.changed(found.patched, found.segments)


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
    box = (SIDE + label, TOP + _BARS[1] + GAP)
    width = max(box[0] + wide + GAP + _BARS[0] + SIDE, 640)
    height = box[1] + high + below + SIDE
    x, y = (box[0], box[0] + wide), (box[1], box[1] + high)
    drawn = go.Figure(
        [
            _map(found, cells, names, heads, colours),
            _bars(cells.sum(1), heads, "y", colours),
            _bars(cells.sum(0), names, "x", colours),
        ]
    )
    drawn.update_layout(
        **ground(colours),
        xaxis=NAMED_AXIS
        | {
            "domain": [x[0] / width, x[1] / width],
            "range": [-0.5, len(names) - 0.5],
            "tickvals": list(range(len(names))),
            "ticktext": [for_plotly(name) for name in names],
            "tickangle": -90,
            "anchor": "y",
        },
        yaxis=NAMED_AXIS
        | {
            "domain": [1 - y[1] / height, 1 - y[0] / height],
            "range": [len(heads) - 0.5, -0.5],
            "tickvals": list(range(len(heads))),
            "ticktext": [f"{head} " for head in heads],
            "anchor": "x",
        },
        xaxis2=_sums(cells.sum(1), "x", colours)
        | {"domain": [(x[1] + GAP) / width, (x[1] + GAP + _BARS[0]) / width], "anchor": "y"},
        yaxis2=_sums(cells.sum(0), "y", colours)
        | {
            "domain": [1 - (y[0] - GAP) / height, 1 - (y[0] - GAP - _BARS[1]) / height],
            "anchor": "x",
        },
        **map_with_bars.frame(width, height),
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
    hovers = [
        [
            f"<b>{head}</b> from <b>{for_plotly(name)}</b><br>adds {number(float(cells[h, j]))} to "
            f"the pre-activation {number(found.pre_activation)}"
            for j, name in enumerate(names)
        ]
        for h, head in enumerate(heads)
    ]
    return map_with_bars.heat_map(cells, most, hovers, colours)


def _bars(
    sums: Float[np.ndarray, " part"], names: list[str], along: str, colours: Palette
) -> go.Bar:
    return map_with_bars.bars(
        sums,
        along,
        colours,
        text=[map_with_bars.short(value) for value in sums.tolist()] if along == "y" else None,
        customdata=[
            f"<b>{for_plotly(name)}</b> adds {number(float(value))} in all"
            for name, value in zip(names, sums, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _sums(sums: Float[np.ndarray, " part"], along: str, colours: Palette) -> dict[str, Any]:
    """The axis of the bars; those that lie have their numbers beside them, others have ticks."""
    upright = along == "y"
    base = map_with_bars.bar_axis(sums, _BARS[upright], 4 if upright else _NUMBER, colours)
    return base | {"nticks": 4, "showticklabels": upright, "side": "right"}


def _title(found: FeatureAttribution, width: int) -> dict[str, Any]:
    last = "rows: heads · columns: source positions · bars: their sums, without the bias"
    last += "".join(f" · {name} {fact}" for name, fact in _changed(found))
    small = [_feature(found), _value(found), last]
    return map_with_bars.title(found.model, found.prompt, small, width)
