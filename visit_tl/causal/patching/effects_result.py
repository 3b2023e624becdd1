"""Effects: the results of patching many nodes, one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np

from visit_tl.arguments.checked import checked
from visit_tl.drawn import Drawn
from visit_tl.errors import GraphError
from visit_tl.graph.container import GRAPH, G
from visit_tl.graph.ids import NodeId, NodeName
from visit_tl.graph.records import Effect

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Effects(Drawn):
    """Effects of nodes on a metric: metric of the patched run minus that of the unpatched one.

    Attributes:
        model: Name of the model.
        metric: Name of the metric.
        how: What replaced the node's activation: `resample`, `mean` or `zero`.
        direction: `noise`: the clean run was patched; `denoise`: the corrupted run was patched with
            activations of the clean one.
        positions: The positions at which each node was patched, all at once. A node whose id has a
            position was patched only there.
        token_ids: Tokens of the clean run.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        clean: Metric of the clean run.
        corrupted: Metric of the corrupted run; None if there was none.
        ids: The nodes, in the order in which they were given.
        values: Their effects, in the unit of the metric.
        exact: For each node, True if the model was run with it patched, False if the value is the
            estimate of attribution patching.
        left_out: The nodes that cannot be patched, and why.
        complete: False if the sweep was interrupted: nodes are missing, or still estimates.
        way: How the model was run (`patching/batched_runs.py`); all ways give the same numbers.
        n_layers: Number of blocks of the model.
        n_heads: Number of heads of a block.
    """

    model: str
    metric: str
    how: str
    direction: str
    positions: tuple[int, ...]
    token_ids: tuple[int, ...] = field(repr=False)
    clean: float
    corrupted: float | None
    ids: tuple[NodeId, ...] = field(repr=False)
    values: tuple[float, ...] = field(repr=False)
    exact: tuple[bool, ...] = field(repr=False)
    left_out: Mapping[NodeId, str] = field(repr=False)
    complete: bool
    way: str
    n_layers: int
    n_heads: int
    segments: tuple[tuple[int, int], ...] = ()

    @cached_property
    def _by_id(self) -> dict[NodeId, Effect]:
        pairs = zip(self.values, self.exact, strict=True)
        return {
            node: Effect(value, exact) for node, (value, exact) in zip(self.ids, pairs, strict=True)
        }

    def __len__(self) -> int:
        return len(self.ids)

    @checked
    def __getitem__(self, node: NodeName) -> Effect:
        """The effect of one node, such as `e["L9H6"]`.

        Raises:
            GraphError: the id cannot be read, or the node was not measured; the message says why.
        """
        wanted = NodeId.parse(node)
        if wanted in self._by_id:
            return self._by_id[wanted]
        why = self.left_out.get(wanted, "it was not asked for")
        if wanted not in self.left_out and not self.complete:
            why = "the sweep was interrupted before it, or it was not asked for"
        raise GraphError(f"{wanted} has no effect here: {why}")

    @property
    def normalised(self) -> tuple[float, ...]:
        """Effects as shares of the metric's change from the unpatched run to the other run.

        1 is the whole change, 0 none of it. NaN without a corrupted run, or if the metric is the
        same in both runs.
        """
        span = math.nan if self.corrupted is None else self.corrupted - self.clean
        span = -span if self.direction == "denoise" else span
        return tuple(value / span if span else math.nan for value in self.values)

    def heads(self) -> np.ndarray:
        """Effects of heads as an array `[layer, head]`, NaN where there is none."""
        grid = np.full((self.n_layers, self.n_heads), np.nan)
        for node, value in zip(self.ids, self.values, strict=True):
            if node.kind == "head" and node.position is None:
                grid[node.layer, node.head] = value
        return grid

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The graph with these effects on its nodes; nodes not measured here get none.

        Raises:
            GraphError: the graph is of other tokens, or its position was not patched.
        """
        if graph.token_ids != self.token_ids:
            raise GraphError(
                f"the effects are of {len(self.token_ids)} other tokens than the graph's "
                f"{len(graph.token_ids)}: {graph.prompt!r}; measure them on the graph's prompt"
            )
        if graph.segments != self.segments:
            raise GraphError(
                f"the effects are of a run with the segments {list(self.segments)}, the graph "
                f"has {list(graph.segments)}; measure them under the graph's"
            )
        unplaced = any(node.position is None for node in self.ids)
        if unplaced and graph.position not in self.positions:
            raise GraphError(
                f"the effects are of positions {list(self.positions)}, the graph is of position "
                f"{graph.position}; measure them with positions=[{graph.position}]"
            )
        found = self._by_id
        return replace(
            graph, nodes=tuple(replace(node, effect=found.get(node.id)) for node in graph.nodes)
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per node: its id and indices, effect, normalised effect, and whether it is exact.

        Columns: `id`, `kind`, `layer`, `head`, `key_position`, `neuron`, `position`, `effect`,
        `normalised`, `exact`; an index that a node does not have is missing (`<NA>`). `expert` is
        there if one of the nodes has an expert.
        """
        import pandas as pd

        names = ("layer", "head", "key_position", "neuron", "position")
        if any(node.expert is not None for node in self.ids):
            names = (*names, "expert")
        columns: dict[str, object] = {
            "id": [str(node) for node in self.ids],
            "kind": [node.kind for node in self.ids],
        }
        for name in names:
            columns[name] = pd.array([getattr(node, name) for node in self.ids], dtype="Int64")
        columns |= {
            "effect": list(self.values),
            "normalised": list(self.normalised),
            "exact": list(self.exact),
        }
        return pd.DataFrame(columns)
