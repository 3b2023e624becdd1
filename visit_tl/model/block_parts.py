"""What the blocks of a model are made of, where they are not all attention and MLP.

A block of attention and MLP is known by its names. Any other one is watched in one short run: what
its parts put out must sum to what it adds to the residual stream. A part that is neither attention
nor MLP, such as a state space model or a convolution, becomes one opaque part; so does the whole of
a step whose parts do not sum exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from visit_tl.errors import ModelError
from visit_tl.model.expert_weights import inner_module
from visit_tl.model.experts import Mixture, is_mixture
from visit_tl.model.standing_hooks import on_modules

MlpKind = Literal["neurons", "experts", "closed", "none"]

_ATTENTION: Final = ("hook_q", "hook_k", "hook_v", "hook_pattern", "hook_z")
_NORMS: Final = ("norm", "ln", "rotary", "hook", "dropout", "pos_embed")
_TOKENS: Final = 8
_ALLOWED: Final = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
_ALLOWED_FULL: Final = 1e-4


@dataclass(frozen=True)
class BlockParts:
    """What one block is made of.

    Attributes:
        attention: Whether it has attention that can be taken apart into heads.
        mlp: Whether its MLP has neurons, is a mixture of experts, was not opened, or is not there.
        mlp_out: The hook of what the MLP adds, within the block; None where it has no MLP.
        opaque: The hook of an opaque part, within the block, or `difference` where only the states
            around it are known; None where there is no such part.
        between: Whether it has a state between attention (or what takes its place) and MLP.
        opaque_words: The name and class of the opaque part, and why it was not opened.
        mlp_words: The same of an MLP that was not opened.
        mlp_scale: What the block multiplies the output of a mixture by before adding it (Granite).
        mixture: Its mixture of experts.
    """

    attention: bool = True
    mlp: MlpKind = "neurons"
    mlp_out: str | None = "hook_mlp_out"
    opaque: str | None = None
    between: bool = True
    opaque_words: str | None = None
    mlp_words: str | None = None
    mlp_scale: float = 1.0
    mixture: Mixture | None = field(default=None, repr=False, compare=False)


_KNOWN: WeakKeyDictionary[Any, tuple[BlockParts, ...]] = WeakKeyDictionary()
"""The parts of models that had to be watched. Weights may change later; parts do not."""


def parts_of(model: Any, name: str) -> tuple[BlockParts, ...]:
    """The parts of every block.

    Args:
        model: The model of TransformerLens.
        name: Its name, for errors.

    Raises:
        ModelError: a block has no part whose output is known, not even by its states.
    """
    cfg = model.cfg
    attn_only = bool(getattr(cfg, "attn_only", False))
    parallel = bool(getattr(cfg, "parallel_attn_mlp", False))
    if all(_plain(block, attn_only) for block in model.blocks):
        one = BlockParts(
            mlp="none" if attn_only else "neurons",
            mlp_out=None if attn_only else "hook_mlp_out",
            between=not (parallel or attn_only),
        )
        return (one,) * len(model.blocks)
    if model not in _KNOWN:
        _KNOWN[model] = _Watched(model, name).parts()
    return _KNOWN[model]


def is_latent(attn: Any) -> bool:
    """Whether keys and values are made from one compressed state (DeepSeek, Youtu)."""
    inner = getattr(attn, "original_component", None)
    return hasattr(inner, "kv_a_proj_with_mqa") and hasattr(inner, "kv_b_proj")


def _plain(block: Any, attn_only: bool) -> bool:
    """Whether a block is attention and MLP and nothing else."""
    has = hasattr(block, "attn") and (attn_only or hasattr(block, "mlp"))
    return has and not _others(block) and not is_mixture(getattr(block, "mlp", None))


def _others(block: Any) -> list[str]:
    """The names of the parts of a block that are neither attention, MLP nor norms."""
    return [
        name
        for name, part in block.named_children()
        if name not in ("attn", "mlp", "_original_component")
        and hasattr(part, "hook_out")
        and not any(word in f"{name} {type(part).__name__}".lower() for word in _NORMS)
        and not isinstance(inner_module(part), nn.Linear)
    ]


class _Watched:
    """One short run of a model, in which its blocks are watched."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._seen: dict[str, Tensor] = {}
        size, n = int(model.cfg.d_vocab), min(_TOKENS, int(model.cfg.n_ctx))
        ids = [(2 * i + 1) * size // (2 * n) for i in range(n)]
        tokens = torch.tensor([ids], device=next(model.parameters()).device)
        wanted = [w for i in range(len(model.blocks)) for w in self._wanted(i)]
        try:
            with torch.no_grad():
                model.run_with_hooks(tokens, fwd_hooks=[(w, _keep(self._seen, w)) for w in wanted])
        except Exception as error:  # the model's own code may fail in any way
            if on_modules(model.modules(), ours=False):
                raise  # it may be the caller's own hook that failed
            raise ModelError(
                f"{name} cannot be run by TransformerLens, so nothing is known of its blocks: "
                f"{type(error).__name__}: {error}"
            ) from error

    def parts(self) -> tuple[BlockParts, ...]:
        """The parts of every block."""
        return tuple(self._block(i) for i in range(len(self._model.blocks)))

    def _wanted(self, layer: int) -> list[str]:
        block = self._model.blocks[layer]
        inside = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"]
        inside += ["hook_attn_out", "hook_mlp_out", "mlp.hook_in", "mlp.hook_out"]
        inside += [f"attn.{name}" for name in _ATTENTION]
        inside += [f"{name}.hook_out" for name in _others(block)]
        mixture = self._mixture(layer)
        known = self._model.hook_dict
        found = [w for name in inside if (w := f"blocks.{layer}.{name}") in known]
        extra = [] if mixture is None or mixture.hook is None else [mixture.hook]
        return [*found, *(name for name in extra if name in known)]

    def _mixture(self, layer: int) -> Mixture | None:
        mlp = getattr(self._model.blocks[layer], "mlp", None)
        if not is_mixture(mlp):
            return None
        cfg = self._model.cfg
        names = ("num_experts_per_tok", "experts_per_token", "moe_k", "top_k")
        theirs = getattr(getattr(self._model, "original_model", None), "config", None)
        found = (getattr(c, name, None) for name in names for c in (cfg, theirs))
        top_k = next((k for k in found if isinstance(k, int)), None)
        return Mixture(f"blocks.{layer}.mlp", mlp, top_k)

    def _at(self, layer: int, name: str) -> Tensor | None:
        return self._seen.get(f"blocks.{layer}.{name}")

    def _block(self, layer: int) -> BlockParts:
        block = self._model.blocks[layer]
        pre, post = self._at(layer, "hook_resid_pre"), self._at(layer, "hook_resid_post")
        if pre is None or post is None:
            raise ModelError(
                f"blocks.{layer} of {self._name} ({type(block).__name__}) shows no residual stream "
                f"before and after it, so not even what it adds is known"
            )
        mid = self._at(layer, "hook_resid_mid")
        writers = {
            name: out
            for name in (
                "hook_attn_out",
                "hook_mlp_out",
                *(f"{n}.hook_out" for n in _others(block)),
            )
            if (out := self._at(layer, name)) is not None and out.shape == pre.shape
        }
        if mid is None:
            whole = self._sum(writers, pre, post)
            first = whole
            last: tuple[str, ...] | None = ()
            if whole is not None and "hook_mlp_out" in whole:
                first, last = tuple(n for n in whole if n != "hook_mlp_out"), ("hook_mlp_out",)
        else:
            first = self._sum({n: x for n, x in writers.items() if n != "hook_mlp_out"}, pre, mid)
            left = {n: x for n, x in writers.items() if n not in (first or ())}
            last = self._sum({n: x for n, x in left.items() if n != "hook_attn_out"}, mid, post)
        heads = first is not None and "hook_attn_out" in first and not self._no_heads(layer)
        beside = () if mid is None else last or ()
        opaque, words = self._opaque(layer, first, heads, beside)
        return BlockParts(
            attention=heads,
            opaque=opaque,
            opaque_words=words,
            between=mid is not None,
            **self._mlp(layer, last, mid is not None),
        )

    def _sum(
        self, writers: Mapping[str, Tensor], before: Tensor, after: Tensor
    ) -> tuple[str, ...] | None:
        """The writers whose sum is what a step adds; None if no choice of them is."""
        added = after.float() - before.float()
        allowed = _ALLOWED.get(after.dtype, _ALLOWED_FULL) * after.float().norm()
        for count in range(len(writers), -1, -1):
            for names in combinations(writers, count):
                total = sum((writers[name].float() for name in names), torch.zeros_like(added))
                if bool((total - added).norm() <= allowed):
                    return names
        return None

    def _no_heads(self, layer: int) -> str | None:
        """Why the attention does not come apart into heads; None if it does."""
        q, _, values, pattern, z = (self._at(layer, f"attn.{name}") for name in _ATTENTION)
        if q is None or values is None or pattern is None or z is None:
            return "no hooks of its heads fired"
        heads, d_head = int(self._model.cfg.n_heads), int(self._model.cfg.d_head)
        if is_latent(getattr(self._model.blocks[layer], "attn", None)):
            # Shown by head first, and wider than z.
            values = values.transpose(1, 2)
            q = z = z.flatten(-2).unflatten(-1, (heads, -1))
            d_head = z.shape[-1]
        if pattern.shape[1] != heads or q.shape[-2:] != (heads, d_head) or z.shape != q.shape:
            return "its queries are not one vector for each head"
        if values.ndim != 4 or heads % values.shape[2]:
            return "its values are not one vector for each head"
        each = values.float().repeat_interleave(heads // values.shape[2], dim=2)
        summed = torch.einsum("bhqk,bkhd->bqhd", pattern.float(), each)
        off = float((summed - z.float()).norm() / z.float().norm().clamp_min(1e-12))
        allowed = _ALLOWED.get(z.dtype, _ALLOWED_FULL)
        if off <= allowed:
            return None
        return f"memory values x attention = head is off by {off:.2g}, as with a gate of the output"

    def _opaque(
        self, layer: int, first: tuple[str, ...] | None, heads: bool, after: tuple[str, ...]
    ) -> tuple[str | None, str | None]:
        """The hook of the part that is not opened, and words for it."""
        block = self._model.blocks[layer]
        if first is None:
            names = [n for n in ("attn", *_others(block)) if hasattr(block, n)]
            names = [n for n in names if f"{n}.hook_out" not in after]
            if not after and hasattr(block, "mlp"):
                names.append("mlp")
            named = " and ".join(self._called(block, n) for n in names)
            if not names:
                return (
                    "difference",
                    f"the block ({type(inner_module(block)).__name__}), which shows no parts",
                )
            whose = "outputs do not sum to" if len(names) > 1 else "output is not"
            return "difference", (
                f"{named}, whose {whose} what the step adds: only the difference of states is known"
            )
        closed = [n for n in first if not (n == "hook_attn_out" and heads)]
        if not closed:
            return None, None
        child = {n: "attn" if n == "hook_attn_out" else n.partition(".")[0] for n in closed}
        words = " and ".join(self._called(block, child[n]) for n in closed)
        if "hook_attn_out" in closed:
            words += f": {self._no_heads(layer)}"
        return (closed[0] if len(closed) == 1 else "difference"), words

    def _called(self, block: Any, name: str) -> str:
        part = getattr(block, name, None)
        if part is None:
            return f"a part of {type(inner_module(block)).__name__}"
        return f"{name} ({type(inner_module(part)).__name__})"

    def _mlp(self, layer: int, last: tuple[str, ...] | None, between: bool) -> dict[str, Any]:
        block = self._model.blocks[layer]
        if last == ():
            return {"mlp": "none", "mlp_out": None}
        if last is None or last != ("hook_mlp_out",):
            names = [n.partition(".")[0] for n in last or ()] or [
                n for n in ("mlp", *_others(block)) if hasattr(block, n)
            ]
            words = " and ".join(self._called(block, n) for n in names if hasattr(block, n))
            shown = last[0] if last is not None and len(last) == 1 else "difference"
            return {"mlp": "closed", "mlp_out": shown, "mlp_words": words}
        if not is_mixture(block.mlp):
            return {}
        mixture = self._mixture(layer)
        assert mixture is not None
        called = self._called(block, "mlp")
        x, out = self._at(layer, "mlp.hook_in"), self._at(layer, "mlp.hook_out")
        if x is None or out is None:
            return {"mlp": "closed", "mlp_words": f"{called}: its input is not hooked"}
        shown = None if mixture.hook is None else self._seen.get(mixture.hook)
        try:
            flat = x.float().flatten(0, -2)
            allowed = _ALLOWED.get(out.dtype, _ALLOWED_FULL)
            raw = out.float().flatten(0, -2)
            mixture.fit(flat, shown, raw, allowed)
        except (ModelError, ValueError) as error:
            return {"mlp": "closed", "mlp_words": f"{called}: {error}"}
        return {"mlp": "experts", "mixture": mixture, "mlp_scale": self._scale(layer, raw, allowed)}

    def _scale(self, layer: int, raw: Tensor, allowed: float) -> float:
        """What the block multiplies the output of its mixture by; 1 where a norm follows."""
        written = self._at(layer, "hook_mlp_out")
        if written is None:
            return 1.0
        added = written.float().flatten(0, -2)
        scale = float((raw * added).sum() / (raw * raw).sum().clamp_min(1e-12))
        same = (scale * raw - added).norm() <= allowed * added.norm()
        return scale if bool(same) and abs(scale - 1) > allowed else 1.0


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def keep(tensor: Any, hook: Any) -> None:
        if isinstance(tensor, Tensor):
            seen[name] = tensor.detach().clone()

    return keep


def some_layers(parts: Sequence[BlockParts], *, without: str) -> list[int]:
    """The blocks without `attention`, or without `neurons` in their MLP."""
    if without == "attention":
        return [i for i, p in enumerate(parts) if not p.attention]
    return [i for i, p in enumerate(parts) if p.mlp not in ("neurons", "none")]
