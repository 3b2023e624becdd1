"""Performance of a model on a task before patching, as a baseline for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Name
from visit_tl.circuits.prompts.pair import END
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
        corruption: Which corrupted prompts were run; None is the clean ones.
        logit_difference: For each prompt, logit of the answer minus that of the wrong answer (the
            answers of the clean prompt, also for corrupted prompts).
        probability: For each prompt, probability of the answer.
        rank: For each prompt, 0-based rank of the answer.
    """

    prompts: PromptSet
    corruption: str | None
    logit_difference: tuple[float, ...]
    probability: tuple[float, ...]
    rank: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean logit difference, in logits."""
        return sum(self.logit_difference) / len(self.logit_difference)

    @property
    def share_positive(self) -> float:
        """Share of the prompts with a positive logit difference, in [0, 1]."""
        return sum(value > 0 for value in self.logit_difference) / len(self.logit_difference)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per prompt."""
        import pandas as pd

        return pd.DataFrame(
            {
                "template": [pair.template for pair in self.prompts],
                "order": [pair.order for pair in self.prompts],
                "text": self._texts(),
                "logit_difference": self.logit_difference,
                "probability": self.probability,
                "rank": self.rank,
            }
        )

    def by_template(self) -> pd.DataFrame:
        """One row per template.

        Columns: number of prompts, mean and lowest logit difference, share of positive ones, mean
        probability of the answer, and share of prompts whose answer is the top token.
        """
        table = self.to_dataframe()
        table["positive"] = table["logit_difference"] > 0
        table["top"] = table["rank"] == 0
        return table.groupby("template", as_index=False).agg(
            prompts=("text", "size"),
            mean=("logit_difference", "mean"),
            lowest=("logit_difference", "min"),
            share_positive=("positive", "mean"),
            probability=("probability", "mean"),
            share_top=("top", "mean"),
        )

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
            f"Baseline({len(self.prompts)} {which} prompts: mean logit difference "
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
        prompts: The prompts; each must have one answer and one wrong answer.
        corruption: Name of the corrupted prompts to run instead of the clean ones.
        batch_size: Number of prompts per batch.
        verbose: Show a progress bar.

    Raises:
        InputError: there is no such corruption, a prompt does not have exactly one answer and one
            wrong answer, or an id is outside the model's vocabulary.
        ModelError: `model` is not a TransformerLens model.
    """
    model = model_of_view(model)
    tokens, _ = prompts.padded(corruption)
    answers, wrong, ends = prompts.answers, prompts.wrong, prompts.positions[END]
    largest = int(max(tokens.max(), answers.max(), wrong.max()))
    if getattr(model, "cfg", None) is None:
        raise ModelError(f"a {type(model).__name__} is not a TransformerLens model")
    if largest >= int(model.cfg.d_vocab):
        raise InputError(
            f"the prompts hold the token id {largest}, but the model's vocabulary is "
            f"0..{int(model.cfg.d_vocab) - 1}; they were made for {prompts.tokenizer}"
        )
    found = torch.zeros(len(prompts), 3, dtype=torch.float64)
    with torch.no_grad(), tqdm(total=len(prompts), disable=not verbose, unit="prompt") as bar:
        for length in sorted(set(prompts.lengths)):
            rows = (ends == length - 1).nonzero().flatten()
            for batch in rows.split(batch_size):
                # All prompts of the batch have this length, so there is no padding to attend to.
                logits = model(tokens[batch, :length])[:, -1].float().cpu()
                here = torch.arange(len(batch))
                right = logits[here, answers[batch]]
                found[batch, 0] = (right - logits[here, wrong[batch]]).double()
                found[batch, 1] = logits.softmax(-1)[here, answers[batch]].double()
                found[batch, 2] = (logits > right[:, None]).sum(-1).double()
                bar.update(len(batch))
    return Baseline(
        prompts,
        corruption,
        tuple(found[:, 0].tolist()),
        tuple(found[:, 1].tolist()),
        tuple(int(rank) for rank in found[:, 2]),
    )
