"""Gradients of one run: Backward Lens, Reversed Attention, and edits made from them.

    lens = vt.backward_lens(model, prompt, " Paris")
    maps = vt.reversed_attention(model, prompt, " Paris")

Nothing here draws. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.gradients.alpha_sweep import PatchingSweep, patching_sweep
    from visit_tl.gradients.attention_gradients import reversed_attention
    from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
    from visit_tl.gradients.factors import Factors
    from visit_tl.gradients.layer_similarity import similarity
    from visit_tl.gradients.lens_of_gradients import backward_lens
    from visit_tl.gradients.norms_by_segment import segment_summary
    from visit_tl.gradients.patched_attention import MeanMaps, attention_patching, mean_maps
    from visit_tl.gradients.reversed_attention_result import ReversedAttention
    from visit_tl.gradients.shift_edit import shift
    from visit_tl.gradients.shift_grid import Edit, ShiftSweep, shift_sweep

_MODULES = {
    "attention_patching": "patched_attention",
    "MeanMaps": "patched_attention",
    "mean_maps": "patched_attention",
    "backward_lens": "lens_of_gradients",
    "BackwardLens": "backward_lens_result",
    "MatrixReadout": "backward_lens_result",
    "Factors": "factors",
    "PatchingSweep": "alpha_sweep",
    "patching_sweep": "alpha_sweep",
    "reversed_attention": "attention_gradients",
    "ReversedAttention": "reversed_attention_result",
    "segment_summary": "norms_by_segment",
    "shift": "shift_edit",
    "Edit": "shift_grid",
    "ShiftSweep": "shift_grid",
    "shift_sweep": "shift_grid",
    "similarity": "layer_similarity",
}

__all__ = [
    "BackwardLens",
    "Edit",
    "Factors",
    "MatrixReadout",
    "MeanMaps",
    "PatchingSweep",
    "ReversedAttention",
    "ShiftSweep",
    "attention_patching",
    "backward_lens",
    "mean_maps",
    "patching_sweep",
    "reversed_attention",
    "segment_summary",
    "shift",
    "shift_sweep",
    "similarity",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'visit_tl.gradients' has no attribute {name!r}")
    return getattr(import_module(f"visit_tl.gradients.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
