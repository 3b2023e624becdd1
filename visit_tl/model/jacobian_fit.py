"""TransformerLens's own fit of a Jacobian lens, if the installed release has one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from visit_tl.errors import InputError, ModelError
from visit_tl.model.standing_hooks import on_modules


def fitted(model: Any, prompts: Sequence[str], **options: Any) -> Any:
    """`JacobianLens.fit` of `transformer_lens.tools.analysis`.

    Raises:
        ModelError: the release has none, or the model is none that it fits or can run.
        InputError: no prompt is long enough, or an option does not fit.
    """
    try:
        from transformer_lens.tools.analysis import JacobianLens
    except ImportError as error:
        raise ModelError(
            f"TransformerLens {version('transformer-lens')} has no JacobianLens, which fits the "
            f"lens (4.0 and later have); fit it there and load its file here, or pass matrices"
        ) from error
    try:
        return JacobianLens.fit(model, list(prompts), **options)
    except TypeError as error:
        raise ModelError(
            f"a Jacobian lens is fitted on a raw TransformerBridge: {error}"
        ) from error
    except ValueError as error:
        raise InputError(f"TransformerLens fitted no Jacobian lens: {error}") from error
    except RuntimeError as error:
        if on_modules(model.modules(), ours=False):
            raise  # it may be the caller's own hook that failed
        raise ModelError(
            f"TransformerLens fitted no Jacobian lens, as a run of the model failed: {error}"
        ) from error
