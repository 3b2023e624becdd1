"""Split several prompts (texts, or a padded batch of token ids) into single ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from visit_tl.errors import InputError


def unpadded(
    prompts: Sequence[str | Sequence[int] | Tensor] | Tensor, attention_mask: Tensor | None
) -> list[str | Sequence[int] | Tensor]:
    """The prompts one by one, without padding.

    Raises:
        InputError: a tensor is not a batch, or the mask does not fit or has holes.
    """
    if not isinstance(prompts, Tensor):
        if attention_mask is not None:
            raise InputError(
                "an attention_mask needs a batch of token ids as a tensor, not a list of prompts"
            )
        return list(prompts)
    if prompts.ndim != 2:
        raise InputError(f"a batch of token ids is [batch, pos], got {list(prompts.shape)}")
    if attention_mask is None:
        return [row.tolist() for row in prompts]
    if attention_mask.shape != prompts.shape:
        raise InputError(
            f"the attention_mask is {list(attention_mask.shape)}, the batch {list(prompts.shape)}"
        )
    rows: list[str | Sequence[int] | Tensor] = []
    for i, (ids, mask) in enumerate(zip(prompts, attention_mask.bool(), strict=True)):
        at = mask.nonzero().flatten()
        if len(at) == 0 or int(at[-1] - at[0]) + 1 != len(at):
            raise InputError(
                f"row {i} of the attention_mask has {len(at)} tokens that are not contiguous; "
                f"padding must be on the left or on the right"
            )
        rows.append(ids[mask].tolist())
    return rows
