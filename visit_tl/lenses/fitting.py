"""Fit a Jacobian lens with TransformerLens."""

from __future__ import annotations

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.vocabulary import Count, Flag, Layers, Model, Name, Names, Whole
from visit_tl.lenses.maps import Lens
from visit_tl.lenses.transformer_lens_format import of_jacobian_lens
from visit_tl.model.jacobian_fit import fitted
from visit_tl.model.view import model_of_view


@checked
def fit(
    model: Model,
    prompts: Names,
    *,
    corpus: Name,
    layers: Layers | None = None,
    max_seq_len: Count = 128,
    skip_first: Whole = 16,
    batch: Count = 32,
    verbose: Flag = True,
) -> Lens:
    """Fit a Jacobian lens: TransformerLens's `JacobianLens.fit` (4.x), read as a `Lens`.

    It takes `d_model / batch` backward passes of `batch` copies of a prompt for each prompt. The
    published lenses are of 100 to 1000 prompts of 128 tokens.

    Args:
        model: A raw TransformerBridge: no compatibility mode, no processed weights.
        prompts: Texts. Those without a token between the first `skip_first` and the last are left
            out, with a warning.
        corpus: What the texts are, kept in `Lens.facts`.
        layers: The blocks whose maps are wanted; None or `all` is all but the last.
        max_seq_len: Tokens of a prompt that are used.
        skip_first: First tokens of a prompt that are not averaged over.
        batch: Rows of the matrices for each backward pass.
        verbose: Show a progress bar.

    Raises:
        ModelError: TransformerLens has no JacobianLens, or the model is no raw bridge.
        InputError: no prompt is long enough, or a layer is not there.
    """
    found = fitted(
        model_of_view(model),
        prompts,
        corpus=corpus,
        source_layers=integers_or_none(layers),
        max_seq_len=max_seq_len,
        skip_first_positions=skip_first,
        dim_batch=batch,
        show_progress=verbose,
    )
    return of_jacobian_lens(found)
