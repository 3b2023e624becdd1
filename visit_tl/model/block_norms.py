"""The norms of blocks by standard names, wherever a model keeps them."""

from __future__ import annotations

from typing import Any

import torch

from visit_tl.model.norm import Norm, is_norm, norm_without_gain, norms_outputs, read_norm


class NormReader:
    """Reads the norms of a model of TransformerLens.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._blocks = model.blocks
        self._cfg = model.cfg

    def read(self, module: Any) -> Norm:
        """A norm from its module, as `visit_tl.model.norm.read_norm` reads it."""
        offset = bool(getattr(self._cfg, "rmsnorm_uses_offset", False))
        return read_norm(module, float(self._cfg.eps), offset)

    def of_block(self, layer: int, name: str) -> Norm:
        """`ln1`, `ln2`, `ln1_post` or `ln2_post` of one block, as its module is."""
        block = self._blocks[layer]
        if norms_outputs(block):
            name = {"ln1_post": "ln1", "ln2_post": "ln2"}.get(name, "")
        return self.read(getattr(block, name, None))

    def of_queries_or_keys(self, layer: int, name: str) -> Norm | None:
        """`q_norm` or `k_norm` of one block; None if it has none."""
        attn = getattr(self._blocks[layer], "attn", None)
        module = getattr(attn, name, None)
        if module is not None:
            return self.read(module)
        inner = getattr(attn, "original_component", None)
        return norm_without_gain(getattr(inner, "qk_norm", None), int(self._cfg.d_head))

    def before_output(self, layer: int) -> Norm | None:
        """The norm of all heads of one block, side by side, before W_O (BitNet); None if none."""
        attn = getattr(self._blocks[layer], "attn", None)
        inner = getattr(attn, "original_component", None)
        width = int(self._cfg.n_heads) * int(self._cfg.d_head)
        for part in inner.children() if isinstance(inner, torch.nn.Module) else ():
            # Norms of queries and keys have bridges of their own.
            if is_norm(part) and not hasattr(part, "original_component"):
                norm = self.read(part)
                if norm.weight is not None and norm.weight.numel() == width:
                    return norm
        return None
