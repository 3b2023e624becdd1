"""The figures of the three studies of gradients, drawn from docs/data into docs/images/studies.

python examples/gradient_figures.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#555555",
    "#a0522d",
    "#000000",
)
WIDTH, HEIGHT = 330, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 46


@dataclass
class Series:
    """One curve: a name, its points, and their standard errors."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    errors: Sequence[float | None] | None = None


@dataclass
class Panel:
    """Curves over one axis; `ticks` are places and labels of the x-axis."""

    title: str
    x: str
    y: str
    series: list[Series]
    ticks: list[tuple[float, str]]
    top: float | None = None
    bottom: float = 0.0


def results(name: str) -> dict[str, Any]:
    """The results of a full run."""
    return json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))["results"]


def svg(panels: list[Panel], columns: int) -> str:
    """Panels in rows, with one legend of all names below them."""
    names = list(dict.fromkeys(one.name for panel in panels for one in panel.series))
    colours = dict(zip(names, COLOURS * 3, strict=False))
    rows = -(-len(panels) // columns)
    width = columns * WIDTH
    lines = [[]]
    used = 20.0
    for name in names:
        size = 34 + 6.6 * len(name)
        if used + size > width:
            lines.append([])
            used = 20.0
        lines[-1].append((used, name))
        used += size
    height = rows * HEIGHT + 20 * len(lines) + 8
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for i, panel in enumerate(panels):
        out.append(f'<g transform="translate({i % columns * WIDTH} {i // columns * HEIGHT})">')
        out += drawn(panel, colours)
        out.append("</g>")
    for row, entries in enumerate(lines):
        y = rows * HEIGHT + 14 + 20 * row
        for x, name in entries:
            out.append(
                f'<line x1="{x:.0f}" y1="{y}" x2="{x + 18:.0f}" y2="{y}" '
                f'stroke="{colours[name]}" stroke-width="2.5"/>'
                f'<text x="{x + 23:.0f}" y="{y + 4}" fill="#222222">{escape(name)}</text>'
            )
    return "\n".join([*out, "</svg>", ""])


def drawn(panel: Panel, colours: dict[str, str]) -> list[str]:
    """One panel."""
    values = [y for one in panel.series for y in one.ys if y is not None]
    top = panel.top if panel.top is not None else 1.08 * max(values)
    low, high = panel.ticks[0][0], panel.ticks[-1][0]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low) * (WIDTH - LEFT - RIGHT - 12) + LEFT + 6
        up = (y - panel.bottom) / (top - panel.bottom) * (HEIGHT - TOP - BOTTOM)
        return across, HEIGHT - BOTTOM - up

    floor = HEIGHT - BOTTOM
    out = [
        f'<text x="{LEFT}" y="20" font-size="12" font-weight="bold" fill="#222222">'
        f"{escape(panel.title)}</text>",
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle" '
        f'fill="#222222">{escape(panel.x)}</text>',
        f'<text transform="translate(12 {(TOP + floor) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle" fill="#222222">{escape(panel.y)}</text>',
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="#888888"/>',
    ]
    for x, label in panel.ticks:
        across, _ = at(x, panel.bottom)
        out.append(
            f'<text x="{across:.1f}" y="{floor + 16}" text-anchor="middle" fill="#444444">'
            f"{escape(label)}</text>"
        )
    for y in np.linspace(panel.bottom, top, 5):
        _, down = at(low, float(y))
        label = f"{y:.2f}" if top - panel.bottom <= 2 else f"{y:,.0f}"
        out.append(
            f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#e6e6e6"/>'
            f'<text x="{LEFT - 5}" y="{down + 4:.1f}" text-anchor="end" fill="#444444">'
            f"{label}</text>"
        )
    for one in panel.series:
        colour = colours[one.name]
        errors = one.errors or [None] * len(one.xs)
        points = []
        for x, y, error in zip(one.xs, one.ys, errors, strict=True):
            if y is None:
                continue
            a, b = at(x, y)
            points.append(f"{a:.1f},{b:.1f}")
            out.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2" fill="{colour}"/>')
            if error:
                _, up = at(x, min(y + error, top))
                _, down = at(x, max(y - error, panel.bottom))
                out.append(
                    f'<path d="M{a:.1f} {up:.1f}V{down:.1f}" stroke="{colour}" opacity="0.5"/>'
                )
        out.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            f'stroke-width="1.8"/>'
        )
    return out


