"""Small random models of every kind of decoder that the package promises to read, made offline.

Each row of `ARCHITECTURES` builds a Hugging Face model of two layers from a configuration, gives
every bias and gain a value that matters, and opens it as a raw bridge. `hf_model` is apart from
`bridge` so that a test can change the weights first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests import tiny

PROMPT = "a b c d e ab cd"

# Words of the modern families' configurations; 4 heads of 4, so 16 wide.
_COMMON: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 16,
    "intermediate_size": 40,
    "vocab_size": tiny.D_VOCAB,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
# Wider in all than the stream: d_head x n_heads = 24.
_WIDE = _GROUPED | {"head_dim": 6}


@dataclass(frozen=True)
class Architecture:
    """One kind of decoder.

    Attributes:
        name: What TransformerLens is told that the model is called.
        classes: The names of its configuration and of its model in transformers.
        settings: Configuration.
        traits: What is worth a test of its own, such as `parallel` or `post-norm`.
        seed: Of its weights.
        experts: Whether its MLPs are mixtures of experts; see `tests/model/test_experts.py`.
    """

    name: str
    classes: tuple[str, str]
    settings: Mapping[str, Any]
    traits: frozenset[str] = frozenset()
    seed: int = 0
    experts: bool = False

    @property
    def grouped(self) -> bool:
        """Whether query heads share keys and values."""
        return "grouped" in self.traits

    def config(self, **overrides: Any) -> Any:
        """The Hugging Face configuration, attention written out so that patterns exist."""
        import transformers

        made = getattr(transformers, self.classes[0])(**(dict(self.settings) | overrides))
        made._attn_implementation = "eager"
        # Where no model type is known to it, TransformerLens goes by this.
        made.architectures = [self.classes[1]]
        return made

    def hf_model(self, **overrides: Any) -> Any:
        """The Hugging Face model with random weights, in evaluation mode."""
        import transformers

        with torch.random.fork_rng(devices=[]):
            model = getattr(transformers, self.classes[1])(self.config(**overrides)).eval()
        tiny.randomise(model, self.seed)
        return model

    def expanded(self) -> Any:
        """The same weights as `hf_model`, with a K/V head of its own for every query head."""
        wide = self.hf_model(num_key_value_heads=4, **_UNGROUPED.get(self.name, {}))
        weights = {
            name: _repeat(name, tensor, wide.state_dict()[name].shape)
            for name, tensor in _per_head_norms(self.hf_model().state_dict()).items()
        }
        wide.load_state_dict(weights)
        return wide

    def bridge(self, hf_model: Any = None) -> Any:
        """The model, or one made of `hf_model`, as a raw TransformerBridge."""
        if self.name.startswith("cohere") and tiny.RELEASE < (4,):
            pytest.skip(
                "TransformerLens 3.9 turns Cohere's queries by tables laid out for other pairs, "
                "which is no rotation: the model is refused; and it knows no query and key norms"
            )
        # TransformerLens would replace an alias, such as gptj, by the name of a published model.
        return bridge(f"tiny-{self.name}", self.hf_model() if hf_model is None else hf_model)


def bridge(name: str, hf_model: Any) -> Any:
    """Open a Hugging Face model as a raw TransformerBridge, in evaluation mode."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        name, hf_model=hf_model, tokenizer=tiny.tokenizer()
    ).eval()


# Falcon's switch is not its number of K/V heads.
_UNGROUPED: dict[str, dict[str, Any]] = {"falcon": {"multi_query": False}}


def _repeat(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A parameter of keys or values with each head's rows repeated; any other as it is."""
    if "query_key_value" in name:
        # Falcon: four queries, a key and a value become (query, key, value) for each of the heads.
        heads = tensor.unflatten(0, (6, -1))
        rows = [heads[part] for h in range(4) for part in (h, 4, 5)]
        return torch.stack(rows).flatten(0, 1)
    if tensor.shape == shape:
        return tensor
    if tensor.ndim == 2 and "norm" in name:  # Cohere: [head, d_head]
        return tensor.repeat_interleave(2, dim=0)
    return tensor.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)


