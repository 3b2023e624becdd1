"""Measurements over many prompts: what heads say and where they look, what patching them does.

from visit_tl.circuits.prompts import ioi
from visit_tl.studies import agreement, causes, observe
prompts = ioi(model, 120, prepend_bos=False)
scores = observe(model, prompts).joined(causes(model, prompts, at="END"))
agreement(scores, "effect at END", k=10)
"""

from visit_tl.studies.agreement import agreement
from visit_tl.studies.causes import causes
from visit_tl.studies.observe import observe
from visit_tl.studies.scores import HeadScores

__all__ = ["HeadScores", "agreement", "causes", "observe"]
