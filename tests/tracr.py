"""Models that tracr compiled from RASP programs, so that their circuits are known exactly.

The weights, and what every layer gave for one input, are in tests/data/tracr as NPZ (tracr 1.0.0;
Lindner et al., 2023, arXiv 2301.05062). They are opened by what the installed TransformerLens has.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import tiny
from visit_tl import ModelView

FOLDER = Path(__file__).parent / "data" / "tracr"


class BothWays(ModelView):
    """A view that also takes attention to later positions, which patching has nothing against."""

    def _require_decoder(self) -> None:
        assert self.model.cfg.attention_dir == "bidirectional"


@dataclass(frozen=True)
class Compiled:
    """One compiled program.

    Attributes:
        name: Of the program.
        view: The model.
        ids: The token id of each input symbol.
        example: The input of the stored layer outputs, as ids.
        outputs: What the attention and the MLP of each block added, in turn, `[1, pos, d_model]`.
        expected: The program's output on the example.
        answers: The output symbols in the order of the logits; None for a number.
    """

    name: str
    view: ModelView
    ids: dict[str, int]
    example: list[int]
    outputs: list[torch.Tensor]
    expected: list[str]
    answers: list[str] | None

    def inputs(self, length: int) -> list[list[int]]:
        """Every input of that many symbols after BOS."""
        symbols = [i for name, i in self.ids.items() if name not in ("BOS", "compiler_pad")]
        bos = self.ids["BOS"]
        return [[bos, *rest] for rest in itertools.product(symbols, repeat=length)]


def compiled(name: str) -> Compiled:
    """Open `reverse`, `xproportion`, `hist` or `sort`."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    meta = json.loads(str(arrays["meta"]))
    unembed, answers = _unembed(meta)
    model = _bridge(arrays, meta, unembed) if tiny.HAS_BRIDGE else _hooked(arrays, meta, unembed)
    n = 2 * meta["num_layers"]
    return Compiled(
        name=name,
        view=BothWays(model),
        ids=meta["input_encoding"],
        example=[meta["input_encoding"][symbol] for symbol in meta["example_in"]],
        outputs=[torch.tensor(arrays[f"__layer_output_{i}"]) for i in range(n)],
        expected=meta["example_out"],
        answers=answers,
    )


def _unembed(meta: dict[str, Any]) -> tuple[np.ndarray, list[str] | None]:
    """The rows of the residual stream that hold the output, found by their labels.

    They do not come first in general, so an identity matrix would read something else.
    """
    labels, encoding = meta["residual_labels"], meta["output_encoding"]
    if encoding is None:
        # A number lives in one row without a value; what else has none are steps on the way.
        rows = [labels.index("frac_prevs_7")]
        return np.eye(len(labels), dtype=np.float32)[:, rows], None
    by_label: dict[str, set[str]] = {}
    for label in labels:
        prefix, colon, value = label.rpartition(":")
        if colon:
            by_label.setdefault(prefix, set()).add(value)
    # The input has its own labels, and may have the same values.
    (output,) = (p for p, v in by_label.items() if v == set(encoding) and p != "tokens")
    rows = [labels.index(f"{output}:{value}") for value in encoding]
    return np.eye(len(labels), dtype=np.float32)[:, rows], list(encoding)


def _settings(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> dict[str, Any]:
    vocab, d_model = arrays["token_embed|embeddings"].shape
    return {
        "n_layers": meta["num_layers"],
        "n_heads": meta["num_heads"],
        "d_head": meta["key_size"],
        "d_mlp": meta["mlp_hidden_size"],
        "d_model": d_model,
        "d_vocab": vocab,
        "n_ctx": len(arrays["pos_embed|embeddings"]),
        "act_fn": "relu",
        "attention_dir": "bidirectional",
        "normalization_type": None,
    }


def _layers(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Any:
    for layer in range(meta["num_layers"]):
        prefix = f"transformer/layer_{layer}"
        names = ("attn/query", "attn/key", "attn/value", "attn/linear")
        mlp = ("mlp/linear_1", "mlp/linear_2")
        yield (
            layer,
            [
                (torch.tensor(arrays[f"{prefix}/{n}|w"]), torch.tensor(arrays[f"{prefix}/{n}|b"]))
                for n in (*names, *mlp)
            ],
        )


def _bridge(arrays: dict[str, np.ndarray], meta: dict[str, Any], unembed: np.ndarray) -> Any:
    import transformer_lens.model_bridge.sources.native  # noqa: F401  (adds boot_native)
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(**_settings(arrays, meta), d_vocab_out=unembed.shape[1])
    model = TransformerBridge.boot_native(config, model_name=f"tracr-{len(arrays)}")
    with torch.no_grad():
        model.embed.original_component.weight.copy_(torch.tensor(arrays["token_embed|embeddings"]))
        model.pos_embed.original_component.weight.copy_(
            torch.tensor(arrays["pos_embed|embeddings"])
        )
        model.unembed.original_component.weight.copy_(torch.tensor(unembed.T))
        if (bias := model.unembed.original_component.bias) is not None:
            bias.zero_()
        for layer, matrices in _layers(arrays, meta):
            attn, mlp = model.blocks[layer].attn, model.blocks[layer].mlp
            modules = (attn.q, attn.k, attn.v, attn.o, getattr(mlp, "in"), mlp.out)
            for module, (w, b) in zip(modules, matrices, strict=True):
                module.original_component.weight.copy_(w.T)  # Linear is [out, in]
                module.original_component.bias.copy_(b)
    return model.eval()


def _hooked(arrays: dict[str, np.ndarray], meta: dict[str, Any], unembed: np.ndarray) -> Any:
    settings = _settings(arrays, meta) | {"d_vocab_out": unembed.shape[1]}
    model = tiny.hooked(**(settings | {"model_name": "tracr"}))
    model.tokenizer = None
    heads, width = meta["num_heads"], meta["key_size"]
    weights = {
        "embed.W_E": torch.tensor(arrays["token_embed|embeddings"]),
        "pos_embed.W_pos": torch.tensor(arrays["pos_embed|embeddings"]),
        "unembed.W_U": torch.tensor(unembed),
        "unembed.b_U": torch.zeros(unembed.shape[1]),
    }
    for layer, (q, k, v, o, w_in, w_out) in _layers(arrays, meta):
        block = f"blocks.{layer}"
        for name, (w, b) in zip("QKV", (q, k, v), strict=True):
            weights[f"{block}.attn.W_{name}"] = w.unflatten(1, (heads, width)).transpose(0, 1)
            weights[f"{block}.attn.b_{name}"] = b.unflatten(0, (heads, width))
        weights[f"{block}.attn.W_O"] = o[0].unflatten(0, (heads, width))
        weights[f"{block}.attn.b_O"] = o[1]
        for name, (w, b) in (("in", w_in), ("out", w_out)):
            weights[f"{block}.mlp.W_{name}"], weights[f"{block}.mlp.b_{name}"] = w, b
    with torch.no_grad():
        own = dict(model.named_parameters())
        assert set(weights) == set(own)
        for name, tensor in weights.items():
            assert own[name].shape == tensor.shape
            own[name].copy_(tensor)
    return model
