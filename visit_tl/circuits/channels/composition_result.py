"""CompositionScores: the result of `composition_scores`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Spelled, Theme
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import Edge, Part

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class CompositionScores(Drawn):
    """Composition scores of all pairs of heads (docs/maths.md, "Channels").

    Attributes:
        model: Name of the model.
        scores: By kind (`q`, `k`, `v`), from 0 to 1; NaN where the reader is not in a later block
            than the writer.
        baseline: The score to expect by chance, of every pair and kind.
        offset: How many positions the query is after the key, for q and k.
        rotary: Whether the offset means anything.
    """

    model: str
    scores: Mapping[str, Float[np.ndarray, "layer head layer head"]] = field(repr=False)
    baseline: float
    offset: int
    rotary: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks, and of heads in a block."""
        n_layers, n_heads = next(iter(self.scores.values())).shape[:2]
        return n_layers, n_heads

    @cached_property
    def edges(self) -> Mapping[Edge, float]:
        """Score by edge, such as `L0H1->L5H5<k>`: what `circuits.compare` takes."""
        return {_edge(kind, at): float(grid[at]) for kind, grid, at in self._pairs()}

    def _pairs(self) -> list[tuple[str, Float[np.ndarray, "l h l h"], tuple[int, ...]]]:
        return [
            (kind, grid, tuple(map(int, at)))
            for kind, grid in self.scores.items()
            for at in zip(*np.nonzero(np.isfinite(grid)), strict=True)
        ]

    @checked
    def __getitem__(self, edge: Spelled) -> float:
        """The score of one edge, such as `scores["L0H1->L5H5<k>"]`.

        Raises:
            InputError: there is no such pair of heads, or the kind was not measured.
            GraphError: this is not the name of an edge.
        """
        wanted = Edge.parse(edge)
        ends = (wanted.source, wanted.target)
        n_layers, n_heads = self.shape
        at = tuple(i for end in ends for i in (end.layer, end.head))
        grid = self.scores.get(wanted.input or "")
        inside = all(
            end.kind == "head" and end.layer < n_layers and end.head < n_heads  # type: ignore[operator]
            for end in ends
        )
        if grid is None or not inside or np.isnan(grid[at]):
            raise InputError(
                f"{wanted} has no composition score: scores are of {', '.join(self.scores)} and of "
                f"a reader in a later block, in {n_layers} blocks of {n_heads} heads"
            )
        return float(grid[at])

    @checked
    def top(self, n: Count = 10) -> tuple[Edge, ...]:
        """The edges with the highest scores of all kinds, highest first.

        Raises:
            InputError: there are fewer edges.
        """
        found = []
        for kind, grid in self.scores.items():
            flat = np.nan_to_num(grid, nan=-np.inf).ravel()
            best = np.argsort(-flat, kind="stable")[:n]
            found += [(float(flat[i]), kind, np.unravel_index(i, grid.shape)) for i in best]
        found = [one for one in found if np.isfinite(one[0])]
        if len(found) < n:
            raise InputError(f"n is {n}, but there are {len(found)} pairs of heads")
        found.sort(key=lambda one: -one[0])
        return tuple(_edge(kind, tuple(map(int, at))) for _, kind, at in found[:n])

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge: edge, source, target, input, score, and score less the baseline."""
        import pandas as pd

        rows = [
            {
                "edge": str(edge),
                "source": str(edge.source),
                "target": str(edge.target),
                "input": edge.input,
                "score": score,
                "above_chance": score - self.baseline,
            }
            for edge, score in self.edges.items()
        ]
        columns = ["edge", "source", "target", "input", "score", "above_chance"]
        return pd.DataFrame(rows, columns=columns).set_index("edge")

    @checked
    def text(self, n: Count = 12) -> str:
        """The strongest edges of each kind as text.

        Args:
            n: How many edges of a kind.
        """
        return self._drawn("text", n)

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """For each kind, the strongest pair of every two blocks; and the strongest edges of all."""
        return self._drawn("figure", theme)


def _edge(kind: str, at: tuple[int, ...]) -> Edge:
    return Edge(Part("head", at[0], at[1]), Part("head", at[2], at[3]), kind)
