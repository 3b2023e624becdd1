"""ModelView: one model's weights, norms and hooks by standard names, for any class of model.

A model that cannot be taken apart exactly is refused here, when it is opened; the message names the
part that is not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.arguments.several import integers_or_none
from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.model.adapters import Adapters
from visit_tl.model.block_parts import BlockParts, is_latent, parts_of, some_layers
from visit_tl.model.given_model import model_given
from visit_tl.model.masked_runs import masked, require_masks
from visit_tl.model.multipliers import write_multipliers
from visit_tl.model.norm import Norm, is_norm, norm_without_gain, norms_outputs, read_norm
from visit_tl.model.opening_checks import (
    require_decoder,
    require_finite,
    require_still,
    require_transformer_lens,
)
from visit_tl.model.standing_hooks import on_modules
from visit_tl.model.tokens import Prompt, Tokens
from visit_tl.segments.of_prompts import segments_of
from visit_tl.segments.spans import Segments


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


class ModelView:
    """A decoder of TransformerLens, opened for reading.

    Accepts a HookedTransformer or a TransformerBridge, recognised by its attributes, not by its
    class. The model is never changed.

    Args:
        model: The model, as the caller has it; or a wrapper around it, or its name (see
            `visit_tl.model.given_model`).

    Attributes:
        model: The model itself.
        adapters: The adapters (LoRA and similar) on its layers, as they are when it is opened.
        parts: What each block is made of: attention, MLP, experts, parts that are not opened.

    Raises:
        ModelError: it is not a decoder of TransformerLens, or cannot be taken apart exactly; the
            message says why.
    """

    def __init__(self, model: Any) -> None:
        model = model_given(model)
        require_transformer_lens(model)
        self.model = model
        cfg = model.cfg
        self.name: str = str(getattr(cfg, "model_name", None) or type(model).__name__)
        self.class_name: str = type(model).__name__
        self._require_decoder()
        self.n_layers = int(cfg.n_layers)
        self.n_heads = int(cfg.n_heads)
        self.d_model = int(cfg.d_model)
        self.d_head = int(cfg.d_head)
        self.n_ctx = int(cfg.n_ctx)
        self.parallel = bool(getattr(cfg, "parallel_attn_mlp", False))
        self.attn_only = bool(getattr(cfg, "attn_only", False))
        self.gated = bool(getattr(cfg, "gated_mlp", False))
        self.d_mlp = 0 if self.attn_only else int(getattr(cfg, "d_mlp", None) or 0)
        self.rotary = getattr(cfg, "positional_embedding_type", None) == "rotary"
        # Listed once: a bridge of 30 blocks has 2,000 modules, and listing them takes 5 ms.
        self._modules = tuple(model.named_modules())
        require_still(self._modules, self.name)
        require_finite(model, self.name)
        self.parts: tuple[BlockParts, ...] = parts_of(model, self.name)
        self.adapters = Adapters(model, self.name, self._modules)
        # In its own dtype: a float32 copy for a large vocabulary would be the largest tensor in
        # memory.
        self.W_U: Float[Tensor, "d_model d_vocab"] = self._unembedding()
        self.b_U: Float[Tensor, " d_vocab"] | None = _nonzero(
            self.adapters.shown(model.unembed, "b_U", else_of=model)
        )
        self.d_vocab = int(self.W_U.shape[1])
        self.final_norm: Norm = self.read_norm(getattr(model, "ln_final", None))
        self.tokens = Tokens(model, int(cfg.d_vocab), self.n_ctx, self.name)

    @property
    def modules(self) -> Iterator[torch.nn.Module]:
        """The modules that the model had when it was opened."""
        return (module for _, module in self._modules)

    # --- weights -------------------------------------------------------------------------------

    def weights(self, layer: int) -> LayerWeights:
        """The weights of one block."""
        block, parts = self.model.blocks[layer], self.parts[layer]
        where = f"blocks.{layer}"
        mlp = block.mlp if parts.mlp == "neurons" else None
        return LayerWeights(
            **self._attention_weights(layer),
            W_in=None if mlp is None else self._weight(mlp, "W_in", where),
            W_out=None if mlp is None else self._weight(mlp, "W_out", where),
            b_out=None if mlp is None else _nonzero(self.adapters.shown(mlp, "b_out")),
        )

    def _attention_weights(self, layer: int) -> dict[str, Any]:
        """W_Q, W_K, W_O and b_O of a block; of no heads where it has no attention."""
        none = torch.zeros(0, self.d_model, self.d_head, device=self.W_U.device)
        if not self.parts[layer].attention:
            return {"W_Q": none, "W_K": none, "W_O": none.transpose(1, 2), "b_O": None}
        attn, where = self.model.blocks[layer].attn, f"blocks.{layer}"
        if self.latent(layer):
            # W_Q and W_K depend on the state: `components.stream_weights` has those of a trace.
            weight = self._weight(attn.o, "weight", f"{where}.attn.o")
            return {
                "W_Q": none,
                "W_K": none,
                "W_O": weight.T.unflatten(0, (self.n_heads, -1)),
                "b_O": _nonzero(self.adapters.shown(attn.o, "bias")),
            }
        return {
            "W_Q": self._weight(attn, "W_Q", where),
            # HookedTransformer stores grouped keys in _W_K; its W_K repeats them per query head.
            "W_K": self._weight(attn, "_W_K" if hasattr(attn, "_W_K") else "W_K", where),
            "W_O": self._weight(attn, "W_O", where),
            "b_O": _nonzero(self.adapters.shown(attn, "b_O")),
        }

    def attention_bias(self, layer: int, name: str) -> Float[Tensor, "head d_head"] | None:
        """The bias `b_Q` or `b_K` of one block, `b_K` by K/V head; None where it has none."""
        if self.latent(layer):
            return None
        attn = self.model.blocks[layer].attn
        # HookedTransformer stores that of grouped keys in _b_K, like _W_K.
        return _nonzero(
            self.adapters.shown(attn, f"_{name}" if hasattr(attn, f"_{name}") else name)
        )

    def value_weights(self, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
        """W_V of one block, per K/V head, float32; apart from `weights`, since graphs need none."""
        attn = self.model.blocks[layer].attn
        name = "_W_V" if hasattr(attn, "_W_V") else "W_V"
        return self._weight(attn, name, f"blocks.{layer}")

    def _weight(self, module: Any, name: str, where: str) -> Tensor:
        return _readable(self.adapters.shown(module, name), module, name, where).float()

    def _unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        shown = self.adapters.shown(self.model.unembed, "W_U", else_of=self.model)
        weight = _readable(shown, self.model, "W_U", "the unembedding")
        # With an adapter the weight is computed in float32, but the lens uses the model's dtype.
        return (
            weight.to(self.adapters.dtype) if self.adapters.inside(self.model.unembed) else weight
        )

    def norm(self, layer: int, name: str) -> Norm:
        """A norm of one block: `ln1` or `ln2`, or a post-norm, `ln1_post` or `ln2_post`.

        A number that multiplies what a sub-block writes (Granite) is part of its post-norm.
        """
        norm = self.plain_norm(layer, name)
        if name not in ("ln1_post", "ln2_post") or (layer, name) not in self.multipliers:
            return norm
        return norm.times(torch.tensor([self.multipliers[layer, name]], device=self.W_U.device))

    def plain_norm(self, layer: int, name: str) -> Norm:
        """A norm of one block as its module is, without the number that may follow it."""
        block = self.model.blocks[layer]
        if norms_outputs(block):
            name = {"ln1_post": "ln1", "ln2_post": "ln2"}.get(name, "")
        return self.read_norm(getattr(block, name, None))

    @cached_property
    def multipliers(self) -> Mapping[tuple[int, str], float]:
        """Numbers that multiply what sub-blocks write, by block and post-norm; usually none."""
        return write_multipliers(self)

    def head_norm(self, layer: int, name: str) -> Norm | None:
        """The norm `q_norm` or `k_norm` of one block's queries or keys; None if it has none."""
        attn = getattr(self.model.blocks[layer], "attn", None)
        module = getattr(attn, name, None)
        if module is not None:
            return self.read_norm(module)
        inner = getattr(attn, "original_component", None)
        return norm_without_gain(getattr(inner, "qk_norm", None), self.d_head)

    def heads_norm(self, layer: int) -> Norm | None:
        """The norm of all heads of one block, side by side, before W_O (BitNet); None if none."""
        attn = getattr(self.model.blocks[layer], "attn", None)
        inner = getattr(attn, "original_component", None)
        for part in inner.children() if isinstance(inner, torch.nn.Module) else ():
            # Norms of queries and keys have bridges of their own.
            if is_norm(part) and not hasattr(part, "original_component"):
                norm = self.read_norm(part)
                if norm.weight is not None and norm.weight.numel() == self.n_heads * self.d_head:
                    return norm
        return None

    def read_norm(self, module: Any) -> Norm:
        """A norm from its module, as `visit_tl.model.norm.read_norm` reads it."""
        cfg = self.model.cfg
        return read_norm(module, float(cfg.eps), bool(getattr(cfg, "rmsnorm_uses_offset", False)))

    def latent(self, layer: int) -> bool:
        """Whether the attention of a block is latent: W_Q, W_K and W_V depend on the state."""
        return self.parts[layer].attention and is_latent(self.model.blocks[layer].attn)

    def by_head(
        self, layer: int, z: Float[Tensor, "*rows some entries"]
    ) -> Float[Tensor, "*rows head d_head"]:
        """What a block's hook_z holds, by head: TransformerLens shows it in rows of `cfg.d_head`.

        Only values of latent attention have another width.
        """
        return z.flatten(-2).unflatten(-1, (self.n_heads, -1)) if self.latent(layer) else z

    def head_index(self, layer: int, head: int) -> tuple[Any, ...]:
        """The index of a head in what hook_z holds at one position."""
        width = self.z_width(layer) // self.n_heads
        if width == self.d_head:
            return (head,)
        entries = torch.arange(head * width, (head + 1) * width)
        return entries // self.d_head, entries % self.d_head

    def z_width(self, layer: int) -> int:
        """How many entries all heads of a block have together before W_O."""
        if not self.latent(layer):
            return self.n_heads * self.d_head
        return int(self._weight(self.model.blocks[layer].attn.o, "weight", "attn.o").shape[1])

    def require_matrices(self, what: str) -> None:
        """Require that queries, keys and values are one matrix times the state.

        Raises:
            ModelError: a block's attention is latent; the message says what needs it.
        """
        found = [layer for layer in range(self.n_layers) if self.latent(layer)]
        if found:
            raise ModelError(
                f"{what} needs W_Q, W_K and W_V, and blocks.{found[0]} of {self.name} has latent "
                f"attention, where a norm between two matrices makes them different for each "
                f"state; graphs, attention_attribution and effects know them at their position"
            )

    def kv_head(self, n_kv_heads: int) -> Int[Tensor, " head"]:
        """The K/V head that each query head uses (its own if K/V heads are not grouped)."""
        if n_kv_heads == 0:  # a block without attention
            return torch.arange(0)
        return torch.arange(self.n_heads) // (self.n_heads // n_kv_heads)

    def gated_at(self, layer: int) -> bool:
        """Whether the MLP of a block is gated. Dense blocks between mixtures show it by a hook."""
        if hasattr(getattr(self.model.blocks[layer], "mlp", None), "bound_dense"):
            return self.has_hook(f"blocks.{layer}.mlp.hook_pre_linear")
        return self.gated

    def require_attention(self, what: str, layers: Sequence[int] | None = None) -> None:
        """Require attention that comes apart into heads in these blocks; None is all.

        Raises:
            ModelError: a block has none; the message says what needs it.
        """
        without = some_layers(self.parts, without="attention")
        missing = [i for i in without if layers is None or i in layers]
        if missing:
            every, remedy = " in every block", "flow_graph, effects and attribute do without"
            if layers is not None:
                every, remedy = "", "choose blocks that have it"
            raise ModelError(
                f"{what} needs attention{every}, but {blocks_named(missing)} of {self.name} "
                f"{'has' if len(missing) == 1 else 'have'} none that was opened "
                f"({self.parts[missing[0]].opaque_words}); {remedy}"
            )

    def require_neurons(self, what: str, layers: Sequence[int] | None = None) -> None:
        """Require one W_in and one W_out in these blocks; None is all.

        Raises:
            ModelError: a block has experts, or an MLP that is not opened.
        """
        without = some_layers(self.parts, without="neurons")
        missing = [i for i in without if layers is None or i in layers]
        if missing:
            kind = (
                "is a mixture of experts, each with its own"
                if self.parts[missing[0]].mlp == "experts"
                else f"is not opened ({self.parts[missing[0]].mlp_words})"
            )
            raise ModelError(
                f"{what} reads W_in and W_out of MLPs, but the MLP of {blocks_named(missing)} of "
                f"{self.name} {kind}; choose other blocks or other matrices"
            )

    @cached_property
    def output_transform(self) -> Callable[[Tensor], Tensor] | None:
        """The model's function of each entry of `x W_U + b_U`: a softcap or a scale; or None."""
        adapter = getattr(self.model, "adapter", None)
        transform = getattr(adapter, "apply_output_logits_transform", None)
        if callable(transform):
            applied = cast("Callable[[Tensor], Tensor]", transform)
            probe = torch.linspace(-100, 100, 9)
            return None if torch.equal(applied(probe.clone()), probe) else applied
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", -1.0) or -1.0)
        return None if cap <= 0 else lambda logits: cap * torch.tanh(logits / cap)

    # --- hooks ---------------------------------------------------------------------------------

    @cached_property
    def _hooks(self) -> frozenset[str]:
        names = set(self.model.hook_dict)
        for prefix, module in self._modules:
            aliases = getattr(module, "hook_aliases", None)
            if isinstance(aliases, dict):
                names.update(f"{prefix}.{alias}" if prefix else alias for alias in aliases)
        return frozenset(names)

    def has_hook(self, name: str) -> bool:
        """Whether the model has a hook of this name."""
        return name in self._hooks

    # --- ranges --------------------------------------------------------------------------------

    def check_layers(self, layers: Any, *, gaps: bool = False) -> tuple[int, ...]:
        """Sorted, existing and, unless gaps are allowed, consecutive layers; None is all of them.

        Raises:
            InputError: no layer is given, a layer does not exist, or there is a gap.
        """
        if (chosen := integers_or_none(layers)) is None:
            return tuple(range(self.n_layers))
        if not chosen:
            raise InputError(f"no layers were chosen; {self.name} has 0..{self.n_layers - 1}")
        for layer in chosen:
            if type(layer) is not int or not 0 <= layer < self.n_layers:
                raise InputError(f"layer {layer} is outside 0..{self.n_layers - 1} of {self.name}")
        kept = tuple(sorted(set(chosen)))
        if not gaps and len(kept) != kept[-1] - kept[0] + 1:
            raise InputError(
                f"layers {list(kept)} have a gap; a graph needs consecutive blocks, "
                f"such as range({kept[0]}, {kept[-1] + 1})"
            )
        return kept

    def check_position(self, position: int, n_tokens: int) -> int:
        """A query position counted from 0; negative ones count from the end.

        Raises:
            InputError: it is outside the prompt.
        """
        if type(position) is not int or not -n_tokens <= position < n_tokens:
            raise InputError(
                f"position {position} is outside the prompt, which has {n_tokens} tokens: "
                f"0..{n_tokens - 1}, or -{n_tokens}..-1 from the end"
            )
        return position % n_tokens

    def encode(self, prompt: Any, prepend_bos: bool | None, segments: Any = None) -> Prompt:
        """Tokenise as `Tokens.encode` does, and attach the segments under whose mask it is run.

        Args:
            prompt: Text, or token ids of shape [pos] or [1, pos].
            prepend_bos: As for `Tokens.encode`.
            segments: Segments, ranges, or a function of the token ids that gives them; None is
                causal.

        Raises:
            InputError: as `Tokens.encode`, or segments that do not fit the prompt.
            ModelError: the model cannot run under their mask exactly.
        """
        found = self.tokens.encode(prompt, prepend_bos)
        if segments is None:
            return found
        texts = [self.tokens.text(i) for i in found.ids]
        fitted = segments_of(segments, found.ids, texts)
        require_masks(self.model, fitted, len(found.ids))
        return replace(found, segments=fitted)

    def encode_beside(self, clean: Prompt, other: Any, prepend_bos: bool | None) -> Prompt:
        """Tokenise a prompt whose positions are those of another, and which has its segments."""
        return replace(self.tokens.encode(other, prepend_bos), segments=clean.segments)

    def masked(self, segments: Segments | None) -> AbstractContextManager[None]:
        """Runs of the model inside are under the mask of these segments; None is causal."""
        return masked(self.model, segments)

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        fwd_hooks: Sequence[tuple[Any, Any]],
        segments: Segments | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of one run with hooks, without gradients.

        The outputs of adapted layers are recorded; weights that are read afterwards must reproduce
        them (`adapters`).

        Raises:
            ModelError: there are more or fewer rows than tokens, as with prompt tuning, so rows
                cannot be assigned to tokens; or an adapter was not used; or the model obeys no
                mask of segments.
        """
        require_masks(self.model, segments, tokens.shape[1])
        with torch.no_grad(), self.adapters.noted(), self.masked(segments):
            try:
                logits = self.model.run_with_hooks(tokens, fwd_hooks=list(fwd_hooks))
            except VisitError:
                raise
            except Exception as error:
                self.require_runs(tokens, error)
                raise
        n_rows, n_tokens = logits.shape[1], tokens.shape[1]
        if n_rows != n_tokens:
            raise ModelError(
                f"{self.name} gives {n_rows} rows of logits for {n_tokens} tokens, so something "
                f"(such as prompt tuning) changes the prompt inside the model; open the model "
                f"without it, and write what it adds into the prompt"
            )
        return logits

    # --- refusals ------------------------------------------------------------------------------

    def _require_decoder(self) -> None:
        require_decoder(self.model, self.name)

    def require_runs(self, tokens: Tensor, error: Exception) -> None:
        """Require that the model runs without hooks of ours or of the call, after a run failed.

        Raises:
            ModelError: it does not, so that it is TransformerLens that cannot run it.
        """
        if on_modules(tuple(self.modules), ours=False):
            return  # it may be the caller's own hook that failed
        try:
            self.model(tokens)
        except Exception as own:
            raise ModelError(
                f"the forward pass of {self.name} ({self.class_name}) fails in TransformerLens "
                f"itself, with {type(own).__name__}: {str(own)[:300]}; a release of transformers "
                f"that TransformerLens was made for may run it (visit_tl.check(model) shows those "
                f"that were tested)"
            ) from error


def model_of_view(model: Any) -> Any:
    """The model itself, from a view of it or from any form that `model_given` takes."""
    return model.model if isinstance(model, ModelView) else model_given(model)


def blocks_named(layers: Sequence[int]) -> str:
    """Up to four blocks by name, and the number of the others."""
    more = len(layers) - 4
    named = ", ".join(f"blocks.{i}" for i in layers[:4])
    return f"{named} and {more} more" if more > 0 else named


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
