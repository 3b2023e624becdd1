"""AttentionAttribution: one attention score as a sum over pairs of parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Name, Side, Theme
from visit_tl.causal.same_prompt import require_same
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.container import GRAPH, G
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Reason, ScorePair

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OTHERS: Final = "others"
"""The name of both sides of the part that holds all pairs that are not shown."""
POSITION: Final = "position"
"""The name of both sides of the part that a linear bias (ALiBi) adds."""
SIDES: Final = ("query", "key")


@dataclass(frozen=True, eq=False)
class AttentionAttribution(Drawn):
    """Why a head looked where it looked: its score of two positions, as a sum over pairs of parts.

    A pair is what one part wrote into the residual stream at the query, and what one wrote at the
    key. Parts are the embeddings, heads, MLPs (or single neurons of them), biases of the attention
    (`L3.b_O`), and what biases add to the query or key itself (`ln1.bias`, `b_Q`, `b_K`). Norms
    have the scale that they had in this run; what a part does to that scale is not included.

    Attributes:
        model: Name of the model.
        prompt: The prompt's text.
        tokens: The text of each token.
        token_ids: The prompt.
        head: The head.
        query: The position that looks, from 0.
        key: The position that it looks at.
        score: The score before the softmax, as the model has it, with its scale and its linear bias
            of positions; before a softcap, which is no linear function of the sum.
        capped: The score after the softcap; None where there is none.
        attention: The head's attention from the query to the key.
        scale: The factor of `q . k` in the score.
        error: Distance of the sum of all parts from the score, relative to the largest absolute
            value among the score and the sums of rows and columns.
        query_parts: What was written at the query, in the order of the forward pass.
        key_parts: The same at the key.
        matrix: What each pair adds to the score.
        top: How many pairs `parts` shows.
        patched: Hooks at which the run was patched, as in `FlowGraph.patched`.
        adapters: The adapters that were active.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...] = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    head: NodeId
    query: int
    key: int
    score: float
    capped: float | None
    attention: float
    scale: float
    error: float
    query_parts: tuple[str, ...] = field(repr=False)
    key_parts: tuple[str, ...] = field(repr=False)
    matrix: Float[np.ndarray, "query_part key_part"] = field(repr=False)
    top: int
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    segments: tuple[tuple[int, int], ...] = ()

    @cached_property
    def parts(self) -> tuple[ScorePair, ...]:
        """The `top` pairs with the largest absolute values, and all others as one; they sum up."""
        pairs = self._largest
        shown = sum(pair.value for pair in pairs)
        if len(pairs) == self.matrix.size:
            return pairs
        return (*pairs, ScorePair(OTHERS, OTHERS, float(self.matrix.sum()) - shown))

    @cached_property
    def _largest(self) -> tuple[ScorePair, ...]:
        flat, sizes = self.matrix.ravel(), np.abs(self.matrix.ravel())
        n = min(self.top, flat.size)
        # A full sort of 50,000 pairs would take half of the time of a call.
        least = np.partition(sizes, flat.size - n)[flat.size - n]
        found = np.flatnonzero(sizes >= least)
        order = found[np.argsort(-sizes[found], kind="stable")][:n]
        width = len(self.key_parts)
        return tuple(
            ScorePair(self.query_parts[i // width], self.key_parts[i % width], float(flat[i]))
            for i in order.tolist()
        )

    @checked
    def value(self, query_part: Name, key_part: Name) -> float:
        """What one pair adds to the score, such as `a.value("L20H1", "embed")`.

        Raises:
            InputError: there is no such part at that position.
        """
        rows, columns = self._index("query", query_part), self._index("key", key_part)
        return float(self.matrix[rows, columns])

    def _index(self, side: str, part: str) -> int:
        names = self._names(side)
        if part not in names:
            raise InputError(
                f"{part!r} wrote nothing that {self.head} reads at its {side}; the parts are "
                f"{', '.join(names[:4])} ... {names[-1]}"
            )
        return names.index(part)

    def _names(self, side: str) -> tuple[str, ...]:
        if side not in SIDES:
            raise InputError(f"{side!r} is no side of a score; the sides are query and key")
        return self.query_parts if side == "query" else self.key_parts

    @checked
    def marginal(self, side: Side) -> pd.DataFrame:
        """What each part on one side adds, with all parts on the other: one row a part.

        Columns: part, kind, layer, head, neuron, value, share (of the score). The values sum to the
        score. The rows are in the order of the forward pass.

        Args:
            side: `query` or `key`.
        """
        import pandas as pd

        names = self._names(side)
        values = self.matrix.sum(1 if side == "query" else 0)
        rows = [
            (name, *_described(name), x) for name, x in zip(names, values.tolist(), strict=True)
        ]
        columns = ["part", "kind", "layer", "head", "neuron", "value"]
        frame = pd.DataFrame(rows, columns=columns)
        frame = frame.astype({"layer": "Int64", "head": "Int64", "neuron": "Int64"})
        return frame.assign(share=frame["value"] / self.score)

    @checked
    def by_head(self, side: Side) -> pd.DataFrame:
        """Which upstream heads carry the score on one side: rows of `marginal`, largest first.

        Args:
            side: `query`: heads that wrote at the query's position; `key`: at the key's.
        """
        frame = self.marginal(side)
        heads = frame[frame["kind"] == "head"].drop(columns=["kind", "neuron"])
        order = heads["value"].abs().sort_values(ascending=False, kind="stable").index
        return heads.loc[order].reset_index(drop=True)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each of `parts`: query, key, value, share (of the score)."""
        import pandas as pd

        rows = [(pair.query, pair.key, pair.value) for pair in self.parts]
        frame = pd.DataFrame(rows, columns=["query", "key", "value"])
        return frame.assign(share=frame["value"] / self.score)

    @property
    def reason(self) -> Reason:
        """The score and its largest pairs as a record, as graphs hold it."""
        pairs = self._largest
        others = float(self.matrix.sum()) - sum(pair.value for pair in pairs)
        return Reason(
            self.head, self.query, self.key, self.score, self.capped, self.attention, pairs, others
        )

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The same graph with this score among its `reasons`; one of the same pair is replaced.

        Raises:
            InputError: the graph is of another model or prompt, or does not show the head at the
                query's position.
        """
        require_same(
            graph,
            self.model,
            self.token_ids,
            graph.position,
            self.segments,
            what="attribution",
            remedy="ask the graph itself, with g.why(head, key=...)",
        )
        node = self.head.at(None if self.query == graph.position else self.query)
        if node not in graph:
            raise InputError(
                f"{node} is not in this graph, so it has no place for why it looked; build the "
                f"graph with more heads, or at position {self.query}"
            )
        place = (self.head, self.query, self.key)
        kept = tuple(r for r in graph.reasons if (r.head, r.query, r.key) != place)
        return replace(graph, reasons=(*kept, self.reason))

    @checked
    def figure(self, theme: Theme = "light", **options: Any) -> go.Figure:
        """The largest parts of both sides as a heat map, with their sums as bars.

        See `visit_tl.view.figures.score_parts.figure`.

        Args:
            theme: `light` or `dark`.
            options: `rows`, the most parts of each side that get a row or column of their own.
        """
        return self._drawn("figure", theme=theme, **options)


def _described(name: str) -> tuple[str, int | None, int | None, int | None]:
    """Kind, layer, head and neuron of a part."""
    if not name.startswith("L"):
        return name, None, None, None
    node = NodeId.parse(name.partition(" ")[0])
    kind = f"{node.kind} without neurons" if " " in name else node.kind
    return kind, node.layer, node.head, node.neuron
