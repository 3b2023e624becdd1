"""Small models, built offline, the same on every machine, every bias and gain non-trivial.

They are made by what the installed TransformerLens has: bridges where it has `TransformerBridge`
(3.x, 4.x), else the same models as HookedTransformer (2.x). The `hooked_*` makers are of the old
class wherever it exists (2.x, 3.x).
"""

from __future__ import annotations

import functools
import importlib.metadata
import tempfile
import warnings
import zlib
from typing import Any

import numpy as np
import torch

D_VOCAB = 60

RELEASE = tuple(int(n) for n in importlib.metadata.version("transformer-lens").split(".")[:2])
HAS_BRIDGE = RELEASE >= (3,)
HAS_HOOKED = RELEASE < (4,)


@functools.cache
def tokenizer() -> Any:
    """A byte-level BPE of 60 tokens: BOS, a..j, ' a'..' e', ' ', and one stray byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    letters = list("abcdefghij")
    pieces = ["<bos>", *letters, "\u0120", *(f"\u0120{x}" for x in "abcde"), "\u00e2"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    vocab |= {f"<x{i}>": i for i in range(len(pieces), D_VOCAB)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[("\u0120", x) for x in "abcde"]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )
    # TransformerLens opens a tokenizer again by its folder, to make it prepend BOS.
    folder = tempfile.mkdtemp(prefix="visit-tl-tokenizer-")
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def randomise(model: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Every parameter random, so that no bias or gain is trivially zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def numpy_weights(hf: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Weights by the name of the parameter, from the one stream that NumPy never changes.

    So the same model is made whatever release of torch, NumPy or transformers is installed.
    """
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            stream = np.random.RandomState(zlib.crc32(name.encode()))
            parameter.copy_(torch.tensor(stream.standard_normal(tuple(parameter.shape)) * scale))
    return hf


# --- models of Hugging Face, to be opened by either class -------------------------------------


def hf_gpt2(seed: int = 0, **overrides: Any) -> Any:
    """A random GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = {"n_layer": 2, "n_head": 4, "n_embd": 16, "vocab_size": D_VOCAB, "n_positions": 32}
    settings["n_inner"] = 40
    hf = GPT2LMHeadModel(GPT2Config(**(settings | overrides))).eval()
    randomise(hf, seed)
    return hf


def hf_llama(seed: int = 0, **overrides: Any) -> Any:
    """A random Llama: grouped queries, rotary, RMSNorm, gated MLP."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 40,
        "vocab_size": D_VOCAB,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    hf = LlamaForCausalLM(LlamaConfig(**(settings | overrides))).eval()
    randomise(hf, seed)
    return hf


# --- TransformerBridge -------------------------------------------------------------------------


def bridged(hf: Any) -> Any:
    """A model of Hugging Face as a raw bridge, named by its type."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        hf.config.model_type, hf_model=hf, tokenizer=tokenizer()
    )


# --- HookedTransformer -------------------------------------------------------------------------


def hooked(seed: int = 0, **overrides: Any) -> Any:
    """A random HookedTransformer of the words of its configuration; by default like `native`."""
    model = _hooked_transformer(**(_NATIVE | {"model_name": "native"} | overrides))
    randomise(model, seed)
    return model


def hooked_from(hf: Any, *, fold: bool = False) -> Any:
    """A model of Hugging Face as a HookedTransformer, weights processed or as they are.

    `from_pretrained` would do the same, but only with the network.
    """
    from transformer_lens.pretrained import weight_conversions

    settings = {"gpt2": _hooked_gpt2, "llama": _hooked_llama}[hf.config.model_type](hf.config)
    model = _hooked_transformer(**settings, model_name=hf.config.model_type)
    convert = getattr(weight_conversions, f"convert_{hf.config.model_type}_weights")
    weights = {name: tensor.detach().clone() for name, tensor in convert(hf, model.cfg).items()}
    model.load_and_process_state_dict(
        weights,
        fold_ln=fold,
        # An RMSNorm does not ignore the mean, so from_pretrained does not centre for it either.
        center_writing_weights=fold and settings["normalization_type"] == "LN",
        center_unembed=fold,
        fold_value_biases=fold,
    )
    return model


def _hooked_transformer(**settings: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        # 3.x says that 4.x will not have the class, which is why this suite runs on all of them.
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**settings), tokenizer=tokenizer())
    return model.eval()


def _hooked_gpt2(config: Any) -> dict[str, Any]:
    return {
        "n_layers": config.n_layer,
        "d_model": config.n_embd,
        "n_heads": config.n_head,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner,
        "d_vocab": config.vocab_size,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "act_fn": "gelu_new",
        "normalization_type": "LN",
    }


def _hooked_llama(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_head": d_head,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "act_fn": "silu",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "rotary_adjacent_pairs": False,
        "final_rms": True,
    }


# --- the makers of the tests, by what is installed ---------------------------------------------

_NATIVE: dict[str, Any] = {
    "d_model": 16,
    "d_head": 4,
    "n_heads": 4,
    "n_layers": 2,
    "n_ctx": 32,
    "d_vocab": D_VOCAB,
    "d_mlp": 40,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "seed": 0,
}


def native(seed: int = 0, **overrides: Any) -> Any:
    """TransformerLens's own small decoder: 2 layers, LayerNorm, learned positions."""
    if not HAS_BRIDGE:
        return hooked(seed, **overrides)
    import transformer_lens.model_bridge.sources.native  # noqa: F401  (adds boot_native)
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**(_NATIVE | overrides)), tokenizer=tokenizer(), model_name="native"
    )
    randomise(model, seed)
    return model.eval()


