"""one_matrix_trained: gradient descent on W_out of one block until a prompt goes on as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Flag, Layer, Model, Number, PromptLike, Token
from visit_tl.gradients.lens_of_gradients import backward_lens
from visit_tl.gradients.loss import first_token
from visit_tl.gradients.shift_edit import require_layers
from visit_tl.model.last_logits import last_logits
from visit_tl.model.view import ModelView
from visit_tl.model.weight_edits import w_out_moved


@contextmanager
@checked
def one_matrix_trained(
    model: Model,
    prompt: PromptLike,
    target: Token,
    *,
    layer: Layer,
    rate: Number,
    steps: Count = 25,
    prepend_bos: Flag | None = None,
) -> Iterator[int]:
    """Train W_out of one block on one prompt, inside the block; what the shift edit replaces.

    Plain gradient descent on `-log p(target)` at the last token: each step subtracts
    `rate X^T Delta`, from the factors of the gradient (`backward_lens`), until the target is the
    most probable token or there were `steps` of them. W_out is afterwards as before, to the bit.

    Args:
        model: As for `flow_graph`; its own weights are changed.
        prompt: The prompt.
        target: The token to train; of several tokens the first, with a warning.
        layer: The block.
        rate: The learning rate.
        steps: The most steps.
        prepend_bos: As for `flow_graph`.

    Yields:
        How many steps were taken.

    Raises:
        InputError: a prompt, target or layer that does not fit.
        ModelError: the block has no W_out that can be edited.
    """
    view = ModelView(model)
    require_layers(view, [layer])
    ids = view.tokens.encode(prompt, prepend_bos).ids
    token = first_token(view, target)
    with ExitStack() as stack:
        taken = 0
        while taken < steps and int(last_logits(view, [ids]).argmax()) != token:
            lens = backward_lens(
                view.model,
                list(ids),
                token,
                layers=layer,
                matrices=("W_out",),
                positions=-1,
                k=1,
                check="none",
            )
            gradient = lens.factors(layer, "W_out").gradient()
            stack.enter_context(w_out_moved(view, layer, -rate * gradient))
            taken += 1
        yield taken
