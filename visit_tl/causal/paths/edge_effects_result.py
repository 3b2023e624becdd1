"""EdgeEffects: the results of cutting many edges, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Number, Spelled, Whole
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import Edge

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EdgeEffects(Drawn):
    """What cutting each edge does to a metric, measured by running the model with it cut.

    Attributes:
        model: Name of the model.
        token_ids: The clean prompt.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        edges: The measured edges, in the order in which they were given.
        values: For each edge, the metric with it cut, minus the metric of the clean run.
        metric: Name of the metric.
        how: What the reader saw instead: `resample`, `mean` or `zero`.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run; None where there is none.
        positions: Where the sender's value was changed; None is at all positions.
        complete: False if the sweep was interrupted, so that edges are missing.
    """

    model: str
    token_ids: tuple[int, ...]
    edges: tuple[Edge, ...] = field(repr=False)
    values: tuple[float, ...] = field(repr=False)
    metric: str
    how: str
    clean: float
    corrupted: float | None
    positions: tuple[int, ...] | None
    complete: bool
    segments: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.edges)

    @checked
    def __getitem__(self, edge: Spelled) -> float:
        """The effect of one edge, such as `effects["L0H1->L5H5<k>"]` or `effects["m3->logits"]`.

        Raises:
            InputError: the edge was not measured.
            GraphError: this is not the name of an edge.
        """
        wanted = Edge.parse(edge)
        if wanted not in self.scores:
            raise InputError(f"{wanted} was not measured; {len(self.edges)} other edges were")
        return self.scores[wanted]

    @cached_property
    def scores(self) -> Mapping[Edge, float]:
        """Effect by edge, in the form that `circuits.compare` and `faithfulness_curve` take."""
        return dict(zip(self.edges, self.values, strict=True))

    @checked
    def top(self, k: Whole) -> tuple[Edge, ...]:
        """The `k` edges with the largest absolute effects, largest first; ties keep their order.

        Raises:
            InputError: k is negative, or fewer edges were measured.
        """
        if not 0 <= k <= len(self.edges):
            raise InputError(
                f"k is {k}; it must be in 0..{len(self.edges)}, the number of edges measured"
            )
        return tuple(sorted(self.edges, key=lambda edge: -abs(self.scores[edge]))[:k])

    @checked
    def with_effect(self, at_least: Number = 0.0) -> tuple[Edge, ...]:
        """The edges whose absolute effect is greater than `at_least`."""
        return tuple(edge for edge in self.edges if abs(self.scores[edge]) > at_least)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge: edge, source, target, input, effect, and its share of the gap.

        The gap is the corrupted run's metric minus the clean one's; the share is NaN without a gap.
        """
        import pandas as pd

        gap = float("nan") if self.corrupted is None else self.corrupted - self.clean
        rows: list[dict[str, Any]] = [
            {
                "edge": str(edge),
                "source": str(edge.source),
                "target": str(edge.target),
                "input": edge.input,
                "effect": value,
                "share": value / gap if gap else float("nan"),
            }
            for edge, value in zip(self.edges, self.values, strict=True)
        ]
        columns = ["edge", "source", "target", "input", "effect", "share"]
        return pd.DataFrame(rows, columns=columns).set_index("edge")
