"""Facts about a model, supported or refused, from its configuration and its modules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from visit_tl.errors import VisitError
from visit_tl.graph.descriptions import blocks_words
from visit_tl.model.block_parts import BlockParts
from visit_tl.model.norm import norms_outputs, read_norm

UNKNOWN: Final = "unknown"
_SNAPSHOT: Final = re.compile(r"/snapshots/([0-9a-f]{40})/?$")
"""The end of the path of a model in the cache of Hugging Face."""


def facts(model: Any) -> dict[str, Any]:
    """The model's name, size, norms, positions, attention, MLP, order of sub-blocks and dtype.

    Returns:
        The facts under the names of `CheckReport`'s fields; a fact that cannot be found is
        `unknown` (None for a number).
    """
    cfg = getattr(model, "cfg", None)
    blocks = list(getattr(model, "blocks", None) or ())
    parallel = getattr(cfg, "parallel_attn_mlp", None)
    order = UNKNOWN if parallel is None else "parallel" if parallel else "sequential"
    attn_only = bool(getattr(cfg, "attn_only", False))
    return {
        "model": str(getattr(cfg, "model_name", None) or type(model).__name__),
        "n_layers": len(blocks) or None,
        "norm": _norms(cfg, blocks),
        "positions": _positions(cfg),
        "attention": _attention(cfg, blocks),
        "mlp": "none" if attn_only else _mlp(cfg, blocks),
        "blocks": "attention only" if attn_only else order,
        "dtype": _dtype(model),
    }


def revision(model: Any) -> str | None:
    """The commit of the Hugging Face repository that a model's weights are of; None if not known.

    transformers 4 notes it where it reads a model from the hub or its cache; 5.20 and later do not.
    The folders of the cache are named by it. A HookedTransformer has only a copy of the weights.
    """
    config = getattr(getattr(model, "original_model", None), "config", None)
    noted = getattr(config, "_commit_hash", None)
    if isinstance(noted, str) and noted:
        return noted
    folder = _SNAPSHOT.search(str(getattr(config, "_name_or_path", None) or "").replace("\\", "/"))
    return folder[1] if folder is not None else None


def facts_of_parts(known: dict[str, Any], parts: Sequence[BlockParts]) -> dict[str, Any]:
    """The same facts, where blocks are not all attention and one MLP.

    Args:
        known: What `facts` gave.
        parts: The parts of every block.
    """
    n, told = len(parts), dict(known)
    attend = sum(part.attention for part in parts)
    if attend < n:
        told["attention"] = f"{known['attention']}, in {attend} of {n} blocks" if attend else "none"
    mixtures = [part.mixture.words for part in parts if part.mixture is not None]
    dense = sum(part.mlp == "neurons" for part in parts)
    words = [f"mixture of {mixture}" for mixture in dict.fromkeys(mixtures)]
    if mixtures:
        more = f" in {len(mixtures)} of {n} blocks" * (len(mixtures) < n)
        plain = f"; one MLP in {dense}" if dense else ""
        told["mlp"] = "; ".join(words) + more + plain
    elif not dense:
        closed = any(part.mlp == "closed" for part in parts)
        told["mlp"] = "not opened" if closed else "none"
    return told


def unopened(parts: Sequence[BlockParts]) -> str:
    """The parts of blocks that were not opened, each with its blocks; empty if there are none."""
    found: dict[str, list[int]] = {}
    for layer, part in enumerate(parts):
        for words in (part.opaque_words, part.mlp_words):
            if words is not None:
                found.setdefault(words, []).append(layer)
    return "; ".join(f"{what} in {blocks_words(at)}" for what, at in found.items())


def _norms(cfg: Any, blocks: list[Any]) -> str:
    """The norms, such as `RMS before and after each sub-block; query and key norms`."""
    if not blocks:
        return str(getattr(cfg, "normalization_type", None) or UNKNOWN)
    before, after = _norm(blocks[0], "ln1"), _norm(blocks[0], "ln1_post")
    if norms_outputs(blocks[0]):
        before, after = "none", before
    kind = before if before != "none" else after
    where = [
        word
        for word, found in (("before", before), ("after", after))
        if found not in ("none", UNKNOWN)
    ]
    text = f"{kind} {' and '.join(where)} each sub-block" if where else kind
    queries = getattr(getattr(blocks[0], "attn", None), "q_norm", None)
    return text if queries is None else f"{text}; query and key norms"


def _norm(block: Any, name: str) -> str:
    try:
        return read_norm(getattr(block, name, None), 0.0).kind
    except VisitError:
        return UNKNOWN


def _positions(cfg: Any) -> str:
    kind = getattr(cfg, "positional_embedding_type", None)
    return {"standard": "learned", None: UNKNOWN}.get(kind, str(kind))


def _attention(cfg: Any, blocks: list[Any]) -> str:
    """The attention, such as `32 heads, 8 K/V heads, 13 of 26 blocks local (window 4096)`."""
    heads = getattr(cfg, "n_heads", None)
    if heads is None:
        return UNKNOWN
    shared = getattr(cfg, "n_key_value_heads", None) or heads
    text = f"{heads} heads, {shared} K/V heads"
    windows = [_window(cfg, block, layer) for layer, block in enumerate(blocks)]
    local = [window for window in windows if window is not None]
    if not local:
        return text
    sizes = "/".join(str(size) for size in sorted(set(local)))
    return f"{text}, {len(local)} of {len(blocks)} blocks local (window {sizes})"


def _window(cfg: Any, block: Any, layer: int) -> int | None:
    """The attention window of a block; None if it is not limited, or not stated anywhere."""
    attn = getattr(block, "attn", None)
    if getattr(attn, "attn_type", None) == "local":
        return getattr(cfg, "window_size", None)
    inner = getattr(attn, "original_component", None)
    own = getattr(inner, "sliding_window", None)
    if isinstance(own, int):
        return own
    theirs = getattr(inner, "config", None)
    kinds = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    size = getattr(theirs, "sliding_window", None) or getattr(theirs, "window_size", None)
    if not isinstance(size, int):
        return None
    if kinds is None:
        return size if getattr(theirs, "use_sliding_window", True) else None
    return size if layer < len(kinds) and kinds[layer] in ("sliding_attention", "local") else None


def _mlp(cfg: Any, blocks: list[Any]) -> str:
    """The MLP, such as `gated, silu`."""
    experts = getattr(cfg, "num_experts", None)
    if experts:
        return f"mixture of {experts} experts"
    gated = getattr(cfg, "gated_mlp", None)
    if gated is None:
        return UNKNOWN
    kind = "gated" if gated else "plain"
    activation = _activation(cfg, getattr(blocks[0], "mlp", None) if blocks else None)
    return kind if activation is None else f"{kind}, {activation}"


def _activation(cfg: Any, mlp: Any) -> str | None:
    """The activation's name, from the module if possible.

    The configuration may be wrong: `cfg.act_fn` is relu for BLOOM and Falcon, which use GELU.
    """
    inner = getattr(mlp, "original_component", None)
    for name in ("act_fn", "activation_fn", "act", "gelu_impl", "activation"):
        found = getattr(inner, name, None)
        if callable(found):
            plain = getattr(found, "__name__", None) or type(found).__name__
            return plain.removesuffix("Activation").removesuffix("Bridge") or None
    named = getattr(cfg, "act_fn", None)
    return named if isinstance(named, str) else None


def _dtype(model: Any) -> str:
    parameters = getattr(model, "parameters", None)
    if not callable(parameters):
        return UNKNOWN
    found = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    return ", ".join(sorted(found)) or UNKNOWN
