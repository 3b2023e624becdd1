"""One forward pass of a prompt, traced where it is asked for, and kept for later calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from weakref import WeakKeyDictionary

from visit_tl.causal.qk.score_formula import ScoreFormula, formula_of
from visit_tl.causal.qk.stream_parts import StreamParts, stream_parts
from visit_tl.model.model_state import model_state
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView

KEPT_BYTES: Final = 64 * 2**20
"""A prompt whose traces of all positions are smaller than this is traced at all of them at once."""


class TracedRun:
    """Traces of one prompt at some positions, and what the parts of the model wrote there.

    The parts are computed from a trace when they are first asked for. The view is handed to each
    call, so that a kept run does not keep the model.

    Args:
        prompt: The tokens.
        state: What the model's parameters were, by `model_state`.
    """

    def __init__(self, prompt: Prompt, state: object) -> None:
        self.prompt, self.state = prompt, state
        self._traces: dict[int, Trace] = {}
        self._parts: dict[int, StreamParts] = {}
        self._formulas: dict[tuple[int, int], ScoreFormula] = {}

    def at(self, view: ModelView, positions: Iterable[int]) -> dict[int, Trace]:
        """The traces of these positions; the model is run if one of them is missing."""
        wanted = dict.fromkeys(positions)
        if any(position not in self._traces for position in wanted):
            n = len(self.prompt.ids)
            # A long prompt keeps the positions of the last call alone.
            chosen = range(n) if n * _floats(view) * 4 <= KEPT_BYTES else wanted
            self._traces = Trace.run_at(view, self.prompt, list(chosen))
            self._parts, self._formulas = {}, {}
        return {position: self._traces[position] for position in wanted}

    def parts(self, view: ModelView, position: int) -> StreamParts:
        """What every part of the model wrote to the residual stream at a traced position."""
        if position not in self._parts:
            self._parts[position] = stream_parts(view, self._traces[position])
        return self._parts[position]

    def formula(self, view: ModelView, layer: int, query: int) -> ScoreFormula:
        """How the block makes scores, held against its attention at a traced query."""
        if (layer, query) not in self._formulas:
            # The last position sees the most keys, so it tells the most.
            chosen = dict.fromkeys((query, max(self._traces)))
            traces = [self._traces[position] for position in chosen]
            self._formulas[layer, query] = formula_of(view, layer, traces)
        return self._formulas[layer, query]


_LAST: WeakKeyDictionary[ModelView, TracedRun] = WeakKeyDictionary()
"""For each open view, the run of the last prompt."""


def traced_run(view: ModelView, prompt: Prompt) -> TracedRun:
    """The run of this prompt; the kept one, if neither the parameters nor hooks have changed it."""
    state = model_state(view)
    known = _LAST.get(view)
    if known is not None and known.state == state is not None:
        before = known.prompt
        if (before.ids, before.spans) == (prompt.ids, prompt.spans):
            return known
    run = TracedRun(prompt, state)
    _LAST[view] = run
    return run


def _floats(view: ModelView) -> int:
    """About how many numbers a trace of one position and the parts there are."""
    block = 8 * view.d_model + 3 * view.n_heads * view.d_head + 2 * view.d_mlp
    return view.n_layers * (block + view.n_heads * view.d_model)
