"""Metrics: one number computed from the logits of one run.

A metric is any callable that takes the logits of one run, `[1, pos, d_vocab]`, and gives a scalar.
The built-in metrics take a token as an id, or as a text that is exactly one token. `bind` turns
texts into ids with the model's tokenizer, and gives the clean logits to a metric that needs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import each
from visit_tl.arguments.vocabulary import TENSOR, Position, Spelled, Token, Tokens
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView

Metric = Callable[[Tensor], "Tensor | float"]
"""Logits of one run, `[1, pos, d_vocab]`, to a scalar: a 0-d tensor or a number."""


@dataclass(frozen=True)
class LogitDifference:
    """Logit of one token minus that of another, at one position (Wang et al., 2022, section 2).

    Attributes:
        correct: The token that should win, as id or text.
        wrong: The token that should lose.
        position: Position of the logits; negative ones count from the end.
    """

    correct: int | str
    wrong: int | str
    position: int = -1

    @property
    def name(self) -> str:
        """Name of the metric, with its tokens and position."""
        return f"logit_difference({self.correct!r}, {self.wrong!r}, {self.position})"

    def bind(self, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> LogitDifference:
        """Return this metric with texts replaced by token ids."""
        single = view.tokens.single
        return replace(self, correct=single(self.correct), wrong=single(self.wrong))

    def __call__(self, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
        """Compute the metric from the logits of one run."""
        row = logits_at(logits, self.position)
        return row[token_id(self.correct, row)] - row[token_id(self.wrong, row)]


@dataclass(frozen=True)
class Probability:
    """Probability of a token at one position, in [0, 1], or its logarithm, in nats.

    Attributes:
        token: The token, as id or text.
        position: Position of the logits; negative ones count from the end.
        log: Whether to give the logarithm.
    """

    token: int | str
    position: int = -1
    log: bool = False

    @property
    def name(self) -> str:
        """Name of the metric, with its token and position."""
        kind = "log_probability" if self.log else "probability"
        return f"{kind}({self.token!r}, {self.position})"

    def bind(self, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> Probability:
        """Return this metric with a text replaced by its token id."""
        return replace(self, token=view.tokens.single(self.token))

    def __call__(self, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
        """Compute the metric from the logits of one run."""
        row = logits_at(logits, self.position)
        log = row.log_softmax(-1)[token_id(self.token, row)]
        return log if self.log else log.exp()


@dataclass(frozen=True)
class ProbabilityDifference:
    """Total probability of some tokens minus that of others (Hanna et al., 2023, section 2.2).

    Attributes:
        correct: The tokens that should win, as ids or texts.
        wrong: The tokens that should lose.
        position: Position of the logits; negative ones count from the end.
        first: For answers of two tokens, `(token, right, wrong)`. `token` is the first token of an
            answer that is still open after it; it stands at `position` itself. `right` and `wrong`
            are first tokens that already decide the answer. All three are read one position
            before, and `correct` and `wrong` are weighted with the probability of `token` there.
    """

    correct: tuple[int | str, ...]
    wrong: tuple[int | str, ...]
    position: int = -1
    first: tuple[int, tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def name(self) -> str:
        """Name of the metric: the number of tokens, the position, and a digest of the tokens.

        The digest is needed because a resumed sweep compares metrics by name.
        """
        which = hashlib.sha256(repr((self.correct, self.wrong, self.first)).encode()).hexdigest()
        return (
            f"probability_difference({len(self.correct)} tokens, {len(self.wrong)} tokens, "
            f"{self.position}, {which[:8]})"
        )

    def bind(self, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> ProbabilityDifference:
        """Return this metric with texts replaced by token ids."""
        single = view.tokens.single
        return replace(
            self,
            correct=tuple(single(token) for token in self.correct),
            wrong=tuple(single(token) for token in self.wrong),
        )

    def __call__(self, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
        """Compute the metric from the logits of one run; it is in [-1, 1]."""
        value = _mass(logits_at(logits, self.position), self.correct, self.wrong)
        if self.first is None:
            return value
        token, right, wrong = self.first
        if not (at := self.position % logits.shape[-2]):
            raise InputError("answers of two tokens need the position before theirs; 0 has none")
        before = logits_at(logits, at - 1)
        return _mass(before, (token,), ()) * value + _mass(before, right, wrong)


@dataclass(frozen=True, eq=False)
class Divergence:
    """KL(clean || run) of the next-token distributions at one position, in nats.

    Attributes:
        clean: Logits of the clean run, `[1, pos, d_vocab]` or `[pos, d_vocab]`; None until the
            metric is bound to a clean run.
        position: Position of the logits; negative ones count from the end.
    """

    clean: Tensor | None = None
    position: int = -1

    @property
    def name(self) -> str:
        """Name of the metric, with its position."""
        return f"kl({self.position})"

    def bind(self, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> Divergence:
        """Return this metric with the logits of this clean run, if it has no clean logits yet."""
        return self if self.clean is not None else replace(self, clean=clean.detach().clone())

    def __call__(self, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
        """Compute the metric from the logits of one run."""
        if self.clean is None:
            raise InputError(
                "kl() compares with a clean run, whose logits it does not have; pass that run's "
                "logits, kl(clean_logits), when you call the metric yourself"
            )
        clean = self.clean if self.clean.ndim == 3 else self.clean[None]
        if clean.shape != logits.shape:
            raise InputError(
                f"kl() compares with logits of shape {list(clean.shape)}, but this run has "
                f"{list(logits.shape)}; both prompts must have the same length"
            )
        log_p = logits_at(clean, self.position).to(logits.device).log_softmax(-1)
        log_q = logits_at(logits, self.position).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum()


@checked
def logit_difference(
    correct: Token, wrong: Token, position: Position | None = -1
) -> LogitDifference:
    """Logit of `correct` minus logit of `wrong` at a position.

    Args:
        correct: Token id, or a text that is one token (with its leading space).
        wrong: Token id or text, as `correct`.
        position: Negative ones count from the end; None is the last.
    """
    return LogitDifference(correct, wrong, _last_if_none(position))


@checked
def probability(token: Token, position: Position | None = -1) -> Probability:
    """Probability of a token at a position, in [0, 1]; arguments as `logit_difference`."""
    return Probability(token, _last_if_none(position))


@checked
def log_probability(token: Token, position: Position | None = -1) -> Probability:
    """Logarithm of `probability`, in nats."""
    return Probability(token, _last_if_none(position), log=True)


@checked
def probability_difference(
    correct: Tokens,
    wrong: Tokens,
    position: Position | None = -1,
    first: Spelled = None,
) -> ProbabilityDifference:
    """Total probability of `correct` minus total probability of `wrong`, in [-1, 1].

    The metric of the greater-than task:
    `probability_difference(pair.answers, pair.wrong, first=pair.first)` for a pair of
    `visit_tl.circuits.prompts.read_greater_than`.

    Args:
        correct: Token ids, or texts that are one token (with their leading space).
        wrong: Token ids or texts, as `correct`; empty for the probability of `correct` alone.
        position: Negative ones count from the end; None is the last.
        first: For answers of two tokens, `pair.first`: the first token, which stands at
            `position`, and the first tokens that already decide the answer.

    Raises:
        InputError: no token is given, or a token is on both sides.
    """
    right, other = tuple(each(correct)), tuple(each(wrong))
    if not right and not other and first is None:
        raise InputError(
            "probability_difference needs at least one token, but both sides are empty"
        )
    if both := [token for token in right if token in other]:
        raise InputError(f"the token {both[0]!r} is on both sides of probability_difference")
    return ProbabilityDifference(right, other, _last_if_none(position), first)


@checked
def kl(
    clean_logits: Annotated[Tensor, TENSOR] | None = None, position: Position | None = -1
) -> Divergence:
    """KL(clean || run) at a position, in nats; 0 for the clean run itself.

    Args:
        clean_logits: Logits of the clean run, `[1, pos, d_vocab]` or `[pos, d_vocab]`; None takes
            those of the clean run when the metric is used, as by `effects`.
        position: Negative ones count from the end; None is the last.
    """
    return Divergence(clean_logits, _last_if_none(position))


def metric_name(metric: Metric) -> str:
    """The metric's own `name`, else that of the function or class."""
    for attribute in ("name", "__qualname__", "__name__"):
        if isinstance(found := getattr(metric, attribute, None), str):
            return found
    return type(metric).__name__


