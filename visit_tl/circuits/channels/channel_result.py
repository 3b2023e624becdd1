"""Channel: the result of `channel`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Position, PromptLike, Theme
from visit_tl.circuits.channels.channel_use import ChannelUse
from visit_tl.circuits.channels.use_in_prompt import use
from visit_tl.drawn import Drawn
from visit_tl.graph.circuit_parts import Edge

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Words:
    """The top tokens of one direction and, since its sign is free, of its opposite.

    Attributes:
        left: Of what the writer reads.
        written: Of what it then writes.
        right: Of the reader's other side: keys (q), queries (k), or what it writes (v).
        minus_left: Of the opposite of `left`.
        minus_written: Of the opposite of `written`.
        minus_right: Of the opposite of `right`.
    """

    left: tuple[str, ...]
    written: tuple[str, ...]
    right: tuple[str, ...]
    minus_left: tuple[str, ...]
    minus_written: tuple[str, ...]
    minus_right: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Channel(Drawn):
    """The product through which a head talks to a later one, as singular directions.

    The product is the sum over directions of singular value x left x right (docs/maths.md,
    "Channels").

    Attributes:
        model: Name of the model.
        edge: Writer, reader and the input that reads, such as `L16H0->L17H3<k>`.
        offset: How many positions the query is after the key, with rotary positions.
        singular_values: Descending.
        norms: Product of the Frobenius norms of the two circuits, by which the score is divided.
        left: Unit vectors: what the writer reads of the (normalised) stream.
        written: What the writer then adds to the stream, `left W_OV`.
        right: Unit vectors: the key (q) or query (k) that is scored, or what the reader writes (v).
        words: The first directions, read by the lens.
        from_z: Coordinates of the writer's z along the directions, one per column.
        from_far: Those of the reader's keys (q), queries (k) or W_O (v).
        source: The opened model, for `in_prompt`.
    """

    model: str
    edge: Edge
    offset: int
    singular_values: Float[np.ndarray, " direction"] = field(repr=False)
    norms: float = field(repr=False)
    left: Float[np.ndarray, "direction d_model"] = field(repr=False)
    written: Float[np.ndarray, "direction d_model"] = field(repr=False)
    right: Float[np.ndarray, "direction d_model"] = field(repr=False)
    words: tuple[Words, ...] = field(repr=False)
    from_z: Float[np.ndarray, "d_head direction"] = field(repr=False)
    from_far: Float[np.ndarray, "d_head direction"] = field(repr=False)
    source: Any = field(repr=False)

    @property
    def score(self) -> float:
        """The composition score: the norm of the singular values over `norms`."""
        return float(np.linalg.norm(self.singular_values) / self.norms) if self.norms else 0.0

    @property
    def shares(self) -> Float[np.ndarray, " direction"]:
        """The share of each direction in the square of the composition score; they sum to 1."""
        squares = np.square(self.singular_values)
        return squares / squares.sum() if squares.any() else squares

    @checked
    def in_prompt(
        self,
        prompt: PromptLike,
        *,
        query: Position = -1,
        key: Position | None = None,
        prepend_bos: Flag | None = None,
    ) -> ChannelUse:
        """What goes through each direction in one run, all norms held at their scale in it.

        For q the writer's output at the query position acts on the reader's score of the key; for k
        its output at the key position does; for v its output at the key position, times the
        attention, is part of what the reader writes at the query position.

        Args:
            prompt: A text or token ids.
            query: The position where the reader looks from; negative ones count from the end.
            key: The position that it looks at, up to `query`; None is where it looks most.
            prepend_bos: As for `flow_graph`.

        Raises:
            InputError: a position is outside the prompt, or the key is after the query.
            ModelError: for q and k, the model has query or key norms, whose scales depend on the
                writer's share too; v can be asked for.
            DecompositionError: the directions do not sum to the writer's whole term.
        """
        return use(self, prompt, query, key, prepend_bos)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per direction: singular value, share, and the words of those that were read."""
        import pandas as pd

        rows = []
        for i, (value, share) in enumerate(zip(self.singular_values, self.shares, strict=True)):
            row: dict[str, Any] = {"singular_value": float(value), "share": float(share)}
            if i < len(self.words):
                row |= {name: list(getattr(self.words[i], name)) for name in Words.__slots__}
            rows.append(row)
        columns = ["singular_value", "share", *Words.__slots__]
        return pd.DataFrame(rows, columns=columns).rename_axis("direction")

    def text(self) -> str:
        """The directions that were read, as text."""
        return self._drawn("text")

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """The share of each direction, and the words of the first ones."""
        return self._drawn("figure", theme)
