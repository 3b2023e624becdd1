"""The result of Backward Lens: norms, ranks and words of the gradients, and their factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    BackwardKind,
    File,
    Flag,
    Head,
    Layer,
    Model,
    Name,
    Position,
    Theme,
    Whole,
)
from visit_tl.drawn import Drawn
from visit_tl.errors import InputError
from visit_tl.gradients.factors import Factors
from visit_tl.graph.container import GRAPH, G
from visit_tl.graph.records import TokenProbs

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class MatrixReadout:
    """What was read of one matrix; arrays are `[layer, pos]`, in the order of the lens.

    Attributes:
        reads: Which factor is read as words: `inputs` or `deltas`.
        norms: L2 norms of the VJPs (deltas).
        input_norms: L2 norms of the inputs.
        ranks: Rank of the target in the vector that is read, 0-based; -1 where it is 0.
        top_ids: The most probable tokens; -1 where the vector is 0.
        top_probs: Their probabilities.
        bottom_ids: The least probable tokens, the worst first.
        bottom_probs: Their probabilities.
        texts: The text of each token id.
    """

    reads: str
    norms: Float[np.ndarray, "layer pos"]
    input_norms: Float[np.ndarray, "layer pos"]
    ranks: Int[np.ndarray, "layer pos"]
    top_ids: Int[np.ndarray, "layer pos k"]
    top_probs: Float[np.ndarray, "layer pos k"]
    bottom_ids: Int[np.ndarray, "layer pos k"]
    bottom_probs: Float[np.ndarray, "layer pos k"]
    texts: Mapping[int, str]

    def words(self, i: int, j: int, side: str) -> TokenProbs:
        """The `top` or `bottom` tokens of the i-th layer and the j-th position; none if 0."""
        ids, probs = (getattr(self, f"{side}_{name}")[i, j] for name in ("ids", "probs"))
        kept = [n for n, token in enumerate(ids) if token >= 0]
        return TokenProbs([int(ids[n]) for n in kept], [float(probs[n]) for n in kept], self.texts)


@dataclass(frozen=True, eq=False)
class BackwardLens(Drawn):
    """The gradients of one loss at a model's matrices, read as words.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        tokens: The text of each token, BOS included where there is one.
        token_ids: Their ids.
        target: The token whose rank every cell carries.
        target_id: Its id.
        target_given: True if the caller named it, False if it is the model's own prediction.
        metric: What was differentiated: `-log p(target)` or the name of a metric.
        is_metric: Whether a metric stands in the place of the loss.
        position: The position of the loss.
        loss: Its value, in nats for `-log p(target)`.
        layers: The blocks.
        positions: The positions that were read.
        normalised: Whether vectors were divided by their norm before they were read.
        d_vocab: Size of the vocabulary.
        patched: Hooks at which the run was patched, as in `FlowGraph.patched`.
        adapters: Adapters that were active, as in `FlowGraph.adapters`.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
        errors: For each layer that was checked, the largest relative error of `X^T Delta` against
            autograd's own gradients.
        matrices: What was read of each matrix.
        by_layer: The factors by layer and matrix, at all positions; see `factors`.
        by_state: By layer, the gradients at `resid_pre`, `z`, `attn_out`, `resid_mid`, `mlp_out`
            and `resid_post`, as far as the block has them, at all positions.
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
    positions: tuple[int, ...] = field(repr=False)
    normalised: bool
    d_vocab: int = field(repr=False)
    patched: tuple[str, ...]
    adapters: tuple[str, ...] = field(repr=False)
    errors: Mapping[int, float] = field(repr=False)
    matrices: Mapping[str, MatrixReadout] = field(repr=False)
    by_layer: Mapping[int, Mapping[str, Factors]] = field(repr=False)
    by_state: Mapping[int, Mapping[str, Tensor]] = field(repr=False)
    source: Any = field(repr=False, default=None)
    segments: tuple[tuple[int, int], ...] = ()

    @property
    def norms(self) -> dict[str, Float[np.ndarray, "layer pos"]]:
        """By matrix, the norms of its VJPs: how much each output would change the loss."""
        return {name: found.norms for name, found in self.matrices.items()}

    @property
    def input_norms(self) -> dict[str, Float[np.ndarray, "layer pos"]]:
        """By matrix, the norms of its inputs."""
        return {name: found.input_norms for name, found in self.matrices.items()}

    @property
    def ranks(self) -> dict[str, Int[np.ndarray, "layer pos"]]:
        """By matrix, the rank of the target in the vector that is read; -1 where that is 0."""
        return {name: found.ranks for name, found in self.matrices.items()}

    @property
    def top(self) -> dict[str, list[list[list[str]]]]:
        """By matrix, `[layer][pos]`, the tokens that the vector promotes most."""
        return self._tokens("top")

    @property
    def bottom(self) -> dict[str, list[list[list[str]]]]:
        """By matrix, `[layer][pos]`, the tokens that it promotes least, the worst first.

        Descent adds these: a step down the gradient subtracts the vector (Lemma 5.2).
        """
        return self._tokens("bottom")

    def _tokens(self, side: str) -> dict[str, list[list[list[str]]]]:
        return {
            name: [
                [[t.token for t in found.words(i, j, side)] for j in range(len(self.positions))]
                for i in range(len(self.layers))
            ]
            for name, found in self.matrices.items()
        }

    # --- factors -------------------------------------------------------------------------------

    @checked
    def factors(self, layer: Layer, matrix: Name) -> Factors:
        """The factors of the gradient of one matrix: `.inputs`, `.deltas`, `.rank()`, ...

        Raises:
            InputError: the layer or the matrix is not in this lens.
        """
        if layer not in self.by_layer:
            raise InputError(
                f"layer {layer} is not in this lens, which has {self.layers[0]}..{self.layers[-1]}"
            )
        found = self.by_layer[layer]
        if matrix not in found:
            raise InputError(f"{matrix!r} is not in this lens, which has {', '.join(found)}")
        return found[matrix]

    @checked
    def imprint(self, layer: Layer, matrix: Name = "W_in") -> Float[Tensor, "pos d_mlp"]:
        """How much a step `W + eta grad W` changes each pre-activation, divided by eta.

        At position i it is `||x_i||^2 delta_i` as far as position i's own gradient goes: the
        gradient prints the inputs into the matrix, each with its delta (Lemma 5.2, "imprint").
        """
        return self._own_step(layer, matrix)

    @checked
    def shift(self, layer: Layer, matrix: Name = "W_out") -> Float[Tensor, "pos d_model"]:
        """How much a step `W + eta grad W` changes the MLP's output, divided by eta.

        At position i it is `||x_i||^2 delta_i` as far as position i's own gradient goes. With a
        negative eta the output moves by a multiple of -delta_i (Lemma 5.2, "shift").
        """
        return self._own_step(layer, matrix)

    def _own_step(self, layer: int, matrix: str) -> Tensor:
        found = self.factors(layer, matrix)
        return found.inputs.square().sum(-1, keepdim=True) * found.deltas

    def gradient_ranks(self) -> dict[str, list[int]]:
        """By matrix, the rank of its gradient in each layer; at most the number of positions."""
        return {
            name: [self.by_layer[layer][name].rank() for layer in self.layers]
            for name in self.matrices
        }

    @checked
    def heads(self, layer: Layer, head: Head, *, k: Whole = 5, model: Model = None) -> pd.DataFrame:
        """One head's gradients as words: what has d_head goes through the head's own circuits.

        The gradient at the values and at z goes through the head's W_O, that at the queries through
        its W_K and that at the keys through its W_Q, as queries and keys of the graph do (without
        rotations and query or key norms). Grouped keys and values are those of the head's group.

        Args:
            layer: A block of this lens.
            head: A head.
            k: How many tokens of each side.
            model: The model; None is the one that made this lens.

        Returns:
            A row for each position and each of `query`, `key`, `value` and `z`: norm, rank of the
            target, top and bottom tokens.
        """
        from visit_tl.gradients.head_readout import head_table

        return head_table(self, layer, head, k, model)

    @checked
    def onto(self, graph: Annotated[G, GRAPH], *, model: Model = None) -> G:
        """The graph with the gradients on its states, outputs of sub-blocks, and heads.

        A node gets the norm of the gradient of the loss at its own vector, the rank of the target
        in it, and its top and bottom tokens. A head's gradient, at z, goes through the head's W_O.

        Args:
            graph: A graph of the same tokens.
            model: The model; None is the one that made this lens.

        Raises:
            GraphError: the graph is of other tokens.
        """
        from visit_tl.gradients.onto_graph import gradients_onto

        return gradients_onto(self, graph, model)

    # --- tables, figures, files ------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each matrix, layer and position that was read.

        Columns: matrix, layer, position, token, reads, norm (of the VJP), input_norm, rank, top,
        bottom.
        """
        import pandas as pd

        rows = [
            {
                "matrix": name,
                "layer": layer,
                "position": position,
                "token": self.tokens[position],
                "reads": found.reads,
                "norm": float(found.norms[i, j]),
                "input_norm": float(found.input_norms[i, j]),
                "rank": int(found.ranks[i, j]),
                "top": [t.token for t in found.words(i, j, "top")],
                "bottom": [t.token for t in found.words(i, j, "bottom")],
            }
            for name, found in self.matrices.items()
            for i, layer in enumerate(self.layers)
            for j, position in enumerate(self.positions)
        ]
        return pd.DataFrame(rows)

    @checked
    def figure(
        self, kind: BackwardKind = "table", *, matrix: Name | None = None, theme: Theme = "light"
    ) -> go.Figure:
        """Draw this lens as a Plotly figure.

        Args:
            kind: `table`: layers x positions, in each cell the top and the bottom token, coloured
                by the norm of the VJP (the paper's figures 4 and 11). `norms` or `ranks`: a curve
                for each position over the layers.
            matrix: Which matrix; None is W_out, or the first that was read.
            theme: `light` or `dark`.

        Raises:
            InputError: the kind, matrix or theme is unknown.
        """
        return self._drawn("figure", kind, matrix=self.chosen(matrix), theme=theme)

    def __str__(self) -> str:
        return self.text()

    @checked
    def text(self, matrix: Name | None = None, position: Position | None = None) -> str:
        """The table as text; see `visit_tl.view.figures.backward_lens.text`."""
        return self._drawn("text", self.chosen(matrix), position)

    @checked
    def save(
        self,
        path: File,
        *,
        overwrite: Flag = False,
        kind: BackwardKind = "table",
        matrix: Name | None = None,
        theme: Theme = "light",
    ) -> Path:
        """Write a figure (`.html`, `.svg`, `.png`, `.pdf`) or the table (`.csv`, `.txt`).

        An `.html` file holds the tables of all matrices, or the one that is named.

        Raises:
            FileError: the suffix is unknown, or the file exists and `overwrite` is False.
        """
        chosen = None if matrix is None else self.chosen(matrix)
        options = {"kind": kind, "matrix": chosen, "theme": theme}
        return self._drawn("save", path, overwrite=overwrite, **options)

    @checked
    def chosen(self, matrix: Name | None = None) -> str:
        """The matrix of this name; None is W_out, or the first that was read.

        Raises:
            InputError: it was not read.
        """
        name = "W_out" if "W_out" in self.matrices else next(iter(self.matrices))
        name = name if matrix is None else matrix
        if name not in self.matrices:
            raise InputError(f"{name!r} was not read; this lens has {', '.join(self.matrices)}")
        return name
