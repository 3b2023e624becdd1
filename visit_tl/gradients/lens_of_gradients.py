"""Backward Lens: the gradients of one forward and one backward pass, read as words.

Katz, Belinkov, Geva and Wolf, "Backward Lens: Projecting Language Model Gradients into the
Vocabulary Space" (EMNLP 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
from visit_tl.model.standing_hooks import watched
from visit_tl.model.view import ModelView
from visit_tl.xray.source_model import Source


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

    Raises:
        InputError: a prompt, target, layer, position or matrix that does not fit, a metric without
            a gradient, or a gradient that is not finite.
        DecompositionError: `X^T Delta` is not autograd's gradient.
    """
    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    chosen, names = view.check_layers(layers, gaps=True), chosen_matrices(view, matrices)
    loss = Loss.of(view, tokens, target, position)
    checked_layers = _checked_layers(chosen, check)
    hooks = [needed_hooks(view, layer, names) for layer in chosen]
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
    asked = integers_or_none(positions)
    at = sorted({view.check_position(i, len(ids)) for i in (asked or range(len(ids)))})
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
        patched=tuple(dict.fromkeys((*(str(n) for n, _ in fwd_hooks), *changes.standing))),
        adapters=view.adapters.names,
        errors=errors,
        matrices=_readouts(view, factors, names, at, loss.target, normalise, k),
        by_layer=factors,
        by_state={
            layer: {slot: run.gradients[required[slot]] for slot in STATES if slot in required}
            for layer, (required, _) in zip(chosen, hooks, strict=True)
        },
        source=Source(view.model, None if fwd_hooks else changes.standing),
    )


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
    k = min(k, view.d_vocab)
    shared: dict[tuple[str, str], list[str]] = {}
    for matrix in matrices:
        group = "attn" if matrix in ("W_Q", "W_K", "W_V", "W_O") else "mlp"
        shared.setdefault((group, READ[matrix]), []).append(matrix)
    stacks = [
        torch.stack([getattr(some[group[0]], which)[list(at)] for some in factors.values()])
        for (_, which), group in shared.items()
    ]
    rows = torch.cat([stack.flatten(0, 1) for stack in stacks])
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    there = lengths > 0
    readings = rows[there] / lengths[there, None] if normalise else rows[there]
    found = {
        "rank": np.full(len(rows), -1),
        "top": np.full((len(rows), k), -1),
        "top_prob": np.full((len(rows), k), np.nan),
        "bottom": np.full((len(rows), k), -1),
        "bottom_prob": np.full((len(rows), k), np.nan),
    }
    if len(readings):
        out = read(view, readings, [target], k=k)
        where = there.cpu().numpy()
        found["rank"][where] = _numpy(out.target_ranks[:, 0])
        for name, ids, probs in (
            ("top", out.top_ids, out.top_probs),
            ("bottom", out.bottom_ids, out.bottom_probs),
        ):
            found[name][where], found[f"{name}_prob"][where] = _numpy(ids), _numpy(probs)
    texts = view.tokens.texts(
        {int(i) for name in ("top", "bottom") for i in found[name].flat if i >= 0}
    )
    shape = (len(factors), len(at))
    result: dict[str, MatrixReadout] = {}
    start = 0
    for (_, which), group in shared.items():
        part = slice(start, start + shape[0] * shape[1])
        start = part.stop
        numbers = {name: a[part].reshape(*shape, *a.shape[1:]) for name, a in found.items()}
        for matrix in group:
            sizes = {
                name: _numpy(
                    torch.stack(
                        [
                            torch.linalg.vector_norm(getattr(some[matrix], name)[list(at)], dim=-1)
                            for some in factors.values()
                        ]
                    )
                )
                for name in ("deltas", "inputs")
            }
            result[matrix] = MatrixReadout(
                reads=which,
                norms=sizes["deltas"],
                input_norms=sizes["inputs"],
                ranks=numbers["rank"],
                top_ids=numbers["top"],
                top_probs=numbers["top_prob"],
                bottom_ids=numbers["bottom"],
                bottom_probs=numbers["bottom_prob"],
                texts=texts,
            )
    return {matrix: result[matrix] for matrix in matrices}


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
