"""Small GGUF files, written as llama.cpp's converters write them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import tiny

_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_REST = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    hf_model: Any,
    *,
    architecture: str | None = None,
    leave_out: Collection[str] = (),
    add: Mapping[str, Any] | None = None,
    header: Callable[[Any], None] | None = None,
    tokenizer: bool = True,
) -> Path:
    """Write a model of the Llama family, and the tokenizer of the small models, as float32.

    Args:
        path: The file.
        hf_model: The model.
        architecture: What the file says that it is; default the type of the model.
        leave_out: Names of tensors that are not written.
        add: Further tensors by name.
        header: Called with the writer, to say more.
        tokenizer: Whether the file carries a tokenizer.
    """
    import gguf

    config = hf_model.config
    kind = architecture or config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name("tiny")  # without one, transformers before 5 does not open it
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer)
    if header is not None:
        header(writer)
    tensors = tensors_of(hf_model, kind) | dict(add or {})
    for name, tensor in tensors.items():
        if name not in leave_out:
            writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(hf_model: Any, kind: str) -> dict[str, Any]:
    """The weights by their names in a GGUF file."""
    found = {}
    for name, tensor in hf_model.state_dict().items():
        module, _, suffix = name.rpartition(".")
        array = tensor.detach().numpy()
        if module in _REST:
            found[f"{_REST[module]}.{suffix}"] = array
            continue
        layer, _, part = module.removeprefix("model.layers.").partition(".")
        if kind == "llama" and part.endswith(("q_proj", "k_proj")):
            heads = hf_model.config.num_attention_heads
            array = _interleaved(
                tensor, heads if part.endswith("q_proj") else hf_model.config.num_key_value_heads
            )
        found[f"blk.{layer}.{_BLOCK[part]}.{suffix}"] = array
    return found


def _interleaved(weight: torch.Tensor, heads: int) -> Any:
    """llama.cpp turns neighbouring dimensions, transformers those half a head apart."""
    rows = weight.detach().unflatten(0, (heads, 2, -1)).transpose(1, 2)
    return rows.flatten(0, 2).numpy()


def _add_tokenizer(writer: Any) -> None:
    own = tiny.tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([own.convert_ids_to_tokens(i) for i in range(len(own))])
    writer.add_token_types([3 if i == own.bos_token_id else 1 for i in range(len(own))])
    writer.add_token_merges([f"\u0120 {letter}" for letter in "abcde"])
    writer.add_bos_token_id(own.bos_token_id)
    writer.add_eos_token_id(own.eos_token_id)
    writer.add_pad_token_id(own.pad_token_id)
