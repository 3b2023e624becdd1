"""What is differentiated: the loss of a target token, or a metric in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visit_tl.arguments import plain
from visit_tl.arguments.words import short
from visit_tl.causal.metrics import Metric, bind, log_probability, metric_name, scalar
from visit_tl.errors import InputError, warn_caller
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


@dataclass(frozen=True, eq=False)
class Loss:
    """A function of the logits that is differentiated, and the token whose ranks are read.

    Attributes:
        name: `-log p(target)`, or the name of the metric.
        target: The token whose ranks are read: the target; for a metric, its own token, or else
            the model's prediction at the position.
        given: Whether the caller named that token, by itself or in a metric.
        position: The position of the loss.
        is_metric: Whether a metric stands in the place of the loss.
        function: The function.
    """

    name: str
    target: int
    given: bool
    position: int
    is_metric: bool
    function: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, view: ModelView, prompt: Prompt, target: Any, position: int) -> Loss:
        """The loss of a target or metric at one position of a prompt.

        Of a target of several tokens the first is taken, with a warning that names it. The prompt
        is run once if the target or the metric needs the model's own logits.

        Raises:
            InputError: the target is neither a token nor a metric, or the metric is no scalar.
        """
        position = view.check_position(position, len(prompt.ids))
        if callable(target):
            return cls._of_metric(view, prompt, target, position)
        given = target is not None
        token = first_token(view, target) if given else _prediction(_logits(view, prompt), position)
        metric = log_probability(token, position)
        return cls("-log p(target)", token, given, position, False, lambda logits: -metric(logits))

    @classmethod
    def _of_metric(cls, view: ModelView, prompt: Prompt, metric: Any, position: int) -> Loss:
        logits = _logits(view, prompt)
        bound: Metric = bind(metric, view, logits)
        scalar(bound, logits)
        at = getattr(bound, "position", None)
        at = view.check_position(at, len(prompt.ids)) if type(at) is int else position
        own = [getattr(bound, name, None) for name in ("correct", "token")]
        tokens = [t for t in own if type(t) is int]
        token = tokens[0] if tokens else _prediction(logits, at)
        return cls(
            metric_name(bound), token, bool(tokens), at, True, lambda found: scalar(bound, found)
        )


def first_token(view: ModelView, target: Any) -> int:
    """The id of a target; of a text of several tokens the first, with a warning that names it.

    Raises:
        InputError: it is no token.
    """
    target = plain.token(target)
    if isinstance(target, bool) or not isinstance(target, str | int):
        raise InputError(
            f"a target is one token, as text or as id, or a metric; got {short(target)}"
        )
    if not isinstance(target, str):
        return view.tokens.single(target)
    try:
        return view.tokens.single(target)
    except InputError:
        # As in the paper (App. I), but never without a word.
        ids = view.tokens.split(target)
        if len(ids) < 2:
            raise
        warn_caller(
            f"the target {target!r} is {len(ids)} tokens of {view.name}; the loss is of the first, "
            f"{view.tokens.text(ids[0])!r}",
            UserWarning,
        )
        return ids[0]


def _logits(view: ModelView, prompt: Prompt) -> Tensor:
    tokens = torch.tensor([prompt.ids], device=view.W_U.device)
    return view.run(tokens, [], prompt.segments).float()


def _prediction(logits: Tensor, position: int) -> int:
    return int(logits[0, position].argmax())
