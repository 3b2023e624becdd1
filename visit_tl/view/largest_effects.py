"""What was measured of nodes and edges, the largest first, as text and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from visit_tl.causal.attribution.direct import Attribution
from visit_tl.causal.circuit.edges_of_graph import GraphEdgeEffects
from visit_tl.causal.patching.effects_result import Effects
from visit_tl.causal.paths.edge_effects_result import EdgeEffects
from visit_tl.escaping import table, visible
from visit_tl.graph.descriptions import number, readable
from visit_tl.view.figures.map_with_bars import line, preformatted, share

_ROWS: Final = 20
_NAMES: Final = ("node", "edge", "source", "target")
"""Columns of names; all others are numbers."""


def html(found: Any) -> str:
    """The text, escaped, for the output cell of a notebook."""
    return preformatted(str(found))


def effects(found: Effects) -> str:
    """The largest effects of nodes, and how they were measured; ends in a newline."""
    rows = [
        [str(node), _signed(value, exact), "" if norm != norm else f"{norm:+.3g}"]
        for node, value, norm, exact in zip(
            found.ids, found.values, found.normalised, found.exact, strict=True
        )
    ]
    # Without a corrupted run there is nothing to normalise by.
    width = 3 if any(row[2] for row in rows) else 2
    facts = [
        f"{found.how} at {_positions(found.positions)}, {found.direction}",
        *_unfinished(found.complete),
        *[f"~ estimated by attribution patching: {found.exact.count(False)} of {len(found)}"]
        * (False in found.exact),
        *[f"left out, for they cannot be patched: {len(found.left_out)}"] * bool(found.left_out),
    ]
    head = ["node", "effect", "normalised"][:width]
    return _listed(found, facts, head, [row[:width] for row in rows], found.values)


def edge_effects(found: EdgeEffects) -> str:
    """The largest effects of edges, and how they were measured; ends in a newline."""
    where = "all positions" if found.positions is None else _positions(found.positions)
    rows = [
        [str(edge), f"{value:+.3g}"] for edge, value in zip(found.edges, found.values, strict=True)
    ]
    facts = [f"{found.how} at {where}", *_unfinished(found.complete)]
    return _listed(found, facts, ["edge", "effect"], rows, found.values)


def graph_edge_effects(found: GraphEdgeEffects) -> str:
    """The largest effects of a graph's edges, and how they were measured; ends in a newline."""
    rows = [
        [str(source), str(target), f"{value:+.3g}", str(size)]
        for (source, target), value, size in zip(found.ends, found.values, found.sizes, strict=True)
    ]
    facts = [
        f"{found.how} at position {found.position}",
        *_unfinished(found.complete),
        *[f"left out, for they have no bundle of their own: {found.left_out}"]
        * bool(found.left_out),
    ]
    return _listed(found, facts, ["source", "target", "effect", "bundle"], rows, found.values)


def attribution(found: Attribution) -> str:
    """The parts that add the most to a logit, and the rest of the sum; ends in a newline."""
    frame = found.to_dataframe()
    values: list[float] = frame["attribution"].tolist()
    order = _largest_first(values)
    rows = [["node", "adds", "share"]]
    for i in order[:_ROWS]:
        rows.append([frame["node"][i], f"{values[i]:+.3g}", share(values[i], found.total)])
    if order[_ROWS:]:
        rest = sum(values[i] for i in order[_ROWS:])
        rows.append([f"{len(order) - _ROWS} others", f"{rest:+.3g}", share(rest, found.total)])
    minus = "" if found.against is None else f" - {visible(found.against)}"
    capped = ", before the model caps its logits" if found.capped else ""
    of = f"{visible(found.target)}{minus} at position {found.position}"
    lines = [
        line("model", readable(found.model)),
        line("logit", f"{of}: {number(found.total)}{capped}"),
        *_table(rows),
    ]
    return "\n".join(lines) + "\n"


def _listed(
    found: Effects | EdgeEffects | GraphEdgeEffects,
    facts: Sequence[str],
    head: list[str],
    rows: Sequence[list[str]],
    values: Sequence[float],
) -> str:
    order = _largest_first(values)
    other = "" if found.corrupted is None else f", corrupted {number(found.corrupted)}"
    lines = [
        line("model", readable(found.model)),
        line("metric", f"{readable(found.metric)}: clean {number(found.clean)}{other}"),
        *(line("patched" if i == 0 else "", fact) for i, fact in enumerate(facts)),
        *_table([head, *(rows[i] for i in order[:_ROWS])]),
    ]
    if order[_ROWS:]:
        lines.append(f"  and {len(order) - _ROWS} more")
    return "\n".join(lines) + "\n"


def _largest_first(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))


def _table(rows: list[list[str]]) -> list[str]:
    right = tuple(i for i, name in enumerate(rows[0]) if name not in _NAMES)
    return ["", *(row.rstrip() for row in table(rows, right=right))]


def _signed(value: float, exact: bool) -> str:
    return f"{'' if exact else '~'}{value:+.3g}"


def _positions(positions: Sequence[int]) -> str:
    if len(positions) == 1:
        return f"position {positions[0]}"
    shown = ", ".join(map(str, positions[:12]))
    return f"positions {shown}{', …' if len(positions) > 12 else ''}"


def _unfinished(complete: bool) -> list[str]:
    return [] if complete else ["interrupted: some are missing, or still estimates"]
