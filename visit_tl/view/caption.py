"""The caption of a picture."""

from __future__ import annotations

from visit_tl.escaping import clip_start
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import heading
from visit_tl.view.window import notice


def caption(
    whole: GraphData, graph: GraphData, shown: GraphData, orphans: int
) -> tuple[str, str, str]:
    """The caption of a picture, in three lines of plain text.

    Args:
        whole: The graph.
        graph: The same graph at one position.
        shown: The blocks of it that are drawn.
        orphans: How many nodes are not drawn, because they have no edge.
    """
    words = heading(shown)
    second = [f"position {words['position']}", f"target {words['target']}"]
    if "prediction" in words:
        second.append(f"prediction {words['prediction']}")
    if "segments" in words:
        second.append(f"segments: {words['segments']}")
    third = [notice(graph, shown, "figure"), words["hidden"]]
    if "not opened" in words:
        third.append(f"not opened: {words['not opened']}")
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
