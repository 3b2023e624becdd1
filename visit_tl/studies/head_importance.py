"""importances: scores by which heads are put in order, averaged over the prompts of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Flag,
    MeanOver,
    Model,
    NameOrNames,
    Seed,
    Tokens,
)
from visit_tl.causal.metrics import log_probability
from visit_tl.causal.patching.node_effects import effects
from visit_tl.errors import InputError
from visit_tl.gradients.attention_gradients import reversed_attention
from visit_tl.gradients.loss import first_token
from visit_tl.gradients.patched_attention import each_target
from visit_tl.gradients.reversed_attention_result import ReversedAttention
from visit_tl.model import components
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView

Grid = Float[np.ndarray, "layer head"]

SCORES: Final = (
    "reversed",
    "forward",
    "attribution",
    "attribution at last",
    "effect at last",
    "output",
)
"""The scores that are measured, in the order of `importances`."""


@checked
def importances(
    model: Model,
    prompts: MeanOver,
    targets: Tokens,
    *,
    scores: NameOrNames = SCORES,
    random: Seed | None = None,
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Score every head by several methods, each averaged over prompts; larger is more important.

    - `reversed`: the Frobenius norm of the reversed attention R of `-log p(target)`.
    - `forward`: that of the attention itself.
    - `attribution`: the size of the estimated effect of the head on `log p(target)`, with zeros in
      its place at every position (attribution patching).
    - `attribution at last`: the same at the last position alone.
    - `effect at last`: by how much `log p(target)` falls, measured, with zeros in the head's place
      at the last position. Signed: a head that hurts comes last.
    - `output`: the norm of the head's output at the last position.
    - `random` and `index`, if named: numbers from a seed, and the heads in their own order.

    Args:
        model: As for `flow_graph`.
        prompts: Prompts, of any lengths.
        targets: A target for each prompt, or one for all.
        scores: Names of the scores, one or several.
        random: The seed of `random`; None is 0.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Returns:
        By the name of the score, the mean for every head.

    Raises:
        InputError: no prompts, an unknown score, or not one target for each prompt.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    view.require_attention("scores of heads")
    tokens = [view.tokens.encode(prompt, prepend_bos) for prompt in prompts]
    wanted = [first_token(view, target) for target in each_target(targets, len(tokens))]
    unknown = [name for name in scores if name not in (*_MEASURES, *_MADE)]
    if unknown or not tokens:
        raise InputError(
            f"scores are of {', '.join((*_MEASURES, *_MADE))}; got {', '.join(unknown)}"
            if unknown
            else "no prompts were given"
        )
    shape = view.n_layers, view.n_heads
    found = {name: np.zeros(shape) for name in scores if name in _MEASURES}
    pairs = list(zip(tokens, wanted, strict=True))
    for prompt, target in tqdm(pairs, desc="scores of heads", disable=not verbose or not found):
        one = _Asked(view, prompt, target)
        for name, total in found.items():
            total += _MEASURES[name](one) / len(tokens)
    return {name: found[name] if name in found else _made(name, shape, random) for name in scores}


@dataclass(frozen=True)
class _Asked:
    """One prompt and its target."""

    view: ModelView
    prompt: Prompt
    target: int

    @property
    def ids(self) -> list[int]:
        return list(self.prompt.ids)

    @cached_property
    def maps(self) -> ReversedAttention:
        """Two scores are of the same maps."""
        return reversed_attention(self.view.model, self.ids, self.target)

    def estimate(self, positions: Sequence[int] | None) -> Grid:
        """The effects of all heads by attribution patching, with zeros in their place."""
        return self._effects(positions, "attribution", 0)

    def effect(self) -> Grid:
        """Their measured effects, at the last position."""
        return self._effects(None, None, 0)

    def _effects(self, positions: Sequence[int] | None, screen: str | None, top: int) -> Grid:
        found = effects(
            self.view.model,
            self.ids,
            log_probability(self.target),
            how="zero",
            positions=positions,
            screen=screen,
            top=top,
            verbose=False,
        )
        if not found.complete:
            raise KeyboardInterrupt
        return found.heads()


def _output(one: _Asked) -> Grid:
    view = one.view
    last = len(one.ids) - 1
    trace = Trace.run_at(view, one.prompt, [last])[last]
    norms = [
        components.row_norms(
            components.head_outputs(t.z, components.stream_weights(view, layer, t).W_O)
        )
        for layer, t in trace.layers.items()
    ]
    return torch.stack(norms).double().cpu().numpy()


_MEASURES: Final[dict[str, Callable[[_Asked], Grid]]] = {
    "reversed": lambda one: one.maps.norms.astype(float),
    "forward": lambda one: one.maps.forward_norms.astype(float),
    "attribution": lambda one: np.abs(one.estimate(range(len(one.ids)))),
    "attribution at last": lambda one: np.abs(one.estimate(None)),
    "effect at last": lambda one: -one.effect(),
    "output": _output,
}
_MADE: Final = ("random", "index")


def _made(name: str, shape: tuple[int, int], seed: int | None) -> Grid:
    if name == "random":
        return np.random.default_rng(seed or 0).random(shape)
    return -np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