def _per_head_norms(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """StableLM has one module for each key head; these are repeated by name."""
    key_norm = "k_layernorm.norms."
    single = {name: tensor for name, tensor in weights.items() if key_norm not in name}
    for name, tensor in weights.items():
        if key_norm in name:
            before, _, after = name.partition(key_norm)
            head, _, kind = after.partition(".")
            for copy in range(2):
                single[f"{before}{key_norm}{2 * int(head) + copy}.{kind}"] = tensor
    return single


def _row(name: str, classes: str, settings: Mapping[str, Any], *traits: str, **more: Any) -> Any:
    """A row of the table; `classes` is what the two classes' names have in common, or both."""
    config, _, model = classes.partition(" ")
    pair = (config, model) if model else (f"{config}Config", f"{config}ForCausalLM")
    return Architecture(name, pair, settings, frozenset(traits), **more)


_GPT2: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 16,
    "n_inner": 40,
    "vocab_size": tiny.D_VOCAB,
    "n_positions": 32,
}

_ROWS = [
    _row(
        "gpt2",
        "GPT2Config GPT2LMHeadModel",
        _GPT2,
    ),
    _row(
        "gptj",
        "GPTJ",
        {
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 32,
            "n_inner": 40,
            "vocab_size": tiny.D_VOCAB,
            "n_positions": 32,
            "rotary_dim": 4,
        },
        "parallel",
        "rotary",
    ),
    _row(
        "gpt-neox",
        "GPTNeoX",
        _COMMON
        | {
            "hidden_size": 32,
            "rotary_pct": 0.5,
            "use_parallel_residual": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        "parallel",
        "rotary",
    ),
    _row(
        "gpt-neo",
        "GPTNeo",
        {
            "num_layers": 2,
            "num_heads": 4,
            "hidden_size": 16,
            "intermediate_size": 40,
            "vocab_size": tiny.D_VOCAB,
            "max_position_embeddings": 32,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 3,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        "unscaled",
        "local",
    ),
    _row(
        "opt",
        "OPT",
        _COMMON | {"ffn_dim": 40, "word_embed_proj_dim": 16, "activation_function": "relu"},
    ),
    _row(
        "bloom",
        "Bloom",
        {"n_layer": 2, "n_head": 4, "hidden_size": 16, "vocab_size": tiny.D_VOCAB},
        "alibi",
    ),
    _row("llama", "Llama", _GROUPED, "grouped", "rotary"),
    _row("mistral", "Mistral", _GROUPED | {"sliding_window": 3}, "grouped", "rotary", "local"),
    _row("qwen2", "Qwen2", _GROUPED, "grouped", "rotary"),
    _row("qwen3", "Qwen3", _WIDE, "grouped", "rotary", "qk-norm"),
    _row("phi", "Phi", _COMMON | {"hidden_size": 32}, "parallel", "rotary"),
    _row("gemma", "Gemma", _WIDE, "grouped", "rotary"),
    _row(
        "gemma2",
        "Gemma2",
        _WIDE
        | {
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 10,
        },
        "grouped",
        "rotary",
        "local",
        "post-norm",
        "score-softcap",
        "logit-transform",
    ),
    _row(
        "gemma3",
        "Gemma3TextConfig Gemma3ForCausalLM",
        _WIDE
        | {
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 10,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
            },
        },
        "grouped",
        "rotary",
        "local",
        "post-norm",
        "qk-norm",
    ),
    _row("olmo2", "Olmo2", _GROUPED, "grouped", "rotary", "post-norm", "qk-norm"),
    _row(
        "cohere",
        "Cohere",
        _GROUPED | {"logit_scale": 0.25},
        "grouped",
        "rotary",
        "parallel",
        "logit-transform",
    ),
    _row(
        "cohere-qk-norm",
        "Cohere",
        _GROUPED | {"logit_scale": 0.25, "use_qk_norm": True},
        "grouped",
        "rotary",
        "parallel",
        "qk-norm",
        "logit-transform",
    ),
    _row(
        "stablelm",
        "StableLm",
        _GROUPED
        | {
            "hidden_size": 32,
            "use_qkv_bias": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        "grouped",
        "rotary",
    ),
    _row(
        "stablelm-parallel",
        "StableLm",
        _GROUPED | {"hidden_size": 32, "use_parallel_residual": True, "qk_layernorm": True},
        "grouped",
        "rotary",
        "parallel",
        "qk-norm",
    ),
    _row(
        "falcon",
        "Falcon",
        _COMMON
        | {
            "multi_query": True,
            "parallel_attn": True,
            "new_decoder_architecture": False,
            "alibi": False,
            "bias": True,
            "ffn_hidden_size": 40,
        },
        "grouped",
        "rotary",
        "parallel",
    ),
    _row(
        "falcon-rw",
        "Falcon",
        _COMMON
        | {
            "multi_query": False,
            "parallel_attn": False,
            "new_decoder_architecture": False,
            "alibi": True,
            "bias": True,
            "ffn_hidden_size": 40,
        },
        "alibi",
    ),
    _row(
        "mixtral",
        "Mixtral",
        _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        "grouped",
        "rotary",
        experts=True,
    ),
    _row(
        "qwen2-moe",
        "Qwen2Moe",
        _GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
            "decoder_sparse_step": 1,
        },
        "grouped",
        "rotary",
        experts=True,
    ),
]

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}

