"""Small models, built offline, the same on every machine, every bias and gain non-trivial."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import torch

D_VOCAB = 60


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


def native(seed: int = 0, **overrides: Any) -> Any:
    """TransformerLens's own small decoder as a bridge: 2 layers, LayerNorm, learned positions."""
    import transformer_lens.model_bridge.sources.native  # noqa: F401  (adds boot_native)
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    settings = {
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
    } | overrides
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**settings), tokenizer=tokenizer(), model_name="native"
    )
    randomise(model, seed)
    return model.eval()


def gpt2(seed: int = 0, **overrides: Any) -> Any:
    """A random GPT-2 as a raw bridge."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = {"n_layer": 2, "n_head": 4, "n_embd": 16, "vocab_size": D_VOCAB, "n_positions": 32}
    settings["n_inner"] = 40
    hf = GPT2LMHeadModel(GPT2Config(**(settings | overrides))).eval()
    randomise(hf, seed)
    return TransformerBridge.boot_transformers("gpt2", hf_model=hf, tokenizer=tokenizer())


def llama(seed: int = 0, **overrides: Any) -> Any:
    """A random Llama as a raw bridge: grouped queries, rotary, RMSNorm, gated MLP."""
    from transformer_lens.model_bridge import TransformerBridge
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
    return TransformerBridge.boot_transformers("llama", hf_model=hf, tokenizer=tokenizer())


def folded(model: Any) -> Any:
    """The same bridge in compatibility mode: norms folded, weights centred."""
    model.enable_compatibility_mode()
    return model


def hand_set() -> Any:
    """One block whose every number can be worked out on paper; see tests/test_by_hand.py."""
    model = native(
        d_model=4,
        d_head=2,
        n_heads=2,
        n_layers=1,
        d_mlp=2,
        d_vocab=4,
        n_ctx=8,
        act_fn="relu",
        normalization_type=None,
    )
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
