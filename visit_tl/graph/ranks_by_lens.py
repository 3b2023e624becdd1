"""The rank of a target in the residual stream after every block, by several lenses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Theme
from visit_tl.drawn import Drawn

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class LensRanks(Drawn):
    """How early each lens reads a target in the states of one position.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        tokens: The text of each token.
        position: The position of the states.
        target: The token whose rank it is.
        target_given: True if the caller named it, False if it is the model's own prediction.
        d_vocab: Size of the vocabulary.
        lenses: The names of the lenses.
        blocks: The block of each state, ascending; -1 is the embedding.
        ranks: For each lens, the rank at each block; None where it has no map.
        probs: The same for the probability.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    position: int
    target: str
    target_given: bool
    d_vocab: int
    lenses: tuple[str, ...]
    blocks: tuple[int, ...]
    ranks: tuple[tuple[int | None, ...], ...] = field(repr=False)
    probs: tuple[tuple[float | None, ...], ...] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per lens and block that it has a map for: lens, block, rank, prob."""
        import pandas as pd

        rows = [
            {"lens": name, "block": block, "rank": rank, "prob": prob}
            for name, ranks, probs in zip(self.lenses, self.ranks, self.probs, strict=True)
            for block, rank, prob in zip(self.blocks, ranks, probs, strict=True)
            if rank is not None
        ]
        return pd.DataFrame(rows, columns=["lens", "block", "rank", "prob"])

    @checked
    def figure(self, theme: Theme = "light") -> go.Figure:
        """Rank by block, a line for each lens; see `visit_tl.view.figures.lens_ranks.figure`."""
        return self._drawn("figure", theme)

    def text(self) -> str:
        """The ranks as a table of text; see `visit_tl.view.figures.lens_ranks.text`."""
        return self._drawn("text")
