"""Logits of a set of prompts as numbers: how much the right answers are ahead of the wrong ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.causal.metrics import ProbabilityDifference
from visit_tl.circuits.prompts.pair import END
from visit_tl.errors import InputError

if TYPE_CHECKING:
    from visit_tl.circuits.prompts.records import PromptSet


def logit_difference(
    prompts: PromptSet, logits: Float[Tensor, "prompt pos d_vocab"]
) -> Float[Tensor, " prompt"]:
    """See `PromptSet.logit_difference`."""
    _need_fit(prompts, logits)
    rows = torch.arange(len(prompts), device=logits.device)
    last = logits[rows, prompts.positions[END].to(logits.device)]
    answers, wrong = prompts.answers.to(logits.device), prompts.wrong.to(logits.device)
    return last[rows, answers] - last[rows, wrong]


def probability_difference(
    prompts: PromptSet, logits: Float[Tensor, "prompt pos d_vocab"]
) -> Float[Tensor, " prompt"]:
    """See `PromptSet.probability_difference`."""
    _need_fit(prompts, logits)
    scores = [
        ProbabilityDifference(pair.answers, pair.wrong, pair.positions[END], pair.first)(row[None])
        for row, pair in zip(logits, prompts.pairs, strict=True)
    ]
    return torch.stack(scores)


def _need_fit(prompts: PromptSet, logits: Tensor) -> None:
    if logits.ndim != 3:
        raise InputError(f"logits are [prompt, pos, d_vocab], got {list(logits.shape)}")
    if logits.shape[0] != len(prompts) or logits.shape[1] < max(prompts.lengths):
        raise InputError(
            f"logits of {logits.shape[0]} prompts and {logits.shape[1]} positions were given; "
            f"this set has {len(prompts)} prompts of up to {max(prompts.lengths)} tokens"
        )
    largest = max(token for pair in prompts.pairs for token in (*pair.answers, *pair.wrong))
    if largest >= logits.shape[2]:
        raise InputError(
            f"the answers hold the token id {largest}, but the logits are of a vocabulary of "
            f"{logits.shape[2]}; these prompts are for {prompts.tokenizer}"
        )
