"""Scores of a set of prompts from its logits: right answers against wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.causal.logit_margin import LogitMargin
from visit_tl.causal.metrics import LogitDifference, ProbabilityDifference
from visit_tl.circuits.prompts.pair import END, PromptPair
from visit_tl.errors import InputError

TaskMetric = LogitDifference | LogitMargin | ProbabilityDifference

GREATER_THAN: Final = "greater-than"


def metric_of(task: str, index: int, pair: PromptPair) -> TaskMetric:
    """The metric by which a task's own papers judge an answer; see `PromptSet.metrics`.

    Raises:
        InputError: the pair has several right answers, or no wrong one, and is not of greater-than.
    """
    if task == GREATER_THAN or pair.first is not None:
        return ProbabilityDifference(pair.answers, pair.wrong, -1, pair.first)
    if len(pair.answers) != 1 or not pair.wrong:
        raise InputError(
            f"prompt {index} has {len(pair.answers)} right answers and {len(pair.wrong)} wrong "
            f"ones, and the metric of {task!r} needs one and at least one; make a metric of "
            f"prompts[{index}].answers yourself, such as vt.causal.probability_difference"
        )
    if len(pair.wrong) == 1:
        return LogitDifference(pair.answers[0], pair.wrong[0])
    return LogitMargin(pair.answers[0], pair.wrong)


def probability_differences(
    pairs: Sequence[PromptPair], logits: Float[Tensor, "prompt pos d_vocab"]
) -> Float[Tensor, " prompt"]:
    """See `PromptSet.probability_difference`."""
    scores = [
        ProbabilityDifference(pair.answers, pair.wrong, pair.positions[END], pair.first)(row[None])
        for row, pair in zip(logits, pairs, strict=True)
    ]
    return torch.stack(scores)


def require_fit(pairs: Sequence[PromptPair], tokenizer: str, logits: Tensor) -> None:
    """Check that logits have the shape that fits the prompts.

    Raises:
        InputError: the number of prompts, positions or tokens does not fit.
    """
    if logits.ndim != 3:
        raise InputError(f"logits must be [prompt, pos, d_vocab], got {list(logits.shape)}")
    longest = max(len(pair.ids) for pair in pairs)
    if logits.shape[0] != len(pairs) or logits.shape[1] < longest:
        raise InputError(
            f"logits of {logits.shape[0]} prompts and {logits.shape[1]} positions were given; "
            f"this set has {len(pairs)} prompts of up to {longest} tokens"
        )
    largest = max(token for pair in pairs for token in (*pair.answers, *pair.wrong))
    if largest >= logits.shape[2]:
        raise InputError(
            f"the answers hold the token id {largest}, but the logits are of a vocabulary of "
            f"{logits.shape[2]}; these prompts are for {tokenizer}"
        )
