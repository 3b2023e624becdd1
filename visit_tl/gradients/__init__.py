"""Gradients of one run: Backward Lens, Reversed Attention, and edits made from them.

    lens = vt.backward_lens(model, prompt, " Paris")
    maps = vt.reversed_attention(model, prompt, " Paris")

Nothing here draws. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visit_tl.gradients.attention_patching import attention_patching, mean_maps
    from visit_tl.gradients.backward_lens import backward_lens
    from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
    from visit_tl.gradients.factors import Factors
    from visit_tl.gradients.patching_sweep import PatchingSweep, patching_sweep
    from visit_tl.gradients.reversed_attention import reversed_attention
    from visit_tl.gradients.reversed_attention_result import ReversedAttention
    from visit_tl.gradients.segment_summary import segment_summary
    from visit_tl.gradients.shift_edit import shift
    from visit_tl.gradients.shift_sweep import ShiftSweep, shift_sweep
    from visit_tl.gradients.similarity import similarity

_MODULES = {
    "attention_patching": "attention_patching",
    "mean_maps": "attention_patching",
    "backward_lens": "backward_lens",
    "BackwardLens": "backward_lens_result",
    "MatrixReadout": "backward_lens_result",
    "Factors": "factors",
    "PatchingSweep": "patching_sweep",
    "patching_sweep": "patching_sweep",
    "reversed_attention": "reversed_attention",
    "ReversedAttention": "reversed_attention_result",
    "segment_summary": "segment_summary",
    "shift": "shift_edit",
    "ShiftSweep": "shift_sweep",
    "shift_sweep": "shift_sweep",
    "similarity": "similarity",
}

__all__ = [
    "BackwardLens",
    "Factors",
    "MatrixReadout",
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
