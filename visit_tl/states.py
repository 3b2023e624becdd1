"""The residual stream before and after every block, at every position, read as words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import (
    Count,
    Flag,
    Layers,
    Model,
    NodeName,
    NumberName,
    Positions,
    PromptLike,
    Theme,
    Token,
)
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Hook, Node

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import Tensor

    from visit_tl.graph.flow import FlowGraph


@dataclass(frozen=True)
class LensTable:
    """The states of the residual stream, layer by layer and position by position, as words.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        tokens: The text of each token, BOS included where there is one.
        target: The token whose rank and probability every cell carries.
        target_given: True if the caller named it, False if it is the model's own prediction.
        d_vocab: Size of the vocabulary.
        patched: Hooks at which the run was patched, as in `FlowGraph.patched`.
        rows: The states, in the order of the forward pass, without their positions.
        cells: For each row and each position the state there, or None where it is not known.
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

    @checked
    def __getitem__(self, state: NodeName) -> Node:
        """The cell of that id, such as `table["L9.resid_post@4"]`; without @, the last position.

        Raises:
            GraphError: the id cannot be read.
            InputError: no such cell is known.
        """
        wanted = NodeId.parse(state)
        at = len(self.tokens) - 1 if wanted.position is None else wanted.position
        row = wanted.at(None)
        found = None
        if row in self.rows and at < len(self.tokens):
            found = self.cells[self.rows.index(row)][at]
        if found is None:
            raise InputError(
                f"this table does not know {row.at(at)}; it has {self.rows[0]} to {self.rows[-1]} "
                f"at the positions {', '.join(map(str, self.known))}"
            )
        return found

    def __iter__(self) -> Iterator[Node]:
        """The known cells, row by row."""
        return (cell for row in self.cells for cell in row if cell is not None)

    @property
    def known(self) -> tuple[int, ...]:
        """The positions at which some state is known."""
        columns = zip(*self.cells, strict=True)
        return tuple(i for i, column in enumerate(columns) if any(c is not None for c in column))

    @checked
    def columns(self, positions: Positions | None = None) -> tuple[int, ...]:
        """Positions to show: those asked for, negative ones from the end, or all that are known.

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
        """The table as a Plotly figure; see `visit_tl.view.lens_table.figure`."""
        from visit_tl.view.lens_table import figure

        return figure(self, by, positions=positions, theme=theme)

    @checked
    def text(self, positions: Positions | None = None) -> str:
        """The table as text; see `visit_tl.view.lens_table.text`."""
        from visit_tl.view.lens_table import text

        return text(self, positions)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a known cell, by state and position.

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

    def _repr_html_(self) -> str:
        from visit_tl.view.labels import for_html

        return f"<pre>{for_html(self.text())}</pre>"


@checked
def lens_table(
    model: Model,
    prompt: PromptLike,
    *,
    target: Token | None = None,
    layers: Layers | None = None,
    prepend_bos: Flag | None = None,
    k: Count = 5,
) -> LensTable:
    """Read the residual stream before the first block and after each, at every position.

    One forward pass and one call of the lens. The last row, at the last position, reads as the
    model's own prediction.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        target: The token to follow; None is the model's own prediction after the last token.
        layers: Consecutive blocks, one or several; None or `all` is all.
        prepend_bos: As for `flow_graph`.
        k: How many top and bottom tokens each cell keeps.

    Raises:
        ModelError: the model has no residual stream that could be read.
        InputError: a prompt, target or layer that does not fit.
    """
    import torch

    from visit_tl.graph.draft import Draft
    from visit_tl.graph.reader import Reader
    from visit_tl.model.hooks import keeper
    from visit_tl.model.standing import watched
    from visit_tl.model.view import ModelView

    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    chosen = view.check_layers(layers)
    given = None if target is None else view.tokens.single(target)
    rows = (NodeId("resid_pre", chosen[0]), *(NodeId("resid_post", i) for i in chosen))
    hooks = {row: f"blocks.{row.layer}.hook_{row.kind}" for row in rows}
    kept: dict[str, Tensor] = {}
    ids = torch.tensor([tokens.ids], device=view.W_U.device)
    with watched(view.model) as changes:
        logits = view.run(ids, [(name, keeper(kept, name, "all", ())) for name in hooks.values()])
    follow = int(logits[0, -1].argmax()) if given is None else given
    draft, n = Draft(), len(tokens.ids)
    for row, name in hooks.items():
        where: list[dict[str, object]] = [{"hook": Hook(name, (0, i))} for i in range(n)]
        draft.add([row.at(i) for i in range(n)], kept[name], where)
    reader = Reader(view, k)
    read = {node.id: node for node in reader.nodes([reader.read(draft, follow)])[0]}
    return LensTable(
        model=view.name,
        prompt=tokens.text,
        tokens=tuple(view.tokens.text(i) for i in tokens.ids),
        target=view.tokens.text(follow),
        target_given=given is not None,
        d_vocab=view.d_vocab,
        rows=rows,
        cells=tuple(tuple(read[row.at(i)] for i in range(n)) for row in rows),
        patched=tuple(changes.standing),
    )


def of_graph(graph: FlowGraph) -> LensTable:
    """The states that a graph holds: at its own position, and at those followed back to."""
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
    )
