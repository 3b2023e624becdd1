"""Lenses other than the logit lens: maps that carry a state of the residual stream to the last.

What they are, where they come from (TransformerLens, tuned-lens, files, matrices of the caller),
and whether one fits a model. How vectors are read as words lives in `lens/`.
"""

from visit_tl.lenses.fitting import fit
from visit_tl.lenses.lens_files import load, save
from visit_tl.lenses.maps import Lens

__all__ = ["Lens", "fit", "load", "save"]
