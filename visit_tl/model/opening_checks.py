"""What is refused when a model is opened, before anything of it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import nn

from visit_tl.errors import ModelError
from visit_tl.model.given_model import what_to_pass
from visit_tl.model.quantised import has_own_class

# What TransformerLens says of models that have no text as input; those that have both are read.
_NO_TEXT: Final = ("is_audio_model", "is_visual_model")


def require_transformer_lens(model: Any) -> None:
    """Refuse what has not the attributes of a model of TransformerLens.

    Raises:
        ModelError: it has not; the message says what to pass.
    """
    wanted = ("cfg", "run_with_hooks", "to_tokens", "hook_dict", "named_modules")
    missing = [name for name in wanted if not hasattr(model, name)]
    if missing:
        raise ModelError(
            f"{type(model).__name__} is no TransformerLens model (it has no "
            f"{', '.join(missing)}); {what_to_pass(model)}"
        )


def require_decoder(model: Any, name: str) -> None:
    """Refuse what is no decoder of text with one residual stream.

    Raises:
        ModelError: it is none; the message says what it is.
    """
    children = {name for name, _ in model.named_children()}
    cfg = model.cfg
    if {"encoder", "decoder"} <= children or {"encoder_blocks", "decoder_blocks"} & children:
        raise ModelError(
            f"{name} is an encoder-decoder; a graph shows one residual stream, "
            f"so only decoders such as GPT-2, Llama or Gemma can be opened"
        )
    if "embed" not in children or any(getattr(cfg, flag, False) for flag in _NO_TEXT):
        raise ModelError(
            f"{name} reads pictures or sound, not tokens; only decoders of text can be opened"
        )
    direction = getattr(cfg, "attention_dir", "causal")
    # TransformerLens 3.9 opens BERT with a configuration that says "causal".
    if direction == "causal" and {"mlm_head", "token_type_embed"} & children:
        direction = "bidirectional"
    if direction != "causal":
        raise ModelError(
            f"{name} is an encoder (its attention is {direction}); "
            f"only decoders, whose attention is causal, can be opened"
        )
    if "unembed" not in children or "blocks" not in children:
        raise ModelError(
            f"{name} ({type(model).__name__}) has no "
            f"{'unembed' if 'blocks' in children else 'blocks'}; there is no residual stream "
            f"that the logit lens could read"
        )


def require_still(modules: Iterable[tuple[str, nn.Module]], model_name: str) -> None:
    """Refuse active dropout: it is random, so the graph would not match the caller's run.

    Raises:
        ModelError: a module would drop out.
    """
    for name, module in modules:
        dropping = isinstance(module, nn.modules.dropout._DropoutNd)
        if dropping and module.training and module.p > 0:
            raise ModelError(
                f"{model_name} is in training mode and would drop out ({name}); "
                f"call model.eval() first"
            )


def require_finite(model: nn.Module, model_name: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelError: a parameter holds NaN or infinity.
    """
    for name, parameter in model.named_parameters():
        if has_own_class(parameter):  # of a quantised layer, which may have no sum
            continue
        # One sum is 4 x faster than testing every number; they are tested only if it fails.
        finite = parameter.is_floating_point() and torch.isfinite(parameter.detach().sum())
        if not finite and not torch.isfinite(parameter.detach()).all():
            clean = name.replace("_original_component.", "")
            raise ModelError(
                f"the parameter {clean} of {model_name} holds NaN or infinity; "
                f"a graph of it would be meaningless, so load the weights again"
            )
