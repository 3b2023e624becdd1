"""Measurements over many prompts: readouts and attention of heads, and what patching them does.

from visit_tl.circuits.prompts import ioi
from visit_tl.studies import agreement, causes, observe
prompts = ioi(model, 120, prepend_bos=False)
scores = observe(model, prompts).joined(causes(model, prompts, at="END"))
agreement(scores, "effect at END", k=10)

from visit_tl.studies import few_shot, importances, perturbation_test
prompts, targets = zip(*few_shot(model, "antonym", shots=5, n=30))
scores = importances(model, prompts[:10], targets[:10])
perturbation_test(model, scores, prompts[10:], targets[10:]).auc()

from visit_tl.studies import roles
roles(model).passing("induction")

The results are tables. What is measured on one prompt is in `causal/`, `gradients/` and `xray/`.
"""

from visit_tl.studies.agreement import agreement
from visit_tl.studies.causes import causes
from visit_tl.studies.facts import Fact, edits, known_facts
from visit_tl.studies.head_importance import importances
from visit_tl.studies.head_roles.measure import roles
from visit_tl.studies.head_roles.result import HeadRoles
from visit_tl.studies.head_scores import HeadScores
from visit_tl.studies.later_tokens import later_attention
from visit_tl.studies.observe import observe
from visit_tl.studies.one_matrix import one_matrix_trained
from visit_tl.studies.perturbation import Perturbation, perturbation_test
from visit_tl.studies.task_prompts import few_shot, tasks

__all__ = [
    "Fact",
    "HeadRoles",
    "HeadScores",
    "Perturbation",
    "agreement",
    "causes",
    "edits",
    "few_shot",
    "importances",
    "known_facts",
    "later_attention",
    "observe",
    "one_matrix_trained",
    "perturbation_test",
    "roles",
    "tasks",
]