def gpt2(seed: int = 0, **overrides: Any) -> Any:
    """A random GPT-2, its weights as they are."""
    hf = hf_gpt2(seed, **overrides)
    return bridged(hf) if HAS_BRIDGE else hooked_from(hf)


def llama(seed: int = 0, **overrides: Any) -> Any:
    """A random Llama, its weights as they are."""
    hf = hf_llama(seed, **overrides)
    return bridged(hf) if HAS_BRIDGE else hooked_from(hf)


def gpt2_folded() -> Any:
    """The same GPT-2, its norms folded and its weights centred."""
    return folded(gpt2()) if HAS_BRIDGE else hooked_from(hf_gpt2(), fold=True)


def llama_folded() -> Any:
    """The same Llama, its norms folded."""
    return folded(llama()) if HAS_BRIDGE else hooked_from(hf_llama(), fold=True)


def folded(model: Any) -> Any:
    """The same bridge in compatibility mode: norms folded, weights centred."""
    model.enable_compatibility_mode()
    return model


def hooked_parallel() -> Any:
    """Like GPT-J: attention and MLP side by side, half of each head rotary, adjacent pairs."""
    return hooked(
        parallel_attn_mlp=True,
        positional_embedding_type="rotary",
        rotary_dim=2,
        rotary_adjacent_pairs=True,
        model_name="parallel",
    )


_HAND_SET: dict[str, Any] = {
    "d_model": 4,
    "d_head": 2,
    "n_heads": 2,
    "n_layers": 1,
    "d_mlp": 2,
    "d_vocab": 4,
    "n_ctx": 8,
    "act_fn": "relu",
    "normalization_type": None,
}


def hand_set() -> Any:
    """One block whose every number can be worked out on paper; see tests/test_by_hand.py."""
    if not HAS_BRIDGE:
        return hooked_hand_set()
    model = native(**_HAND_SET)
    model.tokenizer = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
        model.embed.original_component.weight.copy_(torch.eye(4))
        model.unembed.original_component.weight.copy_(torch.eye(4))
        # Head 0 is dimensions 0, 1 of the heads; head 1 is dimensions 2, 3. Linear is [out, in].
        root2 = 2**0.5
        attn.q.original_component.weight[0, 2] = torch.log(torch.tensor(2.0)) * root2
        attn.k.original_component.weight[0, 0] = 1.0
        attn.v.original_component.weight[0, 0] = 3.0
        attn.v.original_component.weight[1, 1] = 3.0
        attn.v.original_component.weight[2, 2] = 1.0
        attn.o.original_component.weight[3, 0] = 1.0
        attn.o.original_component.weight[1, 1] = 2.0
        attn.o.original_component.weight[0, 2] = -1.0
        attn.o.original_component.weight[2, 3] = 1.0
        attn.o.original_component.bias[2] = 0.5
        getattr(mlp, "in").original_component.weight[0, 1] = 1.0
        getattr(mlp, "in").original_component.weight[1, 3] = -1.0
        mlp.out.original_component.weight[3, 0] = 2.0
        mlp.out.original_component.weight[0, 1] = 1.0
        mlp.out.original_component.bias[3] = -1.0
    return model


def hooked_hand_set() -> Any:
    """The same block as a HookedTransformer, whose weights are per head and [in, out]."""
    model = hooked(**_HAND_SET)
    model.tokenizer = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
        model.embed.W_E.copy_(torch.eye(4))
        model.unembed.W_U.copy_(torch.eye(4))
        attn.W_Q[0, 2, 0] = torch.log(torch.tensor(2.0)) * 2**0.5
        attn.W_K[0, 0, 0] = 1.0
        attn.W_V[0, 0, 0] = 3.0
        attn.W_V[0, 1, 1] = 3.0
        attn.W_V[1, 2, 0] = 1.0
        attn.W_O[0, 0, 3] = 1.0
        attn.W_O[0, 1, 1] = 2.0
        attn.W_O[1, 0, 0] = -1.0
        attn.W_O[1, 1, 2] = 1.0
        attn.b_O[2] = 0.5
        mlp.W_in[1, 0] = 1.0
        mlp.W_in[3, 1] = -1.0
        mlp.W_out[0, 3] = 2.0
        mlp.W_out[1, 0] = 1.0
        mlp.b_out[3] = -1.0
    return model
