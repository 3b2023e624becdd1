"""ChannelUse: what goes through a channel in one prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Theme
from visit_tl.drawn import Drawn

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from visit_tl.circuits.channels.channel_result import Channel


@dataclass(frozen=True, eq=False)
class ChannelUse(Drawn):
    """What goes through a channel in one prompt.

    Attributes:
        channel: The channel.
        tokens: The tokens of the prompt.
        query: Position of the reader's query.
        key: Position of its key.
        unit: `q·k` for q and k, which the model then scales (mostly by 1 / √d_head); `norm` for v,
            along what the reader writes of the writer's output.
        terms: What goes through each direction; the terms and `rest` sum to `whole`.
        rest: What goes through none: exactly 0 unless the writer's W_V, or the reader's other
            side, has a rank below d_head and a bias beside it.
        whole: The writer's whole term, computed without the directions.
        total: What it is part of: the reader's score, or the norm of what it writes at the query.
    """

    channel: Channel
    tokens: tuple[str, ...] = field(repr=False)
    query: int
    key: int
    unit: str
    terms: Float[np.ndarray, " direction"] = field(repr=False)
    rest: float
    whole: float
    total: float

    @property
    def shares(self) -> Float[np.ndarray, " direction"]:
        """Each term as a share of the writer's whole term; NaN if that is 0."""
        return self.terms / (self.whole or np.nan)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per direction: its term, its share, and its share of the composition score."""
        import pandas as pd

        columns = {
            "term": self.terms,
            "share": self.shares,
            "share_of_weights": self.channel.shares,
        }
        return pd.DataFrame(columns).rename_axis("direction")

    @checked
    def text(self, n: Count = 8) -> str:
        """The directions with the largest terms, as text.

        Args:
            n: How many directions.
        """
        return self._drawn("text", n)

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """The term of each direction beside its share of the composition score."""
        return self._drawn("figure", theme)
