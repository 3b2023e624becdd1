"""Prompts for circuits: IOI prompts of our own with their corruptions, and readers of others'.

After `prompts = ioi(model, 100, same_length=True)` there are `prompts.tokens`,
`prompts.corrupted_tokens("ABC")`, `prompts.answers`, `prompts.positions["S2"]`. The readers take
`unusable="skip"`: pairs that do not fit the tokenizer are left out and listed in `prompts.report`.
"""

from visit_tl.circuits.prompts.auto_circuit import read_auto_circuit
from visit_tl.circuits.prompts.baseline import Baseline, baseline
from visit_tl.circuits.prompts.eap_ig import read_eap_ig
from visit_tl.circuits.prompts.greater_than import read_greater_than
from visit_tl.circuits.prompts.ioi_dataset import read_ioi_dataset
from visit_tl.circuits.prompts.make import ioi
from visit_tl.circuits.prompts.pair import Corrupted, FirstToken, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.circuits.prompts.report import Report, Unusable, Usable

__all__ = [
    "Baseline",
    "Corrupted",
    "FirstToken",
    "PromptPair",
    "PromptSet",
    "Report",
    "Unusable",
    "Usable",
    "baseline",
    "ioi",
    "read_auto_circuit",
    "read_eap_ig",
    "read_greater_than",
    "read_ioi_dataset",
]
