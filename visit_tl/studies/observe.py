"""observe: readout, attribution and attention of every head, on many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Flag, Looks, Model, Name
from visit_tl.causal.attribution.direct import attribute_trace
from visit_tl.circuits.prompts.pair import END, PromptPair
from visit_tl.circuits.prompts.records import PromptSet
from visit_tl.errors import InputError
from visit_tl.graph.ids import NodeId, NodeNames, node_ids
from visit_tl.lens import readout as lens
from visit_tl.model import components
from visit_tl.model.hooks import FwdHooks
from visit_tl.model.replay.patch import Placed, Write
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.studies.head_scores import HeadScores
from visit_tl.studies.heads_by_name import named_heads, require_corruption

LOOKS: Final = (
    ("END", "IO"),
    ("END", "S1"),
    ("END", "S2"),
    ("END", "END"),
    ("S2", "S1"),
    ("S2", "S1+1"),
    ("S1+1", "S1"),
)
"""The default pairs of named positions, query first, whose attention is kept. By these, Wang et al.
(2022, section 3) tell their classes of heads apart; END to END is added, where a head reads what
earlier heads wrote."""


@checked
def observe(
    model: Model,
    prompts: PromptSet,
    *,
    looks: Looks = LOOKS,
    patched: NodeNames | None = (),
    corruption: Name = "ABC",
    verbose: Flag = True,
) -> HeadScores:
    """Measure what the graph of each prompt shows of every head, without pruning.

    The model runs once per prompt. All scores are taken at END, except attention:

    - `norm`, `rank`, `prob`: as on the nodes of `flow_graph(..., target=answer)`: L2 norm of the
      head's output, and 0-based rank and probability of the answer in it.
    - `rank of wrong`: the rank of the wrong answer.
    - `rank from an end`: the smallest distance between the rank of the answer, or of the wrong
      answer, and the first or last rank: 0 where one of the two is the top or the bottom token.
    - `attribution`: the head's share of the logit difference, answer minus wrong answer, as
      `attribute` gives it.
    - `END to IO` and so on: attention from one position to another, for each of `looks`.

    Args:
        model: As for `flow_graph`, or a `ModelView`.
        prompts: Prompts with one answer and one wrong answer each.
        looks: Pairs of named positions, query first.
        patched: Heads whose activations at END are replaced, in every run, by those of the
            corrupted prompt, to see what the other heads then do.
        corruption: Name of the corrupted prompts that these are taken from.
        verbose: Show a progress bar.

    Raises:
        InputError: a position is not named in the prompts, a prompt has several answers, or there
            is no such head or corruption.
        DecompositionError: the parts of a run do not sum to its logits.
    """
    from tqdm.auto import tqdm

    view = model if isinstance(model, ModelView) else ModelView(model)
    view.require_attention("observing every head")
    known = prompts[0].positions
    unknown = sorted({name for look in looks for name in look} - known.keys())
    if unknown:
        raise InputError(
            f"the prompts have no position {', '.join(unknown)}; they have {', '.join(known)}"
        )
    heads = named_heads(view, node_ids(patched or ()), "patched at END")
    if heads:
        require_corruption(prompts, corruption)
    answers, wrong = prompts.answers.tolist(), prompts.wrong.tolist()
    found: dict[str, list[np.ndarray]] = {}
    rows = tqdm(zip(prompts, answers, wrong, strict=True), total=len(prompts), disable=not verbose)
    for pair, answer, against in rows:
        hooks = _patches(view, pair, heads, corruption) if heads else ()
        for name, values in _one(view, pair, answer, against, looks, hooks).items():
            found.setdefault(name, []).append(values)
    return HeadScores(view.name, {name: np.stack(values) for name, values in found.items()})


def _one(
    view: ModelView,
    pair: PromptPair,
    answer: int,
    against: int,
    looks: Sequence[tuple[str, str]],
    hooks: FwdHooks,
) -> dict[str, np.ndarray]:
    """The scores of one prompt, each `[layer, head]`."""
    where = pair.positions
    queries = dict.fromkeys([where[END], *(where[query] for query, _ in looks)])
    prompt = view.tokens.encode(list(pair.ids), None)
    traces = Trace.run_at(view, prompt, list(queries), fwd_hooks=hooks)
    at_end = traces[where[END]]
    outputs = torch.cat(
        [
            components.head_outputs(t.z, components.stream_weights(view, layer, t).W_O)
            for layer, t in at_end.layers.items()
        ]
    )
    attribution = attribute_trace(view, at_end, answer, against).heads()
    readout = lens.read(view, outputs, [answer, against], k=1)
    shape = view.n_layers, view.n_heads
    ranks = readout.target_ranks
    scores = {
        "norm": components.row_norms(outputs),
        "rank": ranks[:, 0],
        "rank of wrong": ranks[:, 1],
        "rank from an end": torch.minimum(ranks, view.d_vocab - 1 - ranks).amin(-1),
        "prob": readout.target_probs[:, 0],
        "attribution": attribution,
    }
    for query, key in looks:
        layers = traces[where[query]].layers.values()
        scores[f"{query} to {key}"] = torch.stack([t.pattern[:, where[key]] for t in layers])
    return {name: tensor.cpu().double().numpy().reshape(shape) for name, tensor in scores.items()}


def _patches(
    view: ModelView, pair: PromptPair, heads: Sequence[NodeId], corruption: str
) -> FwdHooks:
    """Hook functions that set heads at END to their activations in the corrupted prompt."""
    end = pair.positions[END]
    other = view.tokens.encode(list(pair.corrupted[corruption].ids), None)
    layers = sorted({head.layer for head in heads if head.layer is not None})
    there = Trace.run_at(view, other, [end], layers=layers)[end].layers
    placed = Placed(0)
    for head in heads:
        assert head.layer is not None and head.head is not None
        at, index = there[head.layer], view.head_index(head.layer, head.head)
        placed.writes.append((0, Write(at.hooks["z"], (end, *index), at.z[head.head])))
    return placed.hooks()
