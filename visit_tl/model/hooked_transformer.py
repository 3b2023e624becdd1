"""Convert a model of transformers to a HookedTransformer, for TransformerLens 2.

TransformerLens 2 itself opens only the names of its own table.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from visit_tl.errors import ModelError

# HookedTransformer keeps a [n_ctx, n_ctx] mask per layer: 2 GB for 30 layers at 8192.
N_CTX_LIMIT = 2048
# SmolLM2-135M in float32 differs by 2e-4, and by 11.8 with the rotary base of the table's default.
LOGIT_TOLERANCE = 0.01


def hooked_from_folder(
    folder: Path, hf_model: Any, tokenizer: Any, dtype: Any, device: str, kwargs: dict[str, Any]
) -> Any:
    """Convert a model that transformers has opened, with nothing folded or centred.

    Args:
        folder: Where the model came from; TransformerLens reads its configuration there.
        hf_model: The model.
        tokenizer: Its tokenizer.
        dtype: A torch dtype.
        device: A torch device.
        kwargs: Arguments for TransformerLens's configuration, such as `n_ctx`.

    Returns:
        A `HookedTransformer`.

    Raises:
        ModelError: the converted model does not compute the same as the original.
    """
    # Imported by name, since newer releases of TransformerLens have neither.
    HookedTransformer: Any = importlib.import_module("transformer_lens").HookedTransformer
    loading: Any = importlib.import_module("transformer_lens.loading_from_pretrained")

    limit = getattr(hf_model.config, "max_position_embeddings", N_CTX_LIMIT)
    n_ctx = kwargs.pop("n_ctx", None) or min(limit, N_CTX_LIMIT)
    cfg = loading.get_pretrained_model_config(
        str(folder),
        hf_cfg=hf_model.config.to_dict(),
        dtype=dtype,
        device=device,
        n_ctx=n_ctx,
        **kwargs,
    )
    # TransformerLens's generic Llama branch leaves the base at 10,000.
    cfg.rotary_base = getattr(hf_model.config, "rope_theta", cfg.rotary_base)
    state = loading.get_pretrained_state_dict(str(folder), cfg, hf_model, dtype=dtype)
    model = HookedTransformer(cfg, tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.move_model_modules_to_device()
    _require_same_logits(model, hf_model)
    return model


def _require_same_logits(model: Any, hf_model: Any) -> None:
    """Require that the converted model and the original agree on the first few token ids."""
    import torch

    tokens = torch.arange(1, 9, device=hf_model.device)[None]
    with torch.no_grad():
        expected = hf_model(tokens).logits.log_softmax(-1)
        found = model(tokens).log_softmax(-1)
    worst = (found - expected).abs().max().item()
    if not worst <= LOGIT_TOLERANCE:
        raise ModelError(
            f"TransformerLens's conversion of {type(hf_model).__name__} computes something else: "
            f"log-probabilities differ by {worst:.2g}, expected at most {LOGIT_TOLERANCE}. "
            "TransformerLens 3 or later opens models without converting them."
        )
