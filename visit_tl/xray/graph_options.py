"""The keyword arguments that `flow_graph`, `flow_graphs` and `generate` share."""

from __future__ import annotations

from typing import Final, TypedDict

from visit_tl.arguments.shared import shared
from visit_tl.arguments.vocabulary import (
    Count,
    FeatureLabels,
    FeatureModules,
    Flag,
    Layers,
    LensLike,
    Neurons,
    Preset,
    Whole,
)
from visit_tl.xray.feature_nodes import HIGHEST


class GraphOptions(TypedDict, total=False):
    """Keyword arguments of `flow_graph`, `flow_graphs` and `generate`.

    Attributes:
        layers: Consecutive blocks, one or several; None or `all` is all.
        prepend_bos: Whether a BOS goes before a text; None is the model's own default, but no
            second one before a text that begins with BOS already (`graph.bos_in_prompt`).
        preset: `default`, or `paper` for all heads and neurons by absolute activation.
        heads: Heads per block, by norm of output (default 10).
        values: Memory values per head, by attention (default 2).
        neurons: Neurons per matrix: (high, low), default (18, 7), or their sum.
        k: How many top and bottom tokens each node keeps (default 5).
        saes: SAEs and transcoders whose features are shown, one or several: what
            `visit_tl.features.open` gives, or what it takes (a folder, a `sae_lens.SAE`).
        features: Features per site, by |activation| x norm of the decoder's row (default 10).
        labels: What the features are said to be: a dict such as `{"L9.z.F123": "months"}` or, with
            one SAE, `{"123": "months"}`; or the path of a JSON file that holds one, or a list of
            explanations as Neuronpedia exports them.
        lens: What carries states and parts to the last block before they are read: what
            `visit_tl.lenses.load` or `fit` gives, a path, a `JacobianLens` of TransformerLens, a
            dict of matrices by block, or a function of a block; None is the logit lens.
    """

    layers: Layers | None
    prepend_bos: Flag | None
    preset: Preset
    heads: Count | None
    values: Count | None
    neurons: Neurons | None
    k: Count
    saes: FeatureModules | None
    features: Whole
    labels: FeatureLabels | None
    lens: LensLike | None


GRAPH_OPTIONS: Final = shared(
    GraphOptions,
    layers=None,
    prepend_bos=None,
    preset="default",
    heads=None,
    values=None,
    neurons=None,
    k=5,
    saes=None,
    features=HIGHEST,
    labels=None,
    lens=None,
)
