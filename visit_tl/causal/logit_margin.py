"""The logit of one token less the largest logit of several others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import each
from visit_tl.arguments.vocabulary import Position, Token, Tokens
from visit_tl.causal.metrics import logits_at, token_id
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView


@dataclass(frozen=True)
class LogitMargin:
    """Logit of one token minus the largest logit of others, at one position.

    Above 0 where the token beats all the others. With one other token it is the logit difference.

    Attributes:
        correct: The token that should win, as id or text.
        wrong: The tokens that should lose.
        position: Position of the logits; negative ones count from the end.
    """

    correct: int | str
    wrong: tuple[int | str, ...]
    position: int = -1

    @property
    def name(self) -> str:
        """Name of the metric: its token, how many others, the position, and a digest of these.

        The digest is needed because a resumed sweep compares metrics by name.
        """
        which = hashlib.sha256(repr(self.wrong).encode()).hexdigest()
        return (
            f"logit_margin({self.correct!r}, {len(self.wrong)} tokens, {self.position}, "
            f"{which[:8]})"
        )

    def bind(self, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> LogitMargin:
        """Return this metric with texts replaced by token ids."""
        single = view.tokens.single
        wrong = tuple(single(token) for token in self.wrong)
        return replace(self, correct=single(self.correct), wrong=wrong)

    def __call__(self, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
        """Compute the metric from the logits of one run."""
        row = logits_at(logits, self.position)
        others = torch.stack([row[token_id(token, row)] for token in self.wrong])
        return row[token_id(self.correct, row)] - others.max()


@checked
def logit_margin(correct: Token, wrong: Tokens, position: Position | None = -1) -> LogitMargin:
    """Logit of `correct` minus the largest logit of `wrong`, in logits.

    The metric of the docstring task (Heimersheim and Janiak 2023), and of coloured objects here.
    Its gradient is that of `correct` minus that of the wrong token which is largest in the run.

    Args:
        correct: Token id, or a text that is one token (with its leading space).
        wrong: Token ids or texts, as `correct`; at least one.
        position: Negative ones count from the end; None is the last.

    Raises:
        InputError: no wrong token is given, or `correct` is among them.
    """
    others = tuple(each(wrong))
    if not others:
        raise InputError("logit_margin needs at least one wrong token to compare with, got none")
    if correct in others:
        raise InputError(f"the token {correct!r} is on both sides of logit_margin")
    return LogitMargin(correct, others, -1 if position is None else position)