# TransformerLens 3.9 does not open the one and computes the other in another way.
_ONLY_4 = ("cohere-qk-norm", "olmo2") if tiny.RELEASE < (4,) else ()
READABLE = [name for name, a in ARCHITECTURES.items() if not a.experts and name not in _ONLY_4]
"""Those without experts that every call reads, with this release of TransformerLens."""


_LOCAL: dict[str, Any] = {
    "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}
# Keys and values from one compressed state of 6; half of each query is rotated.
_LATENT: dict[str, Any] = _COMMON | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 6,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}

# Families that are like a row above but for what is named here; tests/test_families.py.
_FAMILIES = [
    _row(
        "granite",
        "Granite",
        _GROUPED
        | {
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.37,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
        "multipliers",
    ),
    _row("ernie4_5", "Ernie4_5", _GROUPED, "rotary-layout"),
    _row("glm", "Glm", _WIDE | {"head_dim": 8}, "rotary-layout"),
    _row("glm4", "Glm4", _WIDE | {"head_dim": 8}, "rotary-layout"),
    _row("smollm3", "SmolLM3", _GROUPED | {"no_rope_layers": [1, 0]}, "rotary-layout"),
    _row("exaone4", "Exaone4", _WIDE | _LOCAL, "rotary-layout"),
    _row("cohere2", "Cohere2", _GROUPED | _LOCAL | {"logit_scale": 0.25}, "rotary-layout"),
    _row("hunyuan", "HunYuanDenseV1", _WIDE, "norm-last"),
    _row("nanochat", "NanoChat", _GROUPED, "norm-last"),
    _row("bitnet", "BitNet", _GROUPED, "inner-norm"),
    _row(
        "gemma4",
        "Gemma4TextConfig Gemma4ForCausalLM",
        _WIDE
        | _LOCAL
        | {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": tiny.D_VOCAB,
            "num_kv_shared_layers": 0,
            "global_head_dim": 6,
        },
        "inner-norm",
    ),
    _row("youtu", "Youtu", _LATENT | {"attention_bias": True}, "latent"),
    _row("youtu-plain", "Youtu", _LATENT | {"rope_interleave": False}, "latent"),
    # TransformerLens shows z of these in rows of 4, two of them for each head.
    _row("youtu-wide", "Youtu", _LATENT | {"v_head_dim": 8}, "latent"),
    _row("youtu-one-step", "Youtu", _LATENT | {"q_lora_rank": None}, "latent"),
    _row("olmo", "Olmo", _GROUPED),
    _row("olmo3", "Olmo3", _GROUPED | _LOCAL),
    _row("ministral3", "Ministral3", _WIDE),
    _row("phi3", "Phi3", _GROUPED),
    _row("starcoder2", "Starcoder2", _GROUPED),
    _row("nemotron", "Nemotron", _GROUPED | {"hidden_size": 32}),
    _row("apertus", "Apertus", _GROUPED),
    _row("arcee", "Arcee", _GROUPED),
    _row("seed_oss", "SeedOss", _WIDE),
    _row(
        "gpt_bigcode",
        "GPTBigCode",
        _GPT2 | {"multi_query": True},
    ),
    _row(
        "mpt",
        "Mpt",
        {
            "n_layers": 2,
            "n_heads": 4,
            "d_model": 16,
            "expansion_ratio": 2,
            "vocab_size": tiny.D_VOCAB,
            "max_seq_len": 32,
        },
    ),
    _row("vaultgemma", "VaultGemma", _WIDE | _LOCAL | {"query_pre_attn_scalar": 10}),
    _row("lfm2", "Lfm2", _GROUPED | {"layer_types": ["full_attention", "full_attention"]}),
    _row(
        "xglm",
        "XGLM",
        {
            "vocab_size": tiny.D_VOCAB,
            "max_position_embeddings": 32,
            "d_model": 16,
            "ffn_dim": 40,
            "num_layers": 2,
            "attention_heads": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
    ),
]

FAMILIES: dict[str, Architecture] = {row.name: row for row in _FAMILIES}
