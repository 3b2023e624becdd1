"""The weights of blocks and of the unembedding, by standard names, however a model stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.adapters import Adapters
from visit_tl.model.block_parts import BlockParts, is_latent


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one block, float32, detached, without copies where possible.

    With adapters these are the effective weights (docs/maths.md, "Adapters").

    Attributes:
        W_Q: Queries, per query head.
        W_K: Keys, per K/V head.
        W_O: Output, per query head.
        b_O: Output bias; None where the model has none.
        W_in: MLP keys, one per column; None in attention-only models.
        W_out: MLP values, one per row; None in attention-only models.
        b_out: MLP output bias; None where the model has none.
    """

    W_Q: Float[Tensor, "query_head d_model d_key"]
    W_K: Float[Tensor, "kv_head d_model d_key"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"] | None
    W_in: Float[Tensor, "d_model d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"] | None
    b_out: Float[Tensor, " d_model"] | None


class WeightReader:
    """Reads the weights of a model of TransformerLens, those of adapters included.

    Args:
        model: The model.
        parts: The parts of every block.
        adapters: The adapters on its layers.

    Attributes:
        W_U: The unembedding, in the model's own dtype.
        b_U: Its bias, float32; None where the model has none.

    Raises:
        ModelError: the unembedding cannot be read.
    """

    def __init__(self, model: Any, parts: Sequence[BlockParts], adapters: Adapters) -> None:
        self._model = model
        self._parts = parts
        self._adapters = adapters
        # In its own dtype: a float32 copy for a large vocabulary would be the largest tensor in
        # memory.
        self.W_U: Float[Tensor, "d_model d_vocab"] = self._unembedding()
        self.b_U: Float[Tensor, " d_vocab"] | None = _nonzero(
            adapters.shown(model.unembed, "b_U", else_of=model)
        )

    def latent(self, layer: int) -> bool:
        """Whether the attention of a block is latent: W_Q, W_K and W_V depend on the state."""
        return self._parts[layer].attention and is_latent(self._model.blocks[layer].attn)

    def of_block(self, layer: int) -> LayerWeights:
        """The weights of one block.

        Raises:
            ModelError: one of them cannot be read.
        """
        block, where = self._model.blocks[layer], f"blocks.{layer}"
        mlp = block.mlp if self._parts[layer].mlp == "neurons" else None
        return LayerWeights(
            **self._attention(layer),
            W_in=None if mlp is None else self._weight(mlp, "W_in", where),
            W_out=None if mlp is None else self._weight(mlp, "W_out", where),
            b_out=None if mlp is None else _nonzero(self._adapters.shown(mlp, "b_out")),
        )

    def _attention(self, layer: int) -> dict[str, Any]:
        """W_Q, W_K, W_O and b_O of a block; of no heads where it has no attention."""
        cfg = self._model.cfg
        none = torch.zeros(0, int(cfg.d_model), int(cfg.d_head), device=self.W_U.device)
        if not self._parts[layer].attention:
            return {"W_Q": none, "W_K": none, "W_O": none.transpose(1, 2), "b_O": None}
        attn, where = self._model.blocks[layer].attn, f"blocks.{layer}"
        if self.latent(layer):
            # W_Q and W_K depend on the state: `components.stream_weights` has those of a trace.
            return {
                "W_Q": none,
                "W_K": none,
                "W_O": self.latent_output(layer).T.unflatten(0, (int(cfg.n_heads), -1)),
                "b_O": _nonzero(self._adapters.shown(attn.o, "bias")),
            }
        return {
            "W_Q": self._weight(attn, "W_Q", where),
            # HookedTransformer stores grouped keys in _W_K; its W_K repeats them per query head.
            "W_K": self._weight(attn, "_W_K" if hasattr(attn, "_W_K") else "W_K", where),
            "W_O": self._weight(attn, "W_O", where),
            "b_O": _nonzero(self._adapters.shown(attn, "b_O")),
        }

    def latent_output(self, layer: int) -> Float[Tensor, "d_model entries"]:
        """The output matrix of latent attention; its columns are the entries of all heads."""
        return self._weight(self._model.blocks[layer].attn.o, "weight", f"blocks.{layer}.attn.o")

    def attention_bias(self, layer: int, name: str) -> Float[Tensor, "head d_head"] | None:
        """The bias `b_Q` or `b_K` of one block, `b_K` by K/V head; None where it has none."""
        if self.latent(layer):
            return None
        attn = self._model.blocks[layer].attn
        # HookedTransformer stores that of grouped keys in _b_K, like _W_K.
        return _nonzero(
            self._adapters.shown(attn, f"_{name}" if hasattr(attn, f"_{name}") else name)
        )

    def values(self, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
        """W_V of one block, per K/V head, float32."""
        attn = self._model.blocks[layer].attn
        return self._weight(attn, "_W_V" if hasattr(attn, "_W_V") else "W_V", f"blocks.{layer}")

    def _unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        shown = self._adapters.shown(self._model.unembed, "W_U", else_of=self._model)
        weight = _readable(shown, self._model, "W_U", "the unembedding")
        # With an adapter the weight is computed in float32, but the lens uses the model's dtype.
        inside = self._adapters.inside(self._model.unembed)
        return weight.to(self._adapters.dtype) if inside else weight

    def _weight(self, module: Any, name: str, where: str) -> Tensor:
        return _readable(self._adapters.shown(module, name), module, name, where).float()


def _readable(weight: Any, module: Any, name: str, where: str) -> Tensor:
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ModelError(
            f"{where} has no readable {name} ({type(module).__name__} gives "
            f"{type(weight).__name__}); such a block cannot be split into heads and neurons"
        )
    return weight.detach()


def _nonzero(bias: Any) -> Tensor | None:
    """A bias in float32; None if it is all 0, as TransformerLens gives it for a missing bias."""
    if not isinstance(bias, Tensor) or not bool(bias.detach().any()):
        return None
    return bias.detach().float()
