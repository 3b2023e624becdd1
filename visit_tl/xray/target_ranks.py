"""`lens_ranks`: the target's rank in the states of one position, by several lenses."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Flag,
    LensesByName,
    Model,
    Position,
    PromptLike,
    SegmentsLike,
    Token,
)
from visit_tl.errors import InputError
from visit_tl.graph.lens_record import EMBEDDING
from visit_tl.graph.ranks_by_lens import LensRanks
from visit_tl.lens.readout import read_targets
from visit_tl.lenses.given_lens import lens_of
from visit_tl.lenses.maps import Lens
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.build import prediction

LOGIT_LENS: Final = "logit lens"


@checked
def lens_ranks(
    model: Model,
    prompt: PromptLike,
    lenses: LensesByName,
    *,
    target: Token | None = None,
    position: Position = -1,
    prepend_bos: Flag | None = None,
    segments: SegmentsLike | None = None,
) -> LensRanks:
    """The rank of a target before block 0 and after every block, by the logit lens and others.

    Takes one forward pass. A block that a lens has no map for is left out of its row.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        lenses: A lens, as for `flow_graph`, or a dict of lenses by name. The logit lens is always
            the first.
        target: As for `flow_graph`.
        position: As for `flow_graph`.
        prepend_bos: As for `flow_graph`.
        segments: As for `flow_graph`.

    Raises:
        ModelError: the model cannot be decomposed exactly.
        InputError: a prompt, target, position or lens that does not fit.
    """
    view = ModelView(model)
    opened = _opened(view, lenses)
    tokens = view.encode(prompt, prepend_bos, segments)
    at = view.check_position(position, len(tokens.ids))
    trace = Trace.run_at(view, tokens, [at])[at]
    chosen = prediction(view, trace) if target is None else view.tokens.single(target)
    blocks = (EMBEDDING, *range(view.n_layers))
    states = torch.stack(
        [trace.layers[0].resid_pre, *(t.resid_post for t in trace.layers.values())]
    )
    rows = [_read(view, lens, states, blocks, chosen) for lens in opened.values()]
    return LensRanks(
        model=view.name,
        prompt=tokens.text,
        tokens=tuple(view.tokens.text(i) for i in tokens.ids),
        position=at,
        target=view.tokens.text(chosen),
        target_given=target is not None,
        d_vocab=view.d_vocab,
        lenses=tuple(opened),
        blocks=blocks,
        ranks=tuple(ranks for ranks, _ in rows),
        probs=tuple(probs for _, probs in rows),
    )


def _opened(view: ModelView, given: Any) -> dict[str, Lens | None]:
    """The logit lens, and each given lens by its name.

    Raises:
        InputError: a lens does not fit, or is called as the logit lens.
    """
    named = isinstance(given, dict) and all(isinstance(name, str) for name in given)
    if named and LOGIT_LENS in given:
        raise InputError(f"the name {LOGIT_LENS!r} is taken: it is always the first")
    found: dict[str, Lens | None] = {LOGIT_LENS: None}
    for name, one in given.items() if named else [(None, given)]:
        lens = lens_of(view, one)
        if lens is None:
            raise InputError("lens_ranks compares the logit lens with others; None is itself")
        found[name or lens.name] = lens
    return found


def _read(
    view: ModelView, lens: Lens | None, states: Tensor, blocks: tuple[int, ...], target: int
) -> tuple[tuple[int | None, ...], tuple[float | None, ...]]:
    """Ranks and probabilities by block; None where the lens has no map."""
    carried = states
    last = view.n_layers - 1
    if lens is not None:
        carried = lens.carry(states, blocks, [True] * len(blocks))
    aims = torch.full((len(states), 1), target, device=states.device)
    found = read_targets(view, carried, aims)
    known = [lens is None or block == last or block in lens.maps for block in blocks]
    ranks, probs = found.target_ranks[:, 0].tolist(), found.target_probs[:, 0].tolist()
    return (
        tuple(rank if k else None for rank, k in zip(ranks, known, strict=True)),
        tuple(prob if k else None for prob, k in zip(probs, known, strict=True)),
    )
