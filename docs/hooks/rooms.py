"""Draws the rooms of the package and the imports between them, from the code itself.

    python docs/hooks/rooms.py          # writes docs/assets/rooms.svg

The rows are the layers that pyproject.toml states. An arrow is left out where a longer way of
arrows says the same (transitive reduction). A test holds the file against the code.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

import grimp
import networkx as nx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "assets" / "rooms.svg"
DOOR = ("drawn", "view")
GROUND = "drawn"
"""The first of the rows that all rooms may import; arrows to them would say nothing."""

WIDTH, MARGIN = 900, 24
BOX, GAP = 42, 26
FONT = "system-ui, sans-serif"
BLUE, GREY, RED, INK, PALE = "#0b6bcb", "#8a94a0", "#d55e00", "#1b1f24", "#eef3f8"


def layers() -> list[list[str]]:
    """The rooms, row by row, as the contract states them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    stated = next(one["layers"] for one in contracts if one["type"] == "layers")
    return [[room.strip() for room in row.split("|")] for row in stated]


def arrows() -> nx.DiGraph:
    """An edge from each room to each that it imports, imports in functions among them."""
    found = nx.DiGraph()
    graph = grimp.build_graph("visit_tl", exclude_type_checking_imports=True)
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] for name in (module, target) if "." in name]
            if len(ends) == 2 and ends[0] != ends[1]:
                found.add_edge(*ends)
    return found


def about(room: str) -> tuple[str, int]:
    """What a room is for, in its own words, and how many files it has."""
    path = ROOT / "visit_tl" / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    first = path / "__init__.py" if path.is_dir() else files[0]
    words = ast.get_docstring(ast.parse(first.read_text(encoding="utf-8"))) or ""
    return words.split("\n\n")[0].replace("\n", " ").replace("`", ""), len(files)


def svg() -> str:
    """The picture."""
    rows = layers()
    joined = arrows()
    door = joined.has_edge(*DOOR)
    if door:
        joined.remove_edge(*DOOR)
    first = next(i for i, row in enumerate(rows) if GROUND in row)
    above = {room for row in rows[:first] for room in row}
    reduced = nx.transitive_reduction(joined.subgraph(above))
    boxes: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        size = min(640.0, (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row))
        left = (WIDTH - size * len(row) - GAP * (len(row) - 1)) / 2
        for place, room in enumerate(row):
            boxes[room] = left + place * (size + GAP), MARGIN + number * (BOX + GAP), size
    height = MARGIN * 2 + len(rows) * (BOX + GAP) - GAP
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="{FONT}" role="img" aria-label="The rooms of visit_tl and their imports">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="{GREY}"/></marker>'
        '<marker id="door" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="{RED}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    top = boxes[GROUND][1] - GAP / 2
    drawn.append(
        f'<rect x="6" y="{top:.0f}" width="{WIDTH - 12}" height="{height - top - 6:.0f}" rx="10" '
        f'fill="#f7f7f4" stroke="#d8d8d0"/><text x="18" y="{top + 18:.0f}" font-size="11" '
        f'fill="#5b6570">the ground:</text><text x="18" y="{top + 32:.0f}" font-size="11" '
        f'fill="#5b6570">all may import it</text>'
    )
    drawn += [_arrow(boxes[a], boxes[b]) for a, b in sorted(reduced.edges)]
    if door:
        drawn.append(_door(boxes[DOOR[0]], boxes[DOOR[1]]))
    drawn += [_box(room, *boxes[room]) for row in rows for room in row]
    return "\n".join([*drawn, "</svg>", ""])


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """From the lower edge of a box to the upper edge of another, round what stands between."""
    x, y = start[0] + start[2] / 2, start[1] + BOX
    u, v = end[0] + end[2] / 2, end[1]
    if v - y <= GAP:
        way = (
            f"M{x:.0f} {y:.0f}C{x:.0f} {y + GAP / 2:.0f} {u:.0f} {v - GAP / 2:.0f} {u:.0f} {v:.0f}"
        )
    else:
        side = -1 if u + x < WIDTH else 1
        far = WIDTH / 2 + side * (WIDTH / 2 - 6 - 2 * (v - y) / 100)
        x, u = (p[0] + (p[2] if side > 0 else 0) for p in (start, end))
        y, v = y - BOX / 2, v + BOX / 2
        way = f"M{x:.0f} {y:.0f}C{far:.0f} {y:.0f} {far:.0f} {v:.0f} {u:.0f} {v:.0f}"
    return f'<path d="{way}" fill="none" stroke="{GREY}" marker-end="url(#head)"/>'


def _door(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x, y = start[0] + start[2], start[1] + BOX / 2
    u, v = end[0] + end[2], end[1] + BOX / 2
    far = WIDTH + 30
    return (
        f'<path d="M{x:.0f} {y:.0f}C{far} {y:.0f} {far} {v:.0f} {u:.0f} {v:.0f}" fill="none" '
        f'stroke="{RED}" stroke-dasharray="5 4" marker-end="url(#door)"/>'
    )


def _box(room: str, x: float, y: float, width: float) -> str:
    words, files = about(room)
    own = f"{room}/" if (ROOT / "visit_tl" / room).is_dir() else f"{room}.py"
    count = f"{files} files" if files > 1 else ""
    limit = int(width / 5.8)
    told = words if len(words) <= limit else words[: limit - 1].rsplit(" ", 1)[0] + " …"
    told = told if width > 200 else ""
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="6" '
        f'fill="{PALE}" stroke="{BLUE}"/>'
        f'<text x="{x + 10:.0f}" y="{y + 17:.0f}" font-size="13" fill="{INK}">'
        f'<tspan font-weight="600">{escape(own)}</tspan>'
        f'<tspan dx="8" fill="#5b6570" font-size="11">{escape(count)}</tspan></text>'
        f'<text x="{x + 10:.0f}" y="{y + 33:.0f}" font-size="11" fill="#3d4650">'
        f"{escape(told)}</text>"
    )


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