def standard_error(values: np.ndarray) -> float:
    """Of the mean of values."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def reversed_attention_tasks() -> str:
    """Accuracy by the share of heads that are on, a panel a task."""
    path = DOCS / "data" / "reversed_attention_tasks.json"
    shares = json.loads(path.read_text(encoding="utf-8"))["settings"]["shares"]
    panels = []
    for task, curves in results("reversed_attention_tasks").items():
        if " " in task:
            continue
        series = []
        for name, curve in curves.items():
            right = np.array(curve)
            errors = [standard_error(row) for row in right]
            series.append(Series(name, shares, right.mean(1).tolist(), errors))
        ticks = [(float(p), str(p)) for p in shares]
        panels.append(Panel(f"{task}, 5 shots", "heads on, %", "accuracy", series, ticks, 1.0))
    return svg(panels, min(3, len(panels)))


def attention_patching_tasks() -> str:
    """Loss and accuracy by alpha, of the reversed maps, a curve a task."""
    rows = results("attention_patching_tasks")
    panels = []
    for maps, title in (("reversed", "reversed maps"), ("forward", "forward maps (control)")):
        alphas = sorted({row["alpha"] for row in rows["IOI 0"] if row["maps"] == maps} | {0})
        ticks = [(float(i), f"{alpha:g}".replace("-", "−")) for i, alpha in enumerate(alphas)]
        for y in ("accuracy", "loss"):
            series = []
            for key, found in rows.items():
                task, shots = key.rsplit(" ", 1)
                own = {
                    row["alpha"]: row for row in found if row["maps"] == maps or not row["alpha"]
                }
                series.append(
                    Series(
                        task if task == "IOI" else f"{task}, {shots} shots",
                        range(len(alphas)),
                        [own[alpha][y] for alpha in alphas],
                        [own[alpha][f"{y}_se"] for alpha in alphas],
                    )
                )
            top = 1.0 if y == "accuracy" else 12.0
            for one in series:
                one.ys = [min(value, top) for value in one.ys]
            label = "accuracy" if y == "accuracy" else "loss, nats (cut at 12)"
            panels.append(Panel(title, "alpha", label, series, ticks, top))
    return svg(panels, 2)


def backward_lens_facts() -> str:
    """Norms and ranks by segment, cosines across layers, and the edits."""
    found = results("backward_lens_facts")
    table = found["segments"]
    columns = list(zip(*table.values(), strict=True))
    rows = [dict(zip(table, values, strict=True)) for values in columns]
    layers = sorted(set(table["layer"]))
    ticks = [(float(n), str(n)) for n in range(0, max(layers) + 1, 5)]
    ticks[-1] = (float(max(layers)), str(max(layers)))
    panels = []
    for y, title in (("norm", "Norm of the VJPs at W_out"), ("rank", "Rank of the target in them")):
        series = []
        for segment in dict.fromkeys(table["segment"]):
            own = {
                row["layer"]: row
                for row in rows
                if row["matrix"] == "W_out" and row["segment"] == segment
            }
            ys = [own[n][y] if n in own else None for n in layers]
            errors = [own[n][f"{y}_se"] if n in own else None for n in layers]
            series.append(Series(segment, layers, ys, errors))
        panels.append(Panel(title, "layer", y, series, ticks, 50_000 if y == "rank" else None))
    cosines = np.array(found["ranks"]["cosines"], dtype=float)
    series = [
        Series(f"cosine with layer {n}", layers, cosines[n].tolist()) for n in (0, 15, max(layers))
    ]
    panels.append(Panel("Cosine of the last VJPs", "layer", "cosine", series, ticks, 1.0))
    return svg(panels, 3)


FIGURES = {
    "reversed_attention_tasks": reversed_attention_tasks,
    "attention_patching_tasks": attention_patching_tasks,
    "backward_lens_facts": backward_lens_facts,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        path = DOCS / "images" / "studies" / f"{name}.svg"
        path.write_text(draw(), encoding="utf-8")
