"""Every static row of a model, read ahead of the graphs that will ask for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visit_tl import components
from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Model, Tokens
from visit_tl.atlas.atlas import open_atlas
from visit_tl.errors import InputError
from visit_tl.model.view import ModelView


@checked
def build(model: Model, targets: Tokens, *, k: Count = 5, verbose: Flag = True) -> tuple[int, int]:
    """Read all rows of W_O and W_out and all columns of W_in for some targets, and keep it.

    Not needed for a graph to be right, nor for the second graph to be quick: for studies that will
    meet most of a model's neurons with the same few targets. Can be interrupted: what was read
    stays read.

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives.
        targets: The tokens that graphs will follow, as text or ids.
        k: How many top and bottom tokens graphs will keep.
        verbose: Show a progress bar.

    Returns:
        How many rows there are, and for how many targets each is known now.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: no targets, one that is no token, or a model of which nothing is kept.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    several = [targets] if isinstance(targets, str | int) else targets
    aims = np.array(sorted({view.tokens.single(target) for target in several}), np.int64)
    if not len(aims):
        raise InputError("no targets were given; ranks are kept by target, so name some")
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
