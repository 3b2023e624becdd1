"""The shift edit: write a token into a block's MLP with one forward pass and no backward pass.

A step of gradient descent on W_out moves the MLP's output against the gradient, which late blocks
read as the target (Katz et al., 2024, section 7). So the target's direction is added itself:
`W_out + eta x_n D[target]`, where x_n is the MLP's hidden activation at the last token and D the
unembedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import (
    Flag,
    Layer,
    Model,
    Number,
    Position,
    PromptLike,
    TargetOrMetric,
)
from visit_tl.errors import InputError
from visit_tl.gradients.loss import first_token
from visit_tl.model.hooks import hook_names, keeper
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.model.weight_edits import w_out_changed


@contextmanager
@checked
def shift(
    model: Model,
    prompt: PromptLike,
    target: TargetOrMetric,
    *,
    layer: Layer,
    eta: Number = 0.24,
    position: Position = -1,
    prepend_bos: Flag | None = None,
) -> Iterator[Any]:
    """Edit W_out of one block so that the prompt is continued with the target, inside the block.

        with vt.gradients.shift(model, "Lionel Messi plays for", " Paris", layer=24) as edited:
            edited("Lionel Messi plays for")

    The weights of the caller's model itself are changed, so all that runs it sees the edit; they
    are afterwards as before, to the bit. `shift_sweep` finds layers and etas.

    Args:
        model: As for `flow_graph`.
        prompt: The prompt.
        target: The token to write, as text or id; of a text of several tokens the first is taken,
            with a warning.
        layer: The block whose W_out is edited.
        eta: Factor of the edit; the paper uses 0.24 for GPT-2 XL. What fits depends on the sizes of
            the model's activations and unembedding.
        position: The position whose activation is used; -1 is the last.
        prepend_bos: As for `flow_graph`.

    Yields:
        The model.

    Raises:
        InputError: a prompt, target, layer or position that does not fit.
        ModelError: the block has no W_out that can be edited.
    """
    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    token = first_token(view, target)
    at = view.check_position(position, len(tokens.ids))
    require_layers(view, [layer])
    x = hidden_activations(view, tokens, [layer], at)[layer]
    with w_out_changed(view, layer, eta * x, target_direction(view, token)):
        yield view.model


def require_layers(view: ModelView, layers: Sequence[int]) -> None:
    """Check that blocks exist and have an MLP.

    Raises:
        InputError: one does not.
        ModelError: its MLP is a mixture of experts, or was not opened.
    """
    for layer in layers:
        if not 0 <= layer < view.n_layers:
            raise InputError(f"layer {layer} is outside 0..{view.n_layers - 1} of {view.name}")
    if view.attn_only:
        raise InputError(f"{view.name} has attention only, so there is no W_out to edit")
    view.require_neurons("the shift edit", layers)
    if bare := [layer for layer in layers if view.parts[layer].mlp == "none"]:
        raise InputError(f"blocks.{bare[0]} of {view.name} has no MLP, so no W_out to edit")


def hidden_activations(
    view: ModelView, tokens: Prompt, layers: Sequence[int], position: int
) -> dict[int, Float[Tensor, " d_mlp"]]:
    """The inputs of W_out at one position, from one forward pass."""
    names = {layer: hook_names(view, layer)["mlp_post"] for layer in layers}
    kept: dict[str, Tensor] = {}
    ids = torch.tensor([tokens.ids], device=view.W_U.device)
    view.run(ids, [(name, keeper(kept, name, "row", [position])) for name in names.values()])
    return {layer: kept[name][0] for layer, name in names.items()}


def target_direction(view: ModelView, token: int) -> Float[Tensor, " d_model"]:
    """The unembedding of a token, D[target]."""
    return view.W_U[:, token].float()
