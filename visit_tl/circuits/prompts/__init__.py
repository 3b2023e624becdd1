"""Prompts for circuits: made for five tasks, with corruptions, and read from prompt files.

`prompts = ioi(model, 100, same_length=True)` gives `prompts.tokens`,
`prompts.corrupted_tokens("ABC")`, `prompts.answers`, `prompts.metrics` and
`prompts.positions["S2"]`. `greater_than`, `docstring`, `gendered_pronoun` and `colored_objects` do
the same for their tasks, and `for_circuit` for that of a reference. With `unusable="skip"`, the
readers leave out pairs that do not fit the tokenizer and list them in `prompts.report`. Nothing
here patches a model; `baseline` runs it as it is.
"""

from visit_tl.circuits.prompts.auto_circuit import read_auto_circuit
from visit_tl.circuits.prompts.baseline import Baseline, baseline
from visit_tl.circuits.prompts.colored_objects_prompts import colored_objects
from visit_tl.circuits.prompts.docstring_prompts import docstring
from visit_tl.circuits.prompts.eap_ig import read_eap_ig
from visit_tl.circuits.prompts.for_circuit import for_circuit
from visit_tl.circuits.prompts.gendered_pronoun_prompts import gendered_pronoun
from visit_tl.circuits.prompts.greater_than import read_greater_than
from visit_tl.circuits.prompts.greater_than_prompts import greater_than
from visit_tl.circuits.prompts.ioi_dataset import read_ioi_dataset
from visit_tl.circuits.prompts.ioi_prompts import ioi
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
    "colored_objects",
    "docstring",
    "for_circuit",
    "gendered_pronoun",
    "greater_than",
    "ioi",
    "read_auto_circuit",
    "read_eap_ig",
    "read_greater_than",
    "read_ioi_dataset",
]
