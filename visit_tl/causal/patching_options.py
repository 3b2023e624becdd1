"""The keyword arguments that the measurements by patching share."""

from __future__ import annotations

from typing import Final, TypedDict

from visit_tl.arguments.shared import shared
from visit_tl.arguments.vocabulary import Flag, How, MeanOver, PromptLike, SegmentsLike


class PatchingOptions(TypedDict, total=False):
    """Keyword arguments of `effects`, `edge_effects` and `graph_edge_effects`.

    Attributes:
        corrupted: A prompt with as many tokens as the clean one; `resample` takes activations from
            it.
        how: What replaces an activation: the one in the corrupted run (`resample`), the mean over
            `mean_over` at the same position (`mean`), or zeros (`zero`).
        mean_over: For `mean`, prompts with as many tokens as the clean one.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`; the other prompts run under the mask of the clean one. None
            is that of a graph that is given, else causal.
        verbose: Show a progress bar.
    """

    corrupted: PromptLike | None
    how: How
    mean_over: MeanOver | None
    prepend_bos: Flag | None
    segments: SegmentsLike | None
    verbose: Flag


PATCHING_OPTIONS: Final = shared(
    PatchingOptions,
    corrupted=None,
    how="resample",
    mean_over=None,
    prepend_bos=None,
    segments=None,
    verbose=True,
)
