"""Performance of a model on a task before patching, as a baseline for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Name
from visit_tl.causal.logit_margin import LogitMargin
from visit_tl.causal.metrics import ProbabilityDifference
from visit_tl.circuits.prompts.answer_scores import TaskMetric
from visit_tl.circuits.prompts.pair import END, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.errors import InputError, ModelError
from visit_tl.model.view import model_of_view

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Baseline:
    """A model's answers to a set of prompts.

    Attributes:
        prompts: The prompts.
        corruption: Which corrupted prompts were run; None is the clean ones. Answers are always
            those of the clean prompt.
        metric: What `score` is: `logit difference`, `logit margin` or `probability difference`.
        score: For each prompt, the task's own metric (`prompts.metrics`); above 0 where the model
            prefers the right answers.
        probability: For each prompt, probability of the answer; of several, their sum.
        right: For each prompt, whether the most probable continuation is a right answer. With
            answers of two tokens, the first token may decide; else the second one after it does.
        rank: For each prompt, 0-based rank of the answer, the best of several; empty if answers
            have two tokens.
    """

    prompts: PromptSet
    corruption: str | None
    metric: str
    score: tuple[float, ...]
    probability: tuple[float, ...]
    right: tuple[bool, ...]
    rank: tuple[int, ...]

    @property
    def logit_difference(self) -> tuple[float, ...]:
        """For each prompt, logit of the answer minus that of the wrong answer.

        Raises:
            InputError: the task has another metric.
        """
        if self.metric != "logit difference":
            raise InputError(
                f"the metric of {self.prompts.task} is the {self.metric}, not the logit "
                f"difference; read score"
            )
        return self.score

    @property
    def mean(self) -> float:
        """Mean score."""
        return sum(self.score) / len(self.score)

    @property
    def share_positive(self) -> float:
        """Share of the prompts with a positive score, in [0, 1]."""
        return sum(value > 0 for value in self.score) / len(self.score)

    @property
    def accuracy(self) -> float:
        """Share of the prompts whose most probable continuation is a right answer, in [0, 1]."""
        return sum(self.right) / len(self.right)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per prompt; the score has the name of the metric."""
        import pandas as pd

        columns = {
            "template": [pair.template for pair in self.prompts],
            "order": [pair.order for pair in self.prompts],
            "text": self._texts(),
            self._column: self.score,
            "probability": self.probability,
            "right": self.right,
        }
        return pd.DataFrame(columns | ({"rank": self.rank} if self.rank else {}))

    def by_template(self) -> pd.DataFrame:
        """One row per template.

        Columns: number of prompts, mean and lowest score, share of positive ones, mean probability
        of the answer, and share of prompts whose most probable continuation is right.
        """
        table = self.to_dataframe()
        table["positive"] = table[self._column] > 0
        return table.groupby("template", as_index=False).agg(
            prompts=("text", "size"),
            mean=(self._column, "mean"),
            lowest=(self._column, "min"),
            share_positive=("positive", "mean"),
            probability=("probability", "mean"),
            share_top=("right", "mean"),
        )

    @property
    def _column(self) -> str:
        return self.metric.replace(" ", "_")

    def _texts(self) -> list[str]:
        if self.corruption is None:
            return [pair.text for pair in self.prompts]
        return [pair.corrupted[self.corruption].text for pair in self.prompts]

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>{self.by_template().to_html(notebook=True)}"

    def __repr__(self) -> str:
        which = "clean" if self.corruption is None else self.corruption
        return (
            f"Baseline({len(self.prompts)} {which} prompts: mean {self.metric} "
            f"{self.mean:.3f}, positive in {self.share_positive:.1%})"
        )


@checked
def baseline(
    model: Model,
    prompts: PromptSet,
    *,
    corruption: Name | None = None,
    batch_size: Count = 32,
    verbose: Flag = True,
) -> Baseline:
    """Run a model on prompts, in batches of equal length, and read the answers at END.

    Args:
        model: A model as for `flow_graph`, or a `ModelView`.
        prompts: The prompts; each must have one answer and at least one wrong answer, or be of
            greater-than.
        corruption: Name of the corrupted prompts to run instead of the clean ones.
        batch_size: Number of prompts per batch.
        verbose: Show a progress bar.

    Raises:
        InputError: there is no such corruption, a prompt has several right answers or no wrong one,
            or an id is outside the model's vocabulary.
        ModelError: `model` is not a TransformerLens model.
    """
    model = model_of_view(model)
    tokens, _ = prompts.padded(corruption)
    metrics, ends = prompts.metrics, prompts.positions[END]
    answers = [token for pair in prompts for token in (*pair.answers, *pair.wrong)]
    largest = max(int(tokens.max()), *answers)
    if getattr(model, "cfg", None) is None:
        raise ModelError(f"a {type(model).__name__} is not a TransformerLens model")
    if largest >= int(model.cfg.d_vocab):
        raise InputError(
            f"the prompts hold the token id {largest}, but the model's vocabulary is "
            f"0..{int(model.cfg.d_vocab) - 1}; they were made for {prompts.tokenizer}"
        )
    found: dict[int, _Answer] = {}
    with torch.no_grad(), tqdm(total=len(prompts), disable=not verbose, unit="prompt") as bar:
        for length in sorted(set(prompts.lengths)):
            rows = (ends == length - 1).nonzero().flatten()
            for batch in rows.split(batch_size):
                # All prompts of the batch have this length, so there is no padding to attend to.
                logits = model(tokens[batch, :length])[:, -2:].float().cpu()
                for row, index in zip(logits, batch.tolist(), strict=True):
                    found[index] = _answer(row, prompts[index], metrics[index])
                bar.update(len(batch))
    read = [found[index] for index in range(len(prompts))]
    return Baseline(
        prompts,
        corruption,
        _kind(metrics[0]),
        tuple(one.score for one in read),
        tuple(one.probability for one in read),
        tuple(one.right for one in read),
        () if prompts[0].first else tuple(one.rank for one in read),
    )


@dataclass(frozen=True)
class _Answer:
    """What was read of one prompt."""

    score: float
    probability: float
    right: bool
    rank: int


def _answer(logits: Float[Tensor, "pos d_vocab"], pair: PromptPair, metric: TaskMetric) -> _Answer:
    """Read one prompt from the logits at its last positions."""
    last = logits[-1]
    right = list(pair.answers)
    alone = None if pair.first is None else pair.first._replace(wrong=())
    mass = ProbabilityDifference(pair.answers, (), -1, alone)(logits[None])
    best = last[right].max() if right else last.new_tensor(float("-inf"))
    rank = int((last > best).sum())
    top = rank == 0
    if pair.first is not None:
        first = int(logits[-2].argmax())
        top = first in pair.first.right or (first == pair.first.token and rank == 0)
    return _Answer(float(metric(logits[None])), float(mass), top, rank)


def _kind(metric: TaskMetric) -> str:
    if isinstance(metric, ProbabilityDifference):
        return "probability difference"
    return "logit margin" if isinstance(metric, LogitMargin) else "logit difference"
