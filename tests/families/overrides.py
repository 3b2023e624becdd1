"""What the rules of `sizes` cannot know: sizes that must fit together, and values that matter.

A multiplier of 1 or a layer kind that no default layer has would hide what a family can do.
"""

from __future__ import annotations

from typing import Any, Final

_HYBRID: Final = {"layer_types": ["linear_attention", "full_attention"]}
_TURNED_IN_THREE: Final = {
    "text_config": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    }
}
_GRANITE: Final = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}
_WIDER_IN_FULL: Final = {"per_layer_config": {"1": {"head_dim": 16}}}
_SOUND: Final = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "AfmoeForCausalLM": {"num_dense_layers": 1, "num_shared_experts": 1},
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "CohereForCausalLM": {"logit_scale": 0.25},
    "Cohere2ForCausalLM": {"logit_scale": 0.25},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "Emu3ForConditionalGeneration": {
        "vocabulary_map": {"<image>": 59, "<|extra_200|>": 58, "<|visual token 000000|>": 57},
        "vq_config": {"base_channels": 32, "codebook_size": 8, "hidden_size": 32},
    },
    "Ernie4_5_MoeForCausalLM": {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "FalconForCausalLM": {"bias": True},
    "FalconH1ForCausalLM": {
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.5,
        "mlp_multipliers": [0.7, 0.6],
        "key_multiplier": 0.4,
        "attention_out_multiplier": 0.8,
        "ssm_out_multiplier": 0.6,
    },
    "Gemma2ForCausalLM": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "Gemma4ForCausalLM": _WIDER_IN_FULL,
    "Gemma4ForConditionalGeneration": {"text_config": _WIDER_IN_FULL},
    "Gemma4UnifiedForConditionalGeneration": {"text_config": _WIDER_IN_FULL},
    "Glm4vForConditionalGeneration": _TURNED_IN_THREE,
    "Gemma3nForConditionalGeneration": {"text_config": {"layers": 4, "num_kv_shared_layers": 2}},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "layers": 2},
    "GraniteForCausalLM": _GRANITE,
    "GraniteMoeForCausalLM": _GRANITE,
    "GraniteMoeHybridForCausalLM": _GRANITE | _HYBRID,
    "HubertForCTC": _SOUND,
    "HubertModel": _SOUND,
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "JambaForCausalLM": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "Lfm2ForCausalLM": {
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8},
    "NemotronForCausalLM": {"num_key_value_heads": 2},
    "Qwen2_5_VLForConditionalGeneration": _TURNED_IN_THREE,
    "Qwen3VLForConditionalGeneration": _TURNED_IN_THREE,
    "Qwen3VLMoeForConditionalGeneration": _TURNED_IN_THREE,
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"]},
    "VaultGemmaForCausalLM": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "Wav2Vec2ForCTC": _SOUND,
    "Wav2Vec2ForPreTraining": _SOUND,
    "Wav2Vec2Model": _SOUND,
    "Zamba2ForCausalLM": {"attention_hidden_size": 64, "attention_head_dim": 16},
}
"""By the name of the class in transformers. `layers` is their number."""

VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "CohereForCausalLM, query and key norms": (
        "CohereForCausalLM",
        {"logit_scale": 0.25, "use_qk_norm": True},
    ),
    "FalconForCausalLM, ALiBi": (
        "FalconForCausalLM",
        {
            "alibi": True,
            "multi_query": False,
            "num_kv_heads": 4,
            "parallel_attn": False,
            "bias": True,
        },
    ),
    "Lfm2ForCausalLM, attention only": (
        "Lfm2ForCausalLM",
        {"layer_types": ["full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    ),
    "StableLmForCausalLM, parallel": (
        "StableLmForCausalLM",
        {"use_parallel_residual": True, "qk_layernorm": True},
    ),
}
"""Kinds of a family that differ in what is measured: the registered name and its settings."""

CLASSES: Final[dict[str, str]] = {
    "Gemma1ForCausalLM": "GemmaForCausalLM",
    "JetMoEForCausalLM": "JetMoeForCausalLM",
    "MPTForCausalLM": "MptForCausalLM",
    "NeoForCausalLM": "GPTNeoForCausalLM",
    "NeoXForCausalLM": "GPTNeoXForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
    "T5WithLMHeadModel": "T5ForConditionalGeneration",
}
"""Names of TransformerLens's registry whose class in transformers is called otherwise."""

_OLD: Final = "a format of checkpoints that TransformerLens converts; it has no model of its own"
NOT_MADE: Final[dict[str, str]] = {
    "GPT2LMHeadCustomModel": _OLD,
    "MinGPTForCausalLM": _OLD,
    "NanoGPTForCausalLM": _OLD,
    "NeelSoluOldForCausalLM": _OLD,
    "TransformerLensPretrain": "a module of the caller's own, wrapped by TransformerLens",
}
"""Registered names without a class in transformers or elsewhere, and what they are."""
