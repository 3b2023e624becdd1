"""The residual stream as a table of layers x positions, each state read as tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import NumberName, Positions, Theme
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId, NodeName
from visit_tl.graph.lens_record import LensRecord
from visit_tl.graph.records import Node

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class LensTable(Drawn):
    """The states of the residual stream at every layer and position, read as tokens.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        tokens: The text of each token, BOS included where there is one.
        target: The token whose rank and probability every cell carries.
        target_given: True if the caller named it, False if it is the model's own prediction.
        d_vocab: Size of the vocabulary.
        patched: Hooks at which the run was patched, as in `FlowGraph.patched`.
        rows: The states, in the order of the forward pass, without their positions.
        cells: For each row and each position the state there, or None if it is missing.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        lens: The lens that read the cells; None is the logit lens.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    target: str
    target_given: bool
    d_vocab: int
    rows: tuple[NodeId, ...]
    cells: tuple[tuple[Node | None, ...], ...] = field(repr=False)
    patched: tuple[str, ...] = ()
    segments: tuple[tuple[int, int], ...] = ()
    lens: LensRecord | None = None

    @checked
    def __getitem__(self, state: NodeName) -> Node:
        """The cell with this id, such as `table["L9.resid_post@4"]`; without @, the last position.

        Raises:
            GraphError: the id cannot be read.
            InputError: the table has no such cell.
        """
        wanted = NodeId.parse(state)
        at = len(self.tokens) - 1 if wanted.position is None else wanted.position
        row = wanted.at(None)
        found = None
        if row in self.rows and at < len(self.tokens):
            found = self.cells[self.rows.index(row)][at]
        if found is None:
            raise InputError(
                f"this table has no state {row.at(at)}; it has {self.rows[0]} to {self.rows[-1]} "
                f"at the positions {', '.join(map(str, self.known))}"
            )
        return found

    def __iter__(self) -> Iterator[Node]:
        """The cells that are not missing, row by row."""
        return (cell for row in self.cells for cell in row if cell is not None)

    @property
    def known(self) -> tuple[int, ...]:
        """The positions that have at least one state."""
        columns = zip(*self.cells, strict=True)
        return tuple(i for i, column in enumerate(columns) if any(c is not None for c in column))

    @checked
    def columns(self, positions: Positions | None = None) -> tuple[int, ...]:
        """Positions to show: those given (negative ones count from the end), or all in `known`.

        Raises:
            InputError: a position is outside the prompt, or there is none.
        """
        n = len(self.tokens)
        asked = self.known if (chosen := integers_or_none(positions)) is None else chosen
        if outside := [i for i in asked if not -n <= i < n]:
            raise InputError(f"position {outside[0]} is outside the prompt of {n} tokens")
        if not asked:
            raise InputError("no positions to show")
        return tuple(sorted({i % n for i in asked}))

    @checked
    def figure(
        self, by: NumberName = "rank", *, positions: Positions | None = None, theme: Theme = "light"
    ) -> go.Figure:
        """The table as a Plotly figure; see `visit_tl.view.figures.lens_table.figure`."""
        return self._drawn("figure", by, positions=positions, theme=theme)

    @checked
    def text(self, positions: Positions | None = None) -> str:
        """The table as text; see `visit_tl.view.figures.lens_table.text`."""
        return self._drawn("text", positions)

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per cell that is not missing, by state and position.

        Columns: token (of the prompt), label, top, rank, prob (of the target), entropy, norm.
        """
        import pandas as pd

        rows = [
            {
                "state": str(row),
                "position": position,
                "token": self.tokens[position],
                "label": cell.label,
                "top": [read.token for read in cell.top],
                "rank": cell.rank,
                "prob": cell.prob,
                "entropy": cell.entropy,
                "norm": cell.norm,
            }
            for row, cells in zip(self.rows, self.cells, strict=True)
            for position, cell in enumerate(cells)
            if cell is not None
        ]
        return pd.DataFrame(rows).set_index(["state", "position"])


def of_graph(graph: GraphData) -> LensTable:
    """Table of the states of a graph, at its own position and at those of its columns."""
    first = graph.layers[0] if graph.layers else 0
    rows = (NodeId("resid_pre", first), *(NodeId("resid_post", i) for i in graph.layers))
    held = {node.id: node for node in graph}

    def cell(row: NodeId, position: int) -> Node | None:
        return held.get(row.at(None if position == graph.position else position))

    n = len(graph.tokens)
    return LensTable(
        model=graph.model,
        prompt=graph.prompt,
        tokens=graph.tokens,
        target=graph.target,
        target_given=graph.target_given,
        d_vocab=graph.d_vocab,
        rows=rows,
        cells=tuple(tuple(cell(row, i) for i in range(n)) for row in rows),
        patched=graph.patched,
        segments=graph.segments,
        lens=graph.lens,
    )
