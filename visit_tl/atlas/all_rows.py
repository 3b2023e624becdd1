"""Read every static row of a model ahead of the graphs that will need them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Tokens
from visit_tl.atlas.row_cache import open_atlas
from visit_tl.errors import InputError
from visit_tl.model import components
from visit_tl.model.view import ModelView


@checked
def build(model: Model, targets: Tokens, *, k: Count = 5, verbose: Flag = True) -> tuple[int, int]:
    """Read all rows of W_O and W_out and all columns of W_in for some targets, and store it.

    Graphs are correct without this, and the second graph is fast without it. It is for studies that
    will need most of a model's neurons with the same few targets. It can be interrupted: the blocks
    read so far stay in the atlas.

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives.
        targets: The tokens that graphs will follow, as text or ids.
        k: How many top and bottom tokens graphs will keep.
        verbose: Show a progress bar.

    Returns:
        How many rows there are, and for how many targets they were read.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: no targets, a target that is not one token, or a model without an atlas (see
            the message).
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    several = [targets] if isinstance(targets, str | int) else targets
    aims = np.array(sorted({view.tokens.single(target) for target in several}), np.int64)
    if not len(aims):
        raise InputError("no targets were given; ranks are stored per target, so give at least one")
    if not 1 <= k <= view.d_vocab:
        raise InputError(f"k must be in 1..{view.d_vocab}, got {k}")
    atlas = open_atlas(view, k)
    if atlas is None:
        raise InputError(
            f"nothing is kept of {view.name}: the atlas is off, the vocabulary is small, or the "
            f"model is on a GPU, where reading is as quick as looking up"
        )
    places = atlas.places
    of_block = sum(places.sizes)
    for layer in tqdm(range(view.n_layers), desc="atlas", disable=not verbose):
        rows = torch.cat(_rows(view, layer, places.sizes))
        at = np.arange(layer * of_block, (layer + 1) * of_block)
        which = np.tile(np.arange(of_block), len(aims))
        atlas.read(view, rows, at, which, aims.repeat(of_block))
        atlas.save()
    return len(places), len(aims)


def _rows(view: ModelView, layer: int, sizes: tuple[int, int, int]) -> list[Tensor]:
    """The static rows of a block, in the order of `Places`."""
    weights = view.weights(layer)
    rows = [components.attn_neurons(weights.W_O)]
    if weights.W_in is not None and weights.W_out is not None:
        rows += [weights.W_in.T, weights.W_out]
    return [stack for stack, size in zip(rows, sizes, strict=False) if size]
