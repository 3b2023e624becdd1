"""ModelView: one model's weights, norms and hooks by standard names, for any class of model.

A model that cannot be taken apart exactly is refused here, when it is opened; the message names the
part that is not supported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.arguments.several import integers_or_none
from visit_tl.errors import InputError, ModelError, VisitError
from visit_tl.model.adapters import Adapters
from visit_tl.model.block_norms import NormReader
from visit_tl.model.block_parts import BlockParts, parts_of
from visit_tl.model.given_model import model_given
from visit_tl.model.layer_weights import LayerWeights, WeightReader
from visit_tl.model.masked_runs import masked, require_masks
from visit_tl.model.multipliers import write_multipliers
from visit_tl.model.norm import Norm
from visit_tl.model.opening_checks import (
    require_decoder,
    require_finite,
    require_still,
    require_transformer_lens,
)
from visit_tl.model.required_parts import (
    require_attention,
    require_matrices,
    require_neurons,
)
from visit_tl.model.standing_hooks import on_modules
from visit_tl.model.tokens import Prompt, Tokens
from visit_tl.segments.of_prompts import segments_of
from visit_tl.segments.spans import Segments


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
        self._weights = WeightReader(model, self.parts, self.adapters)
        self._norms = NormReader(model)
        self.W_U: Float[Tensor, "d_model d_vocab"] = self._weights.W_U
        self.b_U: Float[Tensor, " d_vocab"] | None = self._weights.b_U
        self.d_vocab = int(self.W_U.shape[1])
        self.final_norm: Norm = self.read_norm(getattr(model, "ln_final", None))
        self.tokens = Tokens(model, int(cfg.d_vocab), self.n_ctx, self.name)

    def _require_decoder(self) -> None:
        require_decoder(self.model, self.name)

    @property
    def modules(self) -> Iterator[torch.nn.Module]:
        """The modules that the model had when it was opened."""
        return (module for _, module in self._modules)

    # --- weights -------------------------------------------------------------------------------

    def weights(self, layer: int) -> LayerWeights:
        """The weights of one block."""
        return self._weights.of_block(layer)

    def attention_bias(self, layer: int, name: str) -> Float[Tensor, "head d_head"] | None:
        """The bias `b_Q` or `b_K` of one block, `b_K` by K/V head; None where it has none."""
        return self._weights.attention_bias(layer, name)

    def value_weights(self, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
        """W_V of one block, per K/V head, float32; apart from `weights`, since graphs need none."""
        return self._weights.values(layer)

    # --- norms ---------------------------------------------------------------------------------

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
        return self._norms.of_block(layer, name)

    @cached_property
    def multipliers(self) -> Mapping[tuple[int, str], float]:
        """Numbers that multiply what sub-blocks write, by block and post-norm; usually none."""
        return write_multipliers(self)

    def head_norm(self, layer: int, name: str) -> Norm | None:
        """The norm `q_norm` or `k_norm` of one block's queries or keys; None if it has none."""
        return self._norms.of_queries_or_keys(layer, name)

    def heads_norm(self, layer: int) -> Norm | None:
        """The norm of all heads of one block, side by side, before W_O (BitNet); None if none."""
        return self._norms.before_output(layer)

    def read_norm(self, module: Any) -> Norm:
        """A norm from its module, as `visit_tl.model.norm.read_norm` reads it."""
        return self._norms.read(module)

    # --- heads and neurons ---------------------------------------------------------------------

    def latent(self, layer: int) -> bool:
        """Whether the attention of a block is latent: W_Q, W_K and W_V depend on the state."""
        return self._weights.latent(layer)

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
        return int(self._weights.latent_output(layer).shape[1])

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

    # --- what a call needs ---------------------------------------------------------------------

    def require_matrices(self, what: str) -> None:
        """Require that queries, keys and values are one matrix times the state.

        Raises:
            ModelError: a block's attention is latent; the message says what needs it.
        """
        latent = [layer for layer in range(self.n_layers) if self.latent(layer)]
        require_matrices(latent, self.name, what)

    def require_attention(self, what: str, layers: Sequence[int] | None = None) -> None:
        """Require attention that comes apart into heads in these blocks; None is all.

        Raises:
            ModelError: a block has none; the message says what needs it.
        """
        require_attention(self.parts, self.name, what, layers)

    def require_neurons(self, what: str, layers: Sequence[int] | None = None) -> None:
        """Require one W_in and one W_out in these blocks; None is all.

        Raises:
            ModelError: a block has experts, or an MLP that is not opened.
        """
        require_neurons(self.parts, self.name, what, layers)

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

    # --- layers, positions and prompts ---------------------------------------------------------

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

    # --- runs ----------------------------------------------------------------------------------

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
