"""Backward Lens: the gradients of one forward and one backward pass, read as words.

Katz, Belinkov, Geva and Wolf, "Backward Lens: Projecting Language Model Gradients into the
Vocabulary Space" (EMNLP 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import (
    Check,
    Count,
    Flag,
    Hooks,
    Layers,
    Model,
    Names,
    Position,
    Positions,
    PromptLike,
    SegmentsLike,
    TargetOrMetric,
)
from visit_tl.errors import InputError
from visit_tl.gradients.backward_lens_result import BackwardLens, MatrixReadout
from visit_tl.gradients.factors import (
    READ,
    STATES,
    Factors,
    check_factors,
    chosen_matrices,
    factors_of,
    needed_hooks,
)
from visit_tl.gradients.loss import Loss
from visit_tl.lens.readout import read
from visit_tl.model.backward import MATRICES, run_backward
from visit_tl.model.hooks import patched_hooks
from visit_tl.model.standing_hooks import watched
from visit_tl.model.view import ModelView
from visit_tl.xray.source_model import Source

_MLP: Final = ("W_in", "W_gate", "W_out")


@checked
def backward_lens(
    model: Model,
    prompt: PromptLike,
    target: TargetOrMetric | None = None,
    *,
    layers: Layers | None = None,
    position: Position = -1,
    matrices: Names = MATRICES,
    positions: Positions | None = None,
    normalise: Flag = True,
    k: Count = 5,
    check: Check = "one",
    prepend_bos: Flag | None = None,
    fwd_hooks: Hooks = (),
    segments: SegmentsLike | None = None,
) -> BackwardLens:
    """Read the gradients of a block's matrices as words, in all blocks and at all positions.

    The loss is `-log p(target)` at `position`. Its gradient at each matrix is `X^T Delta` (see
    `gradients.factors`), and of the two factors, the one with the width of the residual stream goes
    through the logit lens: the inputs of W_Q, W_K, W_V, W_in and W_gate, and the VJPs of W_O and
    W_out. One forward and one backward pass serve all blocks. The model is afterwards as it was.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        target: The token of the loss, as text or id; None is the model's own prediction. Or a
            metric of `visit_tl.causal`, which then stands in the place of the loss as it is: a step
            down its gradient lowers it.
        layers: Blocks, one or several; None or `all` is all.
        position: The position of the loss; a metric uses its own.
        matrices: Some of W_in, W_gate, W_out, W_Q, W_K, W_V and W_O. A model without a gate has no
            W_gate.
        positions: The positions whose vectors are read as words; None or `all` is all.
        normalise: Divide each vector by its norm before the lens (paper, App. H). `norms` are
            always those of the vectors themselves.
        k: How many top and how many bottom tokens are read.
        check: In which layers `X^T Delta` is compared with autograd's own gradient: `one`, `all`
            or `none`.
        prepend_bos: As for `flow_graph`.
        fwd_hooks: As for `flow_graph`.
        segments: As for `flow_graph`.

    Raises:
        InputError: a prompt, target, layer, position or matrix that does not fit, a metric without
            a gradient, or a gradient that is not finite.
        DecompositionError: `X^T Delta` is not autograd's gradient.
    """
    view = ModelView(model)
    tokens = view.encode(prompt, prepend_bos, segments)
    chosen = view.check_layers(layers, gaps=True)
    names = chosen_matrices(view, matrices, chosen)
    loss = Loss.of(view, tokens, target, position)
    checked_layers = _checked_layers(chosen, check)
    hooks = [needed_hooks(view, layer, names) for layer in chosen]
    given, _ = patched_hooks(view, fwd_hooks)
    with watched(view.model) as changes:
        run = run_backward(
            view,
            tokens,
            [name for required, _ in hooks for name in required.values()],
            loss.function,
            optional=[name for _, optional in hooks for name in optional.values()],
            weights_of=checked_layers,
            fwd_hooks=fwd_hooks,
        )
    factors = {layer: factors_of(view, layer, run, names) for layer in chosen}
    errors = {i: check_factors(view, i, factors[i], run) for i in checked_layers}
    ids = tokens.ids
    at = _chosen_positions(view, positions, len(ids))
    return BackwardLens(
        model=view.name,
        prompt=tokens.text,
        tokens=tuple(view.tokens.text(i) for i in ids),
        token_ids=ids,
        target=view.tokens.text(loss.target),
        target_id=loss.target,
        target_given=loss.given,
        metric=loss.name,
        is_metric=loss.is_metric,
        position=loss.position,
        loss=run.loss,
        layers=chosen,
        positions=tuple(at),
        normalised=normalise,
        d_vocab=view.d_vocab,
        patched=tuple(dict.fromkeys((*given, *changes.standing))),
        adapters=view.adapters.names,
        segments=tokens.spans,
        errors=errors,
        matrices=_readouts(view, factors, names, at, loss.target, normalise, k),
        by_layer=factors,
        by_state={
            layer: {slot: run.gradients[required[slot]] for slot in STATES if slot in required}
            for layer, (required, _) in zip(chosen, hooks, strict=True)
        },
        source=Source(view.model, None if fwd_hooks else changes.standing),
    )


def _chosen_positions(view: ModelView, positions: Any, n_tokens: int) -> list[int]:
    """The positions that are read as words, ascending; None is all."""
    if (asked := integers_or_none(positions)) is None:
        return list(range(n_tokens))
    if not asked:
        raise InputError("no positions were chosen; None reads all of them")
    return sorted({view.check_position(i, n_tokens) for i in asked})


def _checked_layers(layers: Sequence[int], check: str) -> tuple[int, ...]:
    if check not in ("one", "all", "none"):
        raise InputError(f"check is 'one', 'all' or 'none', got {check!r}")
    # The block in the middle: its gradients have passed half of the blocks.
    return {"one": (layers[len(layers) // 2],), "all": tuple(layers), "none": ()}[check]


def _readouts(
    view: ModelView,
    factors: dict[int, dict[str, Factors]],
    matrices: Sequence[str],
    at: Sequence[int],
    target: int,
    normalise: bool,
    k: int,
) -> dict[str, MatrixReadout]:
    """The readout of each matrix's vectors; those that matrices share are read once."""

    def stack(matrix: str, which: str) -> Float[Tensor, "layer pos width"]:
        return torch.stack([getattr(some[matrix], which)[list(at)] for some in factors.values()])

    shared: dict[tuple[bool, str], list[str]] = {}
    for matrix in matrices:
        shared.setdefault((matrix in _MLP, READ[matrix]), []).append(matrix)
    rows = torch.cat([stack(group[0], which) for (_, which), group in shared.items()])
    words = _words(view, rows.flatten(0, 1), target, normalise, min(k, view.d_vocab))
    texts = view.tokens.texts(
        {int(i) for side in ("top", "bottom") for i in words[f"{side}_ids"].flat if i >= 0}
    )
    n = len(factors)
    result: dict[str, MatrixReadout] = {}
    for i, ((_, which), group) in enumerate(shared.items()):
        own = {
            name: column.reshape(-1, len(at), *column.shape[1:])[i * n : (i + 1) * n]
            for name, column in words.items()
        }
        for matrix in group:
            norms, input_norms = (
                _numpy(torch.linalg.vector_norm(stack(matrix, name), dim=-1))
                for name in ("deltas", "inputs")
            )
            result[matrix] = MatrixReadout(
                reads=which, norms=norms, input_norms=input_norms, texts=texts, **own
            )
    return {matrix: result[matrix] for matrix in matrices}


def _words(
    view: ModelView,
    rows: Float[Tensor, "row d_model"],
    target: int,
    normalise: bool,
    k: int,
) -> dict[str, np.ndarray]:
    """The ranks and tokens of vectors, as fields of `MatrixReadout`; a vector of 0 has none."""
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    there = lengths > 0
    found = {
        "ranks": np.full(len(rows), -1),
        "top_ids": np.full((len(rows), k), -1),
        "top_probs": np.full((len(rows), k), np.nan),
        "bottom_ids": np.full((len(rows), k), -1),
        "bottom_probs": np.full((len(rows), k), np.nan),
    }
    if there.any():
        unit = rows[there] / lengths[there, None] if normalise else rows[there]
        out = read(view, unit, [target], k=k)
        where = _numpy(there)
        found["ranks"][where] = _numpy(out.target_ranks[:, 0])
        for name in ("top_ids", "top_probs", "bottom_ids", "bottom_probs"):
            found[name][where] = _numpy(getattr(out, name))
    return found


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
