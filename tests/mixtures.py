"""Small random models with experts, or with parts that are neither attention nor MLP.

`twins` gives a bridge and the same model of Hugging Face, untouched: what the tests compute with
the second one's own modules knows nothing of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from tests import tiny
from tests.architectures import _COMMON, _GROUPED

_FOUR = {"num_experts": 4, "num_experts_per_tok": 2}
_FOUR_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
_BARE = {k: v for k, v in _COMMON.items() if k not in ("num_attention_heads", "intermediate_size")}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", _GROUPED | _FOUR_LOCAL),
    "olmoe": ("Olmoe", _GROUPED | _FOUR),
    "qwen2-moe": (
        "Qwen2Moe",
        _GROUPED | _FOUR | {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20},
    ),
    "gpt-oss": ("GptOss", _GROUPED | _FOUR_LOCAL | {"head_dim": 4}),
    "llama4": (
        "Llama4",
        _GROUPED
        | {"num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 4}
        | {"intermediate_size_mlp": 24, "interleave_moe_layer_step": 1},
    ),
    "deepseek-v3": (
        "DeepseekV3",
        _COMMON
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 12, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
        | {"v_head_dim": 8, "n_shared_experts": 1},
    ),
    "lfm2": (
        "Lfm2",
        _GROUPED | {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    ),
    "falcon-h1": ("FalconH1", _GROUPED | _MAMBA | {"mamba_d_ssm": 32, "head_dim": 4}),
    "jamba": (
        "Jamba",
        _GROUPED
        | _FOUR
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
        | {"expert_layer_period": 2, "expert_layer_offset": 1}
        | {"mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    "mamba": ("Mamba", _BARE | {"state_size": 4, "time_step_rank": 4}),
    "rwkv": ("Rwkv", _BARE | {"attention_hidden_size": 16, "intermediate_size": 40}),
}


def hf_model(name: str, **overrides: Any) -> Any:
    """The Hugging Face model with random weights, in evaluation mode."""
    import transformers

    family, settings = SETTINGS[name]
    kind = "TextConfig" if name == "llama4" else "Config"
    config = getattr(transformers, family + kind)(**(settings | overrides))
    config._attn_implementation = "eager"
    config.architectures = [f"{family}ForCausalLM"]
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    tiny.randomise(model)
    return model


def twins(name: str, **overrides: Any) -> tuple[Any, Any]:
    """A bridge, and the same model of Hugging Face without one."""
    hf = hf_model(name, **overrides)
    return tiny.bridged(copy.deepcopy(hf)), hf


def layers_of(hf: Any) -> Any:
    """The blocks of a model of Hugging Face."""
    inner = getattr(hf, "model", hf.base_model)
    return inner.layers if hasattr(inner, "layers") else inner.blocks


def mlp_of(hf: Any, layer: int) -> Any:
    """The MLP of a block, or the mixture in its place."""
    block = layers_of(hf)[layer]
    return block.mlp if hasattr(block, "mlp") else block.feed_forward


def seen(hf: Any, module: Any, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module read and put out in a run of its model, `[pos, d_model]` each."""
    found: list[torch.Tensor] = []

    def note(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        read = args[0] if args else kwargs["hidden_states"]
        whole = out[0] if isinstance(out, tuple) else out
        found.extend(x.reshape(-1, x.shape[-1]) for x in (read, whole))

    handle = module.register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        hf(torch.tensor([ids]))
    handle.remove()
    return found[0], found[1]


@contextmanager
def changed(module: Any, change: Callable[[torch.Tensor], None]) -> Any:
    """The output of a module, `[1, pos, d_model]`, is changed in place by a function, inside."""

    def hook(_: Any, args: Any, out: Any) -> Any:
        whole = (out[0] if isinstance(out, tuple) else out).clone()
        change(whole)
        return (whole, *out[1:]) if isinstance(out, tuple) else whole

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits(hf: Any, ids: list[int]) -> torch.Tensor:
    """The logits of the last token."""
    with torch.no_grad():
        return hf(torch.tensor([ids])).logits[0, -1]
