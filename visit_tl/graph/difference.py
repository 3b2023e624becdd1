"""Two graphs of the same model, node by node: what appeared, vanished and changed rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visit_tl.drawn import Drawn
from visit_tl.errors import GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Node
from visit_tl.graph.same_features import another_module, module_words, shown_at

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Change:
    """A node that both graphs show.

    Attributes:
        before: The node of the first graph.
        after: The node of the second.
    """

    before: Node
    after: Node

    @property
    def id(self) -> NodeId:
        """Id of the node in both."""
        return self.before.id

    @property
    def rank(self) -> int:
        """Rank of the target after, minus the rank before; above 0, the target fell."""
        return self.after.rank - self.before.rank

    @property
    def fall(self) -> float:
        """How many powers of ten the target fell: log10 of (rank + 1) after over before."""
        return math.log10((self.after.rank + 1) / (self.before.rank + 1))


@dataclass(frozen=True)
class GraphDiff(Drawn):
    """What differs between two graphs, such as those of a clean and of a patched run.

    Attributes:
        before: The first graph.
        after: The second graph.
        appeared: Nodes that only the second shows, in its order.
        vanished: Nodes that only the first shows, in its order.
        changed: Nodes in which the target's rank changed, the largest fall or rise first.
        same: How many nodes show the same rank in both.
    """

    before: GraphData = field(repr=False)
    after: GraphData = field(repr=False)
    appeared: tuple[Node, ...]
    vanished: tuple[Node, ...]
    changed: tuple[Change, ...]
    same: int

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per node that differs, by id.

        Columns: what (changed, vanished, appeared), and label, rank, prob and norm, each with
        `_before` and `_after` (NaN where the graph does not show the node).
        """
        import pandas as pd

        rows = [_row("changed", c.before, c.after) for c in self.changed]
        rows += [_row("vanished", node, None) for node in self.vanished]
        rows += [_row("appeared", None, node) for node in self.appeared]
        names = [f"{name}_{when}" for name in _FACTS for when in ("before", "after")]
        return pd.DataFrame(rows, columns=["id", "what", *names]).set_index("id")

    def text(self, most: int = 20) -> str:
        """The differences as text, with at most `most` nodes of each kind."""
        return self._drawn("text", most)

    def figure(self, theme: str = "light") -> go.Figure:
        """Layers x heads, coloured by `fall`; see `visit_tl.view.figures.difference.figure`."""
        return self._drawn("figure", theme)


_FACTS = ("label", "rank", "prob", "norm")


def _row(what: str, before: Node | None, after: Node | None) -> dict[str, object]:
    known = before or after
    row: dict[str, object] = {"id": str(known.id) if known else "", "what": what}
    for when, node in (("before", before), ("after", after)):
        if node is not None:
            row |= {f"{name}_{when}": getattr(node, name) for name in _FACTS}
    return row


def diff(before: GraphData, after: GraphData) -> GraphDiff:
    """What differs between two graphs; see `FlowGraph.diff`.

    Raises:
        GraphError: they are not of models of the same shape, follow different targets, were read
            by different lenses, or show features of different SAEs at one site.
    """
    for name, words in (("n_layers", "blocks"), ("d_vocab", "tokens in the vocabulary")):
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            raise GraphError(f"the graphs are of different models: {one} and {other} {words}")
    if before.lens != after.lens:
        names = [g.lens.name if g.lens else "logit lens" for g in (before, after)]
        raise GraphError(
            f"the graphs were read by different lenses ({names[0]}, {names[1]}), so their ranks "
            f"cannot be compared; build both with the same lens="
        )
    for one in before.feature_sets:
        other = shown_at(after, one)
        if other is not None and (another_module(one, other) or one.name != other.name):
            raise GraphError(
                f"the graphs show features of different SAEs at {one.site} of block {one.layer}, "
                f"{module_words(one)} and {module_words(other)}, whose ids do not mean the same; "
                f"build both with the same saes= (or dataclasses.replace(sae, "
                f"name=...), if it is one under two names)"
            )
    if before.target_id != after.target_id:
        raise GraphError(
            f"the graphs follow different targets, {before.target!r} and {after.target!r}, so "
            f"their ranks cannot be compared; build the second with target={before.target!r}"
        )
    old, new = {n.id: n for n in before}, {n.id: n for n in after}
    both = [Change(node, new[node.id]) for node in before if node.id in new]
    changed = [c for c in both if c.rank != 0]
    return GraphDiff(
        before,
        after,
        appeared=tuple(node for node in after if node.id not in old),
        vanished=tuple(node for node in before if node.id not in new),
        changed=tuple(sorted(changed, key=lambda c: -abs(c.fall))),
        same=len(both) - len(changed),
    )
