"""Sets of prompt pairs, clean and corrupted with equal token lengths, for patching experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import TENSOR, File, Flag, Integer, Name, Whole
from visit_tl.circuits.prompts import files
from visit_tl.circuits.prompts.answer_scores import (
    TaskMetric,
    metric_of,
    probability_differences,
    require_fit,
)
from visit_tl.circuits.prompts.pair import END, PromptPair, check
from visit_tl.circuits.prompts.report import Report
from visit_tl.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PromptSet:
    """Prompt pairs of one task and one tokenizer.

    The clean and corrupted prompts of a pair always have the same number of tokens. Different pairs
    may have different lengths; use `by_length` or `padded` then.

    Attributes:
        pairs: The pairs, in order.
        tokenizer: Name of the model or tokenizer that the ids belong to.
        task: Name of the task, such as `ioi`.
        pad_id: The token id that `padded` pads with.
        report: What was used, what was left out and why, and notes.

    Raises:
        InputError: there is no pair; the prompts of a pair have different lengths; a position is
            outside its prompt; or pairs differ in their corruptions or named positions.
    """

    pairs: tuple[PromptPair, ...]
    tokenizer: str
    task: str
    pad_id: int = 0
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError(f"a set of {self.task} prompts needs at least one prompt; got none")
        for index, pair in enumerate(self.pairs):
            check(index, pair, self.pairs[0])

    # --- as a sequence -------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.pairs)

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...
    @overload
    def __getitem__(self, index: slice) -> PromptSet: ...
    def __getitem__(self, index: int | slice) -> PromptPair | PromptSet:
        if isinstance(index, slice):
            return replace(self, pairs=self.pairs[index])
        return self.pairs[index]

    @checked
    def where(
        self,
        *,
        order: Name | None = None,
        template: Name | None = None,
        length: Whole | None = None,
    ) -> PromptSet:
        """Select the pairs with this order (`ABBA`, `BABA`), template and token length.

        Raises:
            InputError: no pair matches.
        """
        kept = tuple(
            pair
            for pair in self.pairs
            if order in (None, pair.order)
            and template in (None, pair.template)
            and length in (None, len(pair.ids))
        )
        if not kept:
            raise InputError(
                f"none of the {len(self)} prompts has order={order!r}, template={template!r}, "
                f"length={length!r}; there are orders {sorted({p.order for p in self.pairs})}, "
                f"templates {sorted({p.template for p in self.pairs})} and "
                f"lengths {sorted(set(self.lengths))}"
            )
        return replace(self, pairs=kept)

    def by_length(self) -> dict[int, PromptSet]:
        """Split the set by token length, shortest first. Each part can be run as one batch."""
        return {length: self.where(length=length) for length in sorted(set(self.lengths))}

    # --- as tensors ----------------------------------------------------------------------------

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names of the corruptions that every pair has."""
        return tuple(self.pairs[0].corrupted)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each pair."""
        return tuple(len(pair.ids) for pair in self.pairs)

    @property
    def tokens(self) -> Int[Tensor, "prompt pos"]:
        """The clean prompts as one batch.

        Raises:
            InputError: the prompts have different lengths.
        """
        return self._batch([pair.ids for pair in self.pairs])

    @checked
    def corrupted_tokens(self, corruption: Name) -> Int[Tensor, "prompt pos"]:
        """The corrupted prompts as one batch; each row belongs to the same row of `tokens`.

        Raises:
            InputError: there is no such corruption, or the prompts have different lengths.
        """
        return self._batch(self._corrupted_ids(corruption))

    @checked
    def padded(
        self, corruption: Name | None = None, *, pad_id: Integer | None = None
    ) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
        """Pad prompts of any lengths to one batch; also return a mask, True at non-padding tokens.

        Padding is added on the right, so it does not change positions, and a causal model does not
        attend to it. Read each row at its own END.

        Args:
            corruption: Which corrupted prompts to use; None is the clean ones.
            pad_id: Token id to pad with, instead of the set's own.

        Raises:
            InputError: there is no such corruption.
        """
        rows = (
            [p.ids for p in self.pairs] if corruption is None else self._corrupted_ids(corruption)
        )
        filler = self.pad_id if pad_id is None else pad_id
        tokens = torch.full((len(rows), max(self.lengths)), filler)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = True
        return tokens, mask

    @property
    def positions(self) -> dict[str, Int[Tensor, " prompt"]]:
        """For each named position, its index in every prompt (a BOS is counted)."""
        return {
            name: torch.tensor([pair.positions[name] for pair in self.pairs])
            for name in self.pairs[0].positions
        }

    @property
    def answers(self) -> Int[Tensor, " prompt"]:
        """The id of each prompt's answer.

        Raises:
            InputError: a prompt does not have exactly one; read `pair.answers` of each instead.
        """
        return self._single("answers")

    @property
    def wrong(self) -> Int[Tensor, " prompt"]:
        """The id of each prompt's wrong answer.

        Raises:
            InputError: a prompt does not have exactly one; read `pair.wrong` of each instead.
        """
        return self._single("wrong")

    @property
    def metrics(self) -> tuple[TaskMetric, ...]:
        """The task's own metric of each prompt, for `effects`, `edge_effects` and `faithfulness`.

        - greater-than: the probability of the right years minus that of the wrong ones.
        - several wrong answers (docstring, coloured objects): the logit of the answer minus the
          largest logit of a wrong one.
        - one wrong answer (IOI, gendered pronouns): the logit difference.

        Raises:
            InputError: a prompt has several right answers, or no wrong one, and is not of
                greater-than.
        """
        return tuple(metric_of(self.task, index, pair) for index, pair in enumerate(self.pairs))

    @checked
    def logit_difference(
        self, logits: Annotated[Float[Tensor, "prompt pos d_vocab"], TENSOR]
    ) -> Float[Tensor, " prompt"]:
        """The logit of each answer minus that of its wrong answer, read at END; in logits.

        Args:
            logits: The logits of this set's prompts, clean or corrupted; padding after END is
                allowed.

        Raises:
            InputError: the number of prompts, positions or tokens does not fit this set, or a
                prompt does not have exactly one answer and one wrong answer.
        """
        require_fit(self.pairs, self.tokenizer, logits)
        rows = torch.arange(len(self), device=logits.device)
        last = logits[rows, self.positions[END].to(logits.device)]
        answers, wrong = self.answers.to(logits.device), self.wrong.to(logits.device)
        return last[rows, answers] - last[rows, wrong]

    @checked
    def probability_difference(
        self, logits: Annotated[Float[Tensor, "prompt pos d_vocab"], TENSOR]
    ) -> Float[Tensor, " prompt"]:
        """Probability of all right answers minus that of all wrong ones, at END; in [-1, 1].

        This is the metric of greater-than (Hanna, Liu and Variengien 2023). If answers have two
        tokens (`pair.first`), a first token that decides alone counts by its own probability;
        otherwise the probability of both tokens counts.

        Args:
            logits: The logits of this set's prompts, clean or corrupted; padding after END is
                allowed.

        Raises:
            InputError: the number of prompts, positions or tokens does not fit this set.
        """
        require_fit(self.pairs, self.tokenizer, logits)
        return probability_differences(self.pairs, logits)

    # --- to look at ----------------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """One row per pair: template, order, length, text, answers, positions, corrupted texts."""
        import pandas as pd

        rows = [
            {
                "template": pair.template,
                "order": pair.order,
                "length": len(pair.ids),
                "text": pair.text,
                "answer": _one_or_all(pair.answers),
                "wrong": _one_or_all(pair.wrong),
                **pair.positions,
                **{name: corrupted.text for name, corrupted in pair.corrupted.items()},
            }
            for pair in self.pairs
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from html import escape

        table = self.to_dataframe().to_html(max_rows=12, notebook=True)
        return f"<p>{escape(repr(self))}</p>{table}"

    def __repr__(self) -> str:
        lengths = sorted(set(self.lengths))
        span = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        return (
            f"PromptSet({len(self)} {self.task} prompts of {span} tokens of {self.tokenizer}; "
            f"corruptions: {', '.join(self.corruptions) or 'none'}"
            f"{'; ' if self.report.unusable else ''}{self.report.left_out})"
        )

    # --- to keep -------------------------------------------------------------------------------

    @checked
    def save(self, path: File, *, overwrite: Flag = False) -> Path:
        """Write the set as JSON; see `visit_tl.circuits.prompts.files.save`."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return files.save(cast(files.Fields, own), path, overwrite=overwrite)

    @staticmethod
    @checked
    def load(path: File) -> PromptSet:
        """Read a set written by `save`; see `visit_tl.circuits.prompts.files.load`."""
        return PromptSet(**files.load(path))

    # --- details -------------------------------------------------------------------------------

    def _corrupted_ids(self, corruption: str) -> list[tuple[int, ...]]:
        if corruption not in self.corruptions:
            raise InputError(
                f"there is no corruption {corruption!r}; these prompts have "
                f"{', '.join(map(repr, self.corruptions)) or 'none'}"
            )
        return [pair.corrupted[corruption].ids for pair in self.pairs]

    def _batch(self, rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "prompt pos"]:
        if len(set(self.lengths)) > 1:
            raise InputError(
                f"the {len(self)} prompts have {sorted(set(self.lengths))} tokens, and one batch "
                f"needs one length; take each set of by_length(), take padded(), or make them "
                f"with same_length=True"
            )
        return torch.tensor(rows)

    def _single(self, name: str) -> Int[Tensor, " prompt"]:
        ids = [cast("tuple[int, ...]", getattr(pair, name)) for pair in self.pairs]
        several = [index for index, those in enumerate(ids) if len(those) != 1]
        if several:
            raise InputError(
                f"prompt {several[0]} has {len(ids[several[0]])} ids in {name}, but exactly one is "
                f"needed; read prompts[{several[0]}].{name} and combine them yourself"
            )
        return torch.tensor([those[0] for those in ids])


def _one_or_all(ids: tuple[int, ...]) -> int | tuple[int, ...]:
    return ids[0] if len(ids) == 1 else ids
