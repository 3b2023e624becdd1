"""later_attention: how much each head attends to later tokens of a query's segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Model, PromptsLike, SegmentsOfEach, TargetsOrMetric
from visit_tl.errors import InputError
from visit_tl.gradients.attention_gradients import reversed_maps
from visit_tl.gradients.loss import Loss
from visit_tl.model.attention_patterns import patterns
from visit_tl.model.batch import unpadded
from visit_tl.model.view import ModelView
from visit_tl.segments.of_prompts import segments_of_each
from visit_tl.segments.spans import Segments
from visit_tl.studies.head_scores import HeadScores


@checked
def later_attention(
    model: Model,
    prompts: PromptsLike,
    segments: SegmentsOfEach,
    *,
    targets: TargetsOrMetric | None = None,
    verbose: Flag = True,
) -> HeadScores:
    """Measure how much attention of each head goes to tokens that a causal model hides.

    The scores of a prompt are means over the queries that have a later token in their segment:

    - `later`: the sum of the head's attention to these tokens.
    - `later if equal`: what it would be if the head attended to all that it sees equally; the same
      for all heads.

    With targets, of the loss `-log p(target)` at the last token (docs/maths.md, "Segments"):

    - `reversed`: the Frobenius norm of the head's reversed attention R.
    - `reversed later`: the share of the sum of squares of R that is at later tokens.

    Args:
        model: As for `flow_graph`.
        prompts: Texts or token ids.
        segments: As for `flow_graph`, for all prompts; or a list with one entry for each.
        targets: A target for each prompt, or one for all, as for `reversed_attention`.
        verbose: Show a progress bar.

    Raises:
        InputError: a prompt has no segment of two tokens, or as `reversed_attention`.
    """
    from tqdm.auto import tqdm

    view, rows = ModelView(model), unpadded(prompts, None)
    view.require_attention("attention to later tokens")
    own = segments_of_each(segments, len(rows))
    several = isinstance(targets, Sequence) and not isinstance(targets, str)
    asked: list[Any] = list(targets) if several else [targets] * len(rows)  # type: ignore[arg-type]
    if len(asked) != len(rows):
        raise InputError(f"there are {len(rows)} prompts but {len(asked)} targets")
    heads = [(layer, head) for layer in range(view.n_layers) for head in range(view.n_heads)]
    shape = view.n_layers, view.n_heads
    found: dict[str, list[np.ndarray]] = {}
    bar = tqdm(zip(rows, own, asked, strict=True), total=len(rows), disable=not verbose)
    for i, (text, spans, target) in enumerate(bar):
        prompt = view.encode(text, None, spans)
        later = None if prompt.segments is None else _later(prompt.segments, len(prompt.ids))
        if later is None or not later.any():
            raise InputError(
                f"in prompt {i}, no token has a later one in its segment, so there is nothing to "
                f"measure"
            )
        attention = patterns(view, prompt, heads)
        has = later.any(-1)
        mass = (attention * later).sum(-1)[:, has].mean(-1).numpy().reshape(shape)
        seen = prompt.segments.mask(len(prompt.ids))[0, 0]  # type: ignore[union-attr]
        equal = float((later.sum(-1) / seen.sum(-1))[has].mean())
        values = {"later": mass, "later if equal": np.full(shape, equal)}
        if target is not None:
            loss = Loss.of(view, prompt, target, -1)
            maps = reversed_maps(view, prompt, loss, tuple(range(view.n_layers)))
            values["reversed"] = np.asarray(maps.norms)
            values["reversed later"] = np.array(
                [
                    [_share(maps.map(layer, head), later) for head in range(view.n_heads)]
                    for layer in range(view.n_layers)
                ]
            )
        for name, each in values.items():
            found.setdefault(name, []).append(each)
    return HeadScores(view.name, {name: np.stack(each) for name, each in found.items()})


def _later(segments: Segments, length: int) -> Tensor:
    """True where a query sees a later key, `[query, key]`."""
    return segments.mask(length)[0, 0].triu(1)


def _share(R: Float[np.ndarray, "query key"], later: Tensor) -> float:
    """The share of the sum of squares that is at later keys; 0 if all of R is 0."""
    squares = np.square(np.asarray(R, dtype=np.float64))
    return float(squares[later.numpy()].sum() / squares.sum()) if squares.any() else 0.0
