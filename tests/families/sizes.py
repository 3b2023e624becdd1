"""Shrink a configuration of transformers to a model of a few thousand parameters, by its words.

Families name the same size differently. A key that a configuration has and that a table below
lists gets a small value; a list with an entry for each layer keeps one of each kind; every other
key stays as the family has it, so that what makes it a family of its own is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests import tiny

WIDTH: Final = 32
HEADS: Final = 4
WINDOW: Final = 3
CONTEXT: Final = 64

_SIZES: Final[dict[str, int]] = {
    # The stream, heads and neurons.
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels"), WIDTH // HEADS),
    "rotary_dim": 4,
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 40),
    "intermediate_size_mlp": 40,
    "vocab_size": tiny.D_VOCAB,
    "vocab_size_per_layer_input": tiny.D_VOCAB,
    "hidden_size_per_layer_input": 8,
    # Positions.
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), CONTEXT),
    "context_length": CONTEXT,
    "original_max_position_embeddings": 16,
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), WINDOW),
    "local_attention": 2 * WINDOW,
    "attention_chunk_size": 4,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    # Latent attention.
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 12),
    "qk_rope_head_dim": 4,
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("index_n_heads", "index_topk"), 4),
    "index_head_dim": 8,
    # State spaces and linear attention: twice the stream wide.
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 4),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("lru_width", "attention_hidden_size"), WIDTH),
    "mamba_d_ssm": 2 * WIDTH,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    # Pictures and sound, of which nothing is measured.
    **dict.fromkeys(("image_size", "crop_size"), 28),
    "patch_size": 14,
    **dict.fromkeys(("out_hidden_size", "projector_hidden_size", "projection_dim"), WIDTH),
    "num_position_embeddings": 16,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 40),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    "d_kv": WIDTH // HEADS,
    **dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), WIDTH),
    "cross_attention_hidden_size": WIDTH,
    **dict.fromkeys(("pos_emb_height", "pos_emb_width"), 4),
    "num_mel_bins": 8,
    "max_source_positions": 32,
    "depth": 2,
}
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_FEWEST: Final = 2


def shrunk(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Small values for the keys of a configuration.

    Args:
        defaults: What a configuration of the family has when nothing is asked for.
        settings: What is asked for; these keys are taken as they are.
    """
    depth = settings.get("layers") or _depth(defaults)
    asked = {key: value for key, value in settings.items() if key != "layers"}
    before = next((defaults[key] for key in _LAYERS if isinstance(defaults.get(key), int)), None)
    small: dict[str, Any] = {}
    for key, value in defaults.items():
        if key in asked:
            continue
        if key in _LAYERS and value is not None:
            small[key] = depth
        elif isinstance(value, list) and _per_layer(key, value, before):
            small[key] = _of_each_kind(key, value, depth)
        elif key in _SIZES and _is_size(value):
            small[key] = min(_SIZES[key], value) if "per_tok" in key else _SIZES[key]
        elif _is_token(key) and isinstance(value, int):
            small[key] = value if key == "bos_token_id" and value == 0 else _token(key)
        elif key == "rope_parameters" and isinstance(value, Mapping):
            small[key] = _positions(value)
    if "kv_lora_rank" in defaults:
        small["num_key_value_heads"] = HEADS  # keys and values come from the latent, one per head
        # Where a latent family has this word too, it means the part of a key that is turned.
        if "head_dim" in small and defaults["head_dim"] == defaults["qk_rope_head_dim"]:
            small["head_dim"] = _SIZES["qk_rope_head_dim"]
    return small | asked


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_token(key: str) -> bool:
    return key.endswith(("_token_id", "_token_index"))


def _token(key: str) -> int:
    """An id inside the small vocabulary; those of pictures and sound are none of the prompt."""
    return 0 if key.startswith(("bos", "eos", "pad")) else tiny.D_VOCAB - 1


def _depth(defaults: Mapping[str, Any]) -> int:
    """Two layers, or as many as there are kinds of layers."""
    before = next((defaults[key] for key in _LAYERS if isinstance(defaults.get(key), int)), None)
    kinds = [
        len(_distinct(value))
        for key, value in defaults.items()
        if isinstance(value, list) and _per_layer(key, value, before) and _are_kinds(key, value)
    ]
    return max([_FEWEST, *kinds])


def _per_layer(key: str, value: list[Any], n_layers: int | None) -> bool:
    return bool(value) and (len(value) == n_layers or key == "layers_block_type")


def _are_kinds(key: str, values: list[Any]) -> bool:
    return key not in _SIZES and values != list(range(len(values)))


def _distinct(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _of_each_kind(key: str, values: list[Any], depth: int) -> list[Any]:
    if key in _SIZES:
        return [_SIZES[key]] * depth
    if "heads" in key:
        return [HEADS] * depth
    if values == list(range(len(values))):  # the layers that something is in
        return values[:depth]
    kinds = _distinct(values)
    return [kinds[i % len(kinds)] for i in range(depth)]


def _positions(value: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters whose training context fits in the small one, by layer or of all."""
    return {
        key: _positions(inner) if isinstance(inner, Mapping) else _SIZES.get(key, inner)
        for key, inner in value.items()
    }
