"""Prompts for circuits: IOI prompts of our own with their corruptions, and readers of others'.

prompts = ioi(model, 100, same_length=True)
prompts.tokens, prompts.corrupted_tokens("ABC"), prompts.answers, prompts.positions["S2"]
"""

from visit_tl.circuits.prompts.make import ioi
from visit_tl.circuits.prompts.records import Corrupted, PromptPair, PromptSet
from visit_tl.circuits.prompts.report import Report, Usable

__all__ = ["Corrupted", "PromptPair", "PromptSet", "Report", "Usable", "ioi"]
