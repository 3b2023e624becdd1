"""The masks of batches of padded prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Taken, Unchecked
from visit_tl.arguments.vocabulary import Whole
from visit_tl.errors import InputError
from visit_tl.segments.masks import allowed
from visit_tl.segments.spans import Segments

ManySegments = Annotated[Any, Unchecked("batch_mask says which entry is wrong")]
Lengths = Annotated[Sequence[int], Taken("a list of integers of at least 0", "[12, 9]", "Integers")]
Side = Annotated[
    Literal["right", "left"],
    Taken("'right' or 'left'", "'left'", classes=(str,)),
]


@checked
def batch_mask(
    segments: ManySegments,
    lengths: Lengths,
    *,
    pad_to: Whole | None = None,
    padding_side: Side = "right",
) -> Bool[Tensor, "batch 1 query key"]:
    """The masks of a padded batch.

    No token sees padding. A padding token sees itself alone, so that no row is empty; what it
    computes reaches no token.

    Args:
        segments: For each prompt, its segments, which count from its first token.
        lengths: For each prompt, how many tokens it has.
        pad_to: The length of all rows; None is that of the longest prompt.
        padding_side: Where the padding is.

    Returns:
        True where a query sees a key, `[batch, 1, query, key]`.

    Raises:
        InputError: segments and lengths do not fit each other, or a prompt is longer than `pad_to`.
    """
    if not isinstance(segments, list | tuple):
        raise InputError(f"segments are a list of Segments, got {type(segments).__name__}")
    if min(lengths, default=0) < 0:
        raise InputError(f"a prompt has at least 0 tokens, got the lengths {list(lengths)}")
    if len(segments) != len(lengths):
        raise InputError(f"there are {len(segments)} segments but {len(lengths)} lengths")
    if padding_side not in ("right", "left"):
        raise InputError(f"padding_side is 'right' or 'left', got {padding_side!r}")
    size = max(lengths, default=0) if pad_to is None else pad_to
    masks = torch.eye(size, dtype=torch.bool).repeat(len(lengths), 1, 1)
    for i, (one, length) in enumerate(zip(segments, lengths, strict=True)):
        if not isinstance(one, Segments):
            raise InputError(f"entry {i} is {type(one).__name__}, not Segments")
        if length > size:
            raise InputError(f"prompt {i} has {length} tokens, more than pad_to={size}")
        one.check(length)
        first = 0 if padding_side == "right" else size - length
        masks[i, first : first + length, first : first + length] = allowed(one.spans, length)
    return masks[:, None]
