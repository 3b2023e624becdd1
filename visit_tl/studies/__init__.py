"""Measurements over many prompts: readouts and attention of heads, and what patching them does.

from visit_tl.circuits.prompts import ioi
from visit_tl.studies import agreement, causes, observe
prompts = ioi(model, 120, prepend_bos=False)
scores = observe(model, prompts).joined(causes(model, prompts, at="END"))
agreement(scores, "effect at END", k=10)

The results are tables. What is measured on one prompt is in `causal/` and `xray/`.
"""

from visit_tl.studies.agreement import agreement
from visit_tl.studies.causes import causes
from visit_tl.studies.head_scores import HeadScores
from visit_tl.studies.observe import observe

__all__ = ["HeadScores", "agreement", "causes", "observe"]
