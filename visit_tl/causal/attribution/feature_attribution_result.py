"""FeatureAttribution: the pre-activation of a feature, over heads and source positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Theme
from visit_tl.drawn import Drawn
from visit_tl.graph.ids import NodeId

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class FeatureAttribution(Drawn):
    """Which heads and source positions a feature of hook_z got its pre-activation from.

    `parts.sum() + bias = pre_activation`. What the encoder makes of it (a threshold, the k highest
    features, a gate) is not linear, and not split.

    Attributes:
        model: Name of the model.
        sae: Name of the SAE.
        feature: Id of the feature.
        prompt: The prompt's text.
        tokens: The text of each token.
        token_ids: The prompt.
        position: The query position, from 0.
        parts: What each head adds by its attention to each source position: attention x memory
            value, read by the feature's column of the encoder.
        bias: What is there without any head: `b_enc`, less what the encoder takes off its input.
        pre_activation: The sum of all.
        activation: What the encoder makes of it; 0 where the feature is not active.
        error: Distance of the sum from the pre-activation, relative to the largest among it, the
            bias and the heads' sums of absolute parts.
        patched: Hooks left on the model that changed something in the run.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
    """

    model: str
    sae: str
    feature: NodeId
    prompt: str
    tokens: tuple[str, ...] = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    position: int
    parts: Float[np.ndarray, "head pos"] = field(repr=False)
    bias: float
    pre_activation: float
    activation: float
    error: float
    patched: tuple[str, ...] = ()
    segments: tuple[tuple[int, int], ...] = ()

    @property
    def heads(self) -> Float[np.ndarray, " head"]:
        """What each head adds, over all source positions."""
        return self.parts.sum(1)

    @property
    def sources(self) -> Float[np.ndarray, " pos"]:
        """What each source position adds, over all heads."""
        return self.parts.sum(0)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per memory value, the largest first; the values and the bias sum up.

        Columns: value (its id, such as `L9H6.v3`), head, key_position, token, adds, share (of the
        pre-activation). Positions that no head sees are left out.
        """
        import pandas as pd

        layer = self.feature.layer
        seen = int(np.flatnonzero(self.parts.any(0)).max(initial=self.position)) + 1
        rows = [
            (str(NodeId("value", layer, h, j)), h, j, self.tokens[j], float(self.parts[h, j]))
            for h in range(len(self.parts))
            for j in range(seen)
        ]
        rows.sort(key=lambda row: (-abs(row[4]), row[1], row[2]))
        columns = ["value", "head", "key_position", "token", "adds"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.assign(share=frame["adds"] / self.pre_activation)

    @checked
    def figure(self, theme: Theme = "light", **options: Any) -> go.Figure:
        """Heads x source positions as a heat map, with the sums of both as bars.

        See `visit_tl.view.figures.feature_attribution.figure`.

        Args:
            theme: `light` or `dark`.
            options: `positions`, the most source positions that are shown.
        """
        return self._drawn("figure", theme=theme, **options)