def bind(metric: Any, view: ModelView, clean: Float[Tensor, "1 pos d_vocab"]) -> Metric:
    """Prepare a metric for a model: turn texts into ids, and fill in missing clean logits.

    Raises:
        InputError: the metric is not callable, or a text is not one token.
    """
    if not callable(metric):
        raise InputError(
            f"a metric is a callable on logits [1, pos, d_vocab], got {type(metric).__name__}; "
            f"try logit_difference(' Mary', ' John')"
        )
    binder: Any = getattr(metric, "bind", None)
    return cast("Metric", binder(view, clean) if callable(binder) else metric)


def scalar(metric: Metric, logits: Float[Tensor, "1 pos d_vocab"]) -> Tensor:
    """The metric's value as a 0-d tensor, with its gradient where it has one.

    Raises:
        InputError: the metric is not a scalar; the message says what it returned.
    """
    value = metric(logits)
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value))
    got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise InputError(
        f"the metric {metric_name(metric)} gave {got[:80]}, but one number is needed for the "
        f"logits {list(logits.shape)} of one run; take one position and one token, or the mean"
    )


def evaluate(metric: Metric, logits: Float[Tensor, "1 pos d_vocab"]) -> float:
    """The metric's value as a number.

    Raises:
        InputError: the metric is not a scalar, or is not finite.
    """
    value = float(scalar(metric, logits))
    if value != value or value in (float("inf"), float("-inf")):
        raise InputError(
            f"the metric {metric_name(metric)} is {value}; effects are differences of it, so it "
            f"must be finite"
        )
    return value


def _last_if_none(position: int | None) -> int:
    return -1 if position is None else position


def logits_at(logits: Tensor, position: int) -> Tensor:
    """The logits at one position of one run, as float32.

    Raises:
        InputError: the run has no such position.
    """
    n = logits.shape[-2]
    if not -n <= position < n:
        raise InputError(
            f"the metric asks for position {position}, but the run has {n} tokens: 0..{n - 1}, "
            f"or -{n}..-1 from the end"
        )
    return logits[0, position].float()


def _mass(row: Tensor, correct: Iterable[int | str], wrong: Iterable[int | str]) -> Tensor:
    """Total probability of `correct` minus that of `wrong`; a token given twice counts once."""
    chances = row.softmax(-1)
    right, other = ([*{token_id(token, row) for token in some}] for some in (correct, wrong))
    return chances[right].sum() - chances[other].sum()


def token_id(token: int | str, row: Tensor) -> int:
    """The id of a token of a metric that is bound to a model.

    Raises:
        InputError: it is a text still, or outside the vocabulary.
    """
    if isinstance(token, str):
        raise InputError(
            f"the metric has the text {token!r} where an id is needed; visit_tl resolves it when "
            f"it runs the model, elsewhere use bind(metric, view, clean_logits)"
        )
    if not 0 <= token < len(row):
        raise InputError(f"the metric's token id {token} is outside 0..{len(row) - 1}")
    return token
