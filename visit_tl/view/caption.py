"""What a picture is of, in words."""

from __future__ import annotations

from visit_tl.graph.flow import FlowGraph
from visit_tl.view.labels import clip_start
from visit_tl.view.window import notice
from visit_tl.view.words import heading


def caption(
    whole: FlowGraph, graph: FlowGraph, shown: FlowGraph, orphans: int
) -> tuple[str, str, str]:
    """What a picture is of, in three lines of plain text.

    Args:
        whole: The graph.
        graph: The same at one position.
        shown: The blocks of it that are drawn.
        orphans: How many nodes are not.
    """
    words = heading(shown)
    second = [f"position {words['position']}", f"target {words['target']}"]
    if "prediction" in words:
        second.append(f"prediction {words['prediction']}")
    third = [notice(graph, shown, "figure"), words["hidden"]]
    if "patched" in words:
        third.append(f"patched run: {words['patched']}")
    if "adapters" in words:
        third.append(f"adapters: {words['adapters']}")
    if "followed" in (all_of := heading(whole)):
        third.append(f"followed back: {all_of['followed']}; figure(position=...) shows one")
    if orphans:
        third.append(f"{orphans} nodes without an edge are not drawn")
    first = f"{words['model']} · “{clip_start(words['prompt'], 100)}”"
    return first, " · ".join(second), " · ".join(third)
