"""The result of Reversed Attention: norms of all heads, and their maps when they are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, File, Flag, Head, Layer, ReversedKind, Theme
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.graph.container import GRAPH, G
from visit_tl.graph.ids import NodeId, NodeNames, node_ids

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Maps = tuple[Tensor, Tensor]
"""R and A of one block, `[head, query, key]` each."""
Store = tuple[dict[int, Maps] | None, Callable[[int], Maps]]
"""The maps by layer, or None where they are too large to keep; and what computes them again."""

_IN_MEMORY = 512 * 2**20


@dataclass(frozen=True, eq=False)
class ReversedAttention(Drawn):
    """The attention maps of the backward pass of one loss.

    R is the gradient itself: a step along -R lowers the loss. Rows are queries.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        tokens: The text of each token, BOS included where there is one.
        token_ids: Their ids.
        target: The token of the loss; for a metric, its own token or the model's prediction.
        target_id: Its id.
        target_given: True if the caller named it.
        metric: What was differentiated: `-log p(target)` or the name of a metric.
        is_metric: Whether a metric stands in the place of the loss.
        position: The position of the loss.
        loss: Its value, in nats for `-log p(target)`.
        layers: The blocks.
        n_layers: Number of blocks of the model.
        n_heads: Number of heads of a block.
        norms: Frobenius norm of each head's R.
        forward_norms: Frobenius norm of each head's attention A.
        scales: The scale of each block's attention scores, usually `1 / sqrt(d_head)`.
        errors: The largest relative error of each law over the blocks (docs/maths.md).
        patched: Hooks at which the run was patched, as in `FlowGraph.patched`.
        adapters: Adapters that were active, as in `FlowGraph.adapters`.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        source: The model, as in `FlowGraph.source`.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...] = field(repr=False)
    target: str
    target_id: int
    target_given: bool
    metric: str
    is_metric: bool
    position: int
    loss: float
    layers: tuple[int, ...]
    n_layers: int = field(repr=False)
    n_heads: int = field(repr=False)
    norms: Float[np.ndarray, "layer head"] = field(repr=False)
    forward_norms: Float[np.ndarray, "layer head"] = field(repr=False)
    scales: Float[np.ndarray, " layer"] = field(repr=False)
    errors: Mapping[str, float] = field(repr=False)
    patched: tuple[str, ...]
    adapters: tuple[str, ...] = field(repr=False)
    source: Any = field(repr=False, default=None)
    segments: tuple[tuple[int, int], ...] = ()
    store: Store = field(repr=False, default=(None, lambda layer: _gone(layer)))

    @checked
    def map(self, layer: Layer, head: Head) -> Float[np.ndarray, "query key"]:
        """R of one head.

        Raises:
            InputError: the layer or head is not in this result.
        """
        return self._pair(layer)[0][self._head(head)].cpu().numpy()

    @checked
    def forward_map(self, layer: Layer, head: Head) -> Float[np.ndarray, "query key"]:
        """The attention A of one head."""
        return self._pair(layer)[1][self._head(head)].cpu().numpy()

    def maps(self) -> Float[np.ndarray, "layer head query key"]:
        """R of every head of the layers; in float16 in a temporary file where it is large."""
        return self._all(0)

    def forward_maps(self) -> Float[np.ndarray, "layer head query key"]:
        """A of every head, as `maps`."""
        return self._all(1)

    def _all(self, which: int) -> np.ndarray:
        n = len(self.tokens)
        shape = (len(self.layers), self.n_heads, n, n)
        if 4 * int(np.prod(shape)) <= _IN_MEMORY:
            whole: np.ndarray = np.empty(shape, np.float32)
        else:
            # The mapping keeps the file, which has no name, until it is gone itself.
            with tempfile.TemporaryFile(prefix="visit-tl-maps-") as file:
                whole = np.memmap(file, np.float16, "w+", shape=shape)
        for i, layer in enumerate(self.layers):
            whole[i] = self._pair(layer)[which].cpu().numpy()
        return whole

    def _pair(self, layer: int) -> Maps:
        if layer not in self.layers:
            raise InputError(
                f"layer {layer} is not in this result, which has "
                f"{self.layers[0]}..{self.layers[-1]}"
            )
        kept, again = self.store
        if kept is not None:
            return kept[layer]
        # The layer that was asked for last is kept, since its heads are asked for one by one.
        last: tuple[int, Maps] | None = self.__dict__.get("_last")
        if last is None or last[0] != layer:
            last = (layer, again(layer))
            self.__dict__["_last"] = last
        return last[1]

    def _head(self, head: int) -> int:
        if not 0 <= head < self.n_heads:
            raise InputError(f"head {head} is outside 0..{self.n_heads - 1} of {self.model}")
        return head

    @checked
    def heads(self, heads: NodeNames) -> list[tuple[int, int]]:
        """Layer and head of ids such as `L29H1`.

        Raises:
            InputError: an id is no head, or is not in this result.
        """
        found = []
        for node in (NodeId.parse(one) for one in node_ids(heads)):
            if node.kind != "head" or node.layer not in self.layers or node.head is None:
                raise InputError(f"{node} is no head of this result")
            found.append((node.layer, self._head(node.head)))
        return found

    @checked
    def strongest(self, n: Count = 10) -> list[tuple[int, int]]:
        """Layer and head of the n largest norms, largest first."""
        order = np.argsort(-self.norms, axis=None, kind="stable")[:n]
        return [(self.layers[i // self.n_heads], int(i % self.n_heads)) for i in order]

    @checked
    def onto(self, graph: Annotated[G, GRAPH]) -> G:
        """The graph with ||R|| on its heads, and R's row at each head's position.

        Raises:
            GraphError: the graph is of other tokens.
        """
        from visit_tl.gradients.onto_graph import reversed_onto

        return reversed_onto(self, graph)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each head, largest norm first.

        Columns: head, layer, norm, forward_norm; where the maps are kept, the query and the key of
        the largest entry of R, and its value.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            for head in range(self.n_heads):
                row: dict[str, Any] = {
                    "head": f"L{layer}H{head}",
                    "layer": layer,
                    "norm": float(self.norms[i, head]),
                    "forward_norm": float(self.forward_norms[i, head]),
                }
                if self.store[0] is not None:
                    found = self.map(layer, head)
                    at = int(np.abs(found).argmax())
                    query, key = divmod(at, found.shape[1])
                    row |= {"query": query, "key": key, "value": float(found.flat[at])}
                rows.append(row)
        table = pd.DataFrame(rows)
        return table.sort_values("norm", ascending=False, kind="stable", ignore_index=True)

    @checked
    def figure(
        self,
        kind: ReversedKind = "norms",
        *,
        heads: NodeNames | None = None,
        theme: Theme = "light",
    ) -> go.Figure:
        """Draw this result as a Plotly figure.

        Args:
            kind: `norms`: a map of layers x heads, coloured by the norm of R. `maps`: the attention
                and the reversed attention of some heads side by side, R with a white-centred scale.
            heads: For `maps`, which heads; None is the four with the largest norms.
            theme: `light` or `dark`.
        """
        chosen = self.strongest(4) if heads is None else self.heads(heads)
        return self._drawn("figure", kind, heads=chosen, theme=theme)

    def __str__(self) -> str:
        return self.text()

    @checked
    def text(self, heads: NodeNames | None = None) -> str:
        """The strongest heads, or those named, as text."""
        chosen = self.strongest() if heads is None else self.heads(heads)
        return self._drawn("text", chosen)

    @checked
    def attention(self, heads: NodeNames | None = None) -> Any:
        """The maps of some heads drawn by CircuitsVis, without network; see `vt.attention`."""
        chosen = self.strongest(4) if heads is None else self.heads(heads)
        return self._drawn("circuitsvis", chosen)

    @checked
    def save(
        self,
        path: File,
        *,
        overwrite: Flag = False,
        kind: ReversedKind = "norms",
        heads: NodeNames | None = None,
        theme: Theme = "light",
    ) -> Path:
        """Write a figure (`.html`, `.svg`, `.png`, `.pdf`) or the table (`.csv`, `.txt`).

        An `.html` file holds the norms and the maps of the heads.

        Raises:
            FileError: the suffix is unknown, or the file exists and `overwrite` is False.
        """
        chosen = self.strongest(4) if heads is None else self.heads(heads)
        options = {"kind": kind, "heads": chosen, "theme": theme}
        return self._drawn("save", path, overwrite=overwrite, **options)


def _gone(layer: int) -> Maps:
    raise InputError(f"the maps of layer {layer} were not kept")
