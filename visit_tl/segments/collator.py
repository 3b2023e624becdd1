"""A data collator for `transformers.Trainer`: prompts and answers become padded, masked batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.segments.batch_masks import batch_mask
from visit_tl.segments.masks import additive
from visit_tl.segments.spans import Segments

_COLUMNS: Final = ("input_ids", "prompt_length", "spans")

Rows = Annotated[
    Sequence[Mapping[str, Any]], Unchecked("the collator says which row is wrong, and how")
]


class SegmentCollator:
    """Makes batches in which prompts see their segments and answers are causal.

    The labels of all tokens but the answer's are -100. They have to be: within a segment a token
    sees the tokens after it, so a loss on the prompt would ask for what the model is shown.

    Args:
        pad_id: The id of padding tokens.
        segmented: False makes causal masks from the same batches, to compare with.
        dtype: The dtype of the mask, which is added to the scores; that of the model.
        padding_side: Where the padding goes.
        prompt_labels: True also trains on the prompt's tokens, as the public code of the paper
            does; their labels leak under the mask.
    """

    def __init__(
        self,
        pad_id: int,
        *,
        segmented: bool = True,
        dtype: torch.dtype = torch.float32,
        padding_side: str = "right",
        prompt_labels: bool = False,
    ) -> None:
        if padding_side not in ("right", "left"):
            raise InputError(f"padding_side is 'right' or 'left', got {padding_side!r}")
        self.pad_id, self.segmented, self.dtype = pad_id, segmented, dtype
        self.padding_side: Literal["right", "left"] = "right" if padding_side == "right" else "left"
        self.prompt_labels = prompt_labels

    @checked
    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        """A batch.

        Args:
            rows: Each with `input_ids` (prompt and answer), `prompt_length`, and `spans`, the
                half-open ranges of its segments.

        Returns:
            `input_ids` and `labels` `[batch, pos]`, and `attention_mask` `[batch, 1, query, key]`,
            0 where a query sees a key and else the lowest number of the dtype. With padding on the
            left also `position_ids` `[batch, pos]`, which count from the first token of the prompt;
            without them a model would count the padding too.

        Raises:
            InputError: there are no rows, one of them cannot be read, or a segment reaches into the
                answer, which must be causal.
        """
        _require_rows(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        size = max(lengths)
        ids = torch.full((len(rows), size), self.pad_id)
        labels = torch.full((len(rows), size), -100)
        positions = torch.zeros(len(rows), size, dtype=torch.long)
        segments = []
        for i, row in enumerate(rows):
            one = Segments.from_spans(row["spans"])
            n, prompt = lengths[i], int(row["prompt_length"])
            if one.end > prompt:
                raise InputError(
                    f"the segment {one.spans[-1]} of row {i} reaches into the answer, which begins "
                    f"at {prompt} and is causal"
                )
            segments.append(one if self.segmented else Segments(()))
            first = 0 if self.padding_side == "right" else size - n
            own = torch.as_tensor(row["input_ids"])
            ids[i, first : first + n] = own
            start = 0 if self.prompt_labels else prompt
            labels[i, first + start : first + n] = own[start:]
            positions[i, first : first + n] = torch.arange(n)
        mask = batch_mask(segments, lengths, pad_to=size, padding_side=self.padding_side)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": additive(mask, self.dtype)}
        return batch if self.padding_side == "right" else batch | {"position_ids": positions}


def _require_rows(rows: Any) -> None:
    """Require rows that can be read.

    Raises:
        InputError: there are none, or one lacks something.
    """
    if not isinstance(rows, list | tuple) or not rows:
        raise InputError(f"a batch is a list of rows, at least one, got {short(rows)}")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"row {i} is no dict, but {type(row).__name__}")
        if lacking := [name for name in _COLUMNS if name not in row]:
            raise InputError(f"row {i} has no {', '.join(lacking)}; it needs {', '.join(_COLUMNS)}")
        ids, prompt = row["input_ids"], row["prompt_length"]
        try:
            read = torch.as_tensor(ids)
            whole = read.ndim == 1 and not read.is_floating_point() and read.dtype != torch.bool
            fits = whole and 0 <= int(prompt) <= len(read)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            fits = False
        if not fits:
            raise InputError(
                f"row {i}: input_ids must be token ids, and prompt_length a number of them at "
                f"most, got {short(ids)} and {short(prompt)}"
            )
