"""What a study sees of one forward pass, and the passes of several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.hooks import hook_names
from visit_tl.model.layer_weights import LayerWeights
from visit_tl.model.norm import FrozenNorm, Norm
from visit_tl.model.view import ModelView

_LAST = ("resid_pre", "query", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
_EVERY = ("keys", "values")


class SweptModel:
    """A model that is open for a sweep, with what is the same for all prompts.

    Args:
        view: The model.
    """

    def __init__(self, view: ModelView) -> None:
        self.view = view
        self.hooks = [hook_names(view, layer) for layer in range(view.n_layers)]
        self._shared: dict[str, Any] = {}

    @cached_property
    def weights(self) -> list[LayerWeights]:
        """The weights of all blocks."""
        return [self.view.weights(layer) for layer in range(self.view.n_layers)]

    @cached_property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """The output matrices of all heads."""
        self.view.require_attention("a study of heads")
        return torch.stack([w.W_O for w in self.weights])

    @cached_property
    def post_norms(self) -> list[Norm]:
        """The norm after the attention of each block; empty if no block has one."""
        norms = [self.view.norm(layer, "ln1_post") for layer in range(self.view.n_layers)]
        return [] if all(norm.kind == "none" for norm in norms) else norms

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """A value that studies need once for all prompts, such as a readout of weights.

        Args:
            name: Its name, unique to the study and its options.
            make: What makes it, the first time.
        """
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]

    def passes(
        self, rows: Sequence[tuple[int, tuple[int, ...], int | None, str]]
    ) -> list[PromptRun]:
        """Run prompts of one length together.

        Args:
            rows: For each prompt its index, token ids, the id of its target or None for the model's
                own prediction, and its text.

        Raises:
            ModelError: a hook did not fire.
        """
        view = self.view
        tokens = torch.tensor([ids for _, ids, _, _ in rows], device=view.W_U.device)
        kept: dict[str, Tensor] = {}
        hooks = [
            (slots[slot], _keeper(kept, slots[slot], slot))
            for slots in self.hooks
            for slot in (*_LAST, *_EVERY, "pattern")
            if slot in slots
        ]
        with torch.no_grad():
            logits = view.model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1].float().clone()
        for slots in self.hooks:
            for slot in (*_LAST, *_EVERY, "pattern"):
                if slot in slots and slots[slot] not in kept:
                    raise ModelError(f"the hook {slots[slot]} of {view.name} did not fire")
        stacks = {
            slot: torch.stack([kept[slots[slot]] for slots in self.hooks], dim=1)
            for slot in (*_LAST, *_EVERY, "pattern")
            if all(slot in slots for slots in self.hooks)
        }
        return [
            PromptRun(
                self,
                index,
                text,
                ids,
                int(logits[i].argmax()) if target is None else target,
                target is not None,
                logits[i],
                {slot: stack[i] for slot, stack in stacks.items()},
            )
            for i, (index, ids, target, text) in enumerate(rows)
        ]


def _keeper(kept: dict[str, Tensor], name: str, slot: str) -> Callable[[Tensor, Any], None]:
    def keep(tensor: Tensor, hook: Any) -> None:
        part = (
            tensor if slot in _EVERY else tensor[:, :, -1] if slot == "pattern" else tensor[:, -1]
        )
        kept[name] = part.detach().float().clone()

    return keep


@dataclass(frozen=True, eq=False)
class Wanted:
    """A stack of vectors that a study wants to be read; what comes back is for its rows, flattened.

    Attributes:
        vectors: The vectors, `[..., d_model]`.
        k: How many top tokens; with `whole`, 0 is only what is about the target.
        whole: Whether everything of a readout is wanted (`visit_tl.Readout`, with the target's
            rank and probability), or only the ids of the top tokens, `[row, k]`, which takes half
            the time.
        targets: The target of each vector; None is the run's.
        rows_of: The vectors are rows of a stack that a run keeps: what it keeps, the name of the
            stack, and the place of each vector in its flattened rows. If that stack is read too,
            they are not read again.
    """

    vectors: Float[Tensor, "*rows d_model"]
    k: int
    whole: bool
    targets: Int[Tensor, "*rows"] | None = None
    rows_of: tuple[Mapping[Any, Any], Any, Int[Tensor, "*rows"]] | None = None


@dataclass(frozen=True)
class OtherPrompt:
    """A prompt that a study wants to be run as well; what comes back is its `PromptRun`.

    Attributes:
        token_ids: Its tokens.
    """

    token_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One forward pass of a prompt, at its last token, float32; blocks come first in every stack.

    Attributes:
        swept: The model, and what is the same for all prompts.
        index: The place of the prompt in its file.
        text: The prompt.
        token_ids: Its tokens.
        target: The token that is followed: the given one, or the model's own prediction.
        target_given: Whether it was given.
        logits: The model's logits after the last token.
        kept: Activations by name; the properties below read them.
        made: What studies made of this run and share; `once` reads it.
    """

    swept: SweptModel
    index: int
    text: str
    token_ids: tuple[int, ...]
    target: int
    target_given: bool
    logits: Float[Tensor, " d_vocab"]
    kept: Mapping[str, Tensor]
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def view(self) -> ModelView:
        """The model."""
        return self.swept.view

    @property
    def layers(self) -> Int[np.ndarray, " layer"]:
        """The indices of the blocks."""
        return np.arange(self.view.n_layers)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    @property
    def predicted(self) -> int:
        """The model's own prediction."""
        return int(self.logits.argmax())

    @property
    def resid_pre(self) -> Float[Tensor, "layer d_model"]:
        """The residual stream that enters each block."""
        return self.kept["resid_pre"]

    @property
    def resid_mid(self) -> Float[Tensor, "layer d_model"]:
        """The residual stream between attention and MLP.

        Raises:
            InputError: the model has none, as in parallel blocks.
        """
        return self._named("resid_mid", "residual stream between attention and MLP")

    @property
    def resid_post(self) -> Float[Tensor, "layer d_model"]:
        """The residual stream that leaves each block."""
        return self.kept["resid_post"]

    @property
    def attn_out(self) -> Float[Tensor, "layer d_model"]:
        """What the attention of each block adds to the stream."""
        return self._named("attn_out", "attention in every block")

    @property
    def mlp_out(self) -> Float[Tensor, "layer d_model"]:
        """What the MLP of each block adds to the stream."""
        return self._named("mlp_out", "MLP in every block")

    @property
    def mlp_post(self) -> Float[Tensor, "layer d_mlp"]:
        """The coefficient of each row of W_out."""
        return self._named("mlp_post", "MLP with neurons in every block")

    @property
    def z(self) -> Float[Tensor, "layer head d_head"]:
        """Heads before W_O."""
        z = self._named("z", "attention in every block")
        return self.view.by_head(0, z)

    @property
    def query(self) -> Float[Tensor, "layer head d_head"]:
        """Queries, before rotary positions and query norms."""
        return self._shown("query")

    @property
    def pattern(self) -> Float[Tensor, "layer head pos"]:
        """Attention of the last token."""
        return self._named("pattern", "attention in every block")

    @property
    def keys(self) -> Float[Tensor, "layer head pos d_head"]:
        """Keys as each query head sees them, before rotary positions and key norms."""
        return self._per_head("keys")

    @property
    def values(self) -> Float[Tensor, "layer head pos d_head"]:
        """Values as each query head sees them.

        Raises:
            ModelError: a norm between them and W_O makes them no parts of the heads.
        """
        if any(self.view.heads_norm(layer) is not None for layer in range(self.view.n_layers)):
            raise ModelError(
                f"{self.view.name} normalises its heads before W_O, by a scale that is known in "
                f"graphs alone; studies of memory values cannot be of this model"
            )
        return self._per_head("values")

    def norm_input(self, norm: str) -> Float[Tensor, "layer d_model"]:
        """The states that `ln1` or `ln2` of each block reads; in parallel blocks they are the same.

        Raises:
            InputError: the norm has another name, or the model has no MLP.
        """
        if norm not in ("ln1", "ln2"):
            raise InputError(f"the norms of a block are ln1 and ln2, got {norm!r}")
        if norm == "ln2" and self.view.attn_only:
            raise InputError(f"{self.view.name} has no MLP, and so no ln2")
        return self.resid_pre if norm == "ln1" or self.view.parallel else self.resid_mid

    @property
    def heads(self) -> Float[Tensor, "layer head d_model"]:
        """What each head adds to the stream; post-norms have their scale of this run."""
        return self.once("heads", lambda: self.written(self.z))

    def written(
        self, vectors: Float[Tensor, "layer head *rows d_head"]
    ) -> Float[Tensor, "layer head *rows d_model"]:
        """What vectors of each head, such as memory values, are in the stream: times W_O.

        Post-norms have their scale of this run, so the parts of a head sum to it.
        """
        W_O = self.swept.W_O
        rows = vectors.flatten(2, -2) if vectors.ndim > 3 else vectors.unsqueeze(2)
        out = einsum(rows, W_O, "l h row d_head, l h d_head d -> l h row d")
        if self._post_norms:
            out = torch.stack([n.parts(x) for n, x in zip(self._post_norms, out, strict=True)])
        return out.view(*vectors.shape[:-1], W_O.shape[-1])

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """A value that several studies need of this run, such as vectors that are read only once.

        Args:
            name: Its name, unique to what it is and its options.
            make: What makes it, the first time.
        """
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def top(
        self,
        vectors: Float[Tensor, "*rows d_model"],
        k: int = 50,
        rows_of: tuple[Any, Int[Tensor, "*rows"]] | None = None,
    ) -> Wanted:
        """To be yielded by a study, which gets the ids of the top k tokens of each vector.

        Args:
            vectors: The vectors.
            k: How many top tokens.
            rows_of: If they are rows of a stack that `once` keeps, such as `heads`: its name, and
                the place of each in its flattened rows. They are not read again if that stack is.

        Raises:
            InputError: k is less than 1.
        """
        kept = None if rows_of is None else (self.made, *rows_of)
        return Wanted(vectors, self._k(k), whole=False, rows_of=kept)

    def read(
        self,
        vectors: Float[Tensor, "*rows d_model"],
        k: int = 5,
        targets: Int[Tensor, "*rows"] | None = None,
    ) -> Wanted:
        """To be yielded by a study, which gets the `Readout` of the vectors.

        Args:
            vectors: The vectors.
            k: How many top tokens.
            targets: A token for each vector, whose rank and probability are wanted; None is the
                run's target.

        Raises:
            InputError: k is less than 1.
        """
        return Wanted(vectors, self._k(k), whole=True, targets=targets)

    def read_target(
        self, vectors: Float[Tensor, "*rows d_model"], targets: Int[Tensor, "*rows"] | None = None
    ) -> Wanted:
        """As `read`, where only `target_ranks`, `target_probs` and `target_logits` are needed."""
        return Wanted(vectors, 0, whole=True, targets=targets)

    def other(self, token_ids: Sequence[int]) -> OtherPrompt:
        """To be yielded by a study, which gets the `PromptRun` of another prompt."""
        return OtherPrompt(tuple(token_ids))

    @cached_property
    def _post_norms(self) -> list[FrozenNorm]:
        found: list[FrozenNorm] = []
        for layer, norm in enumerate(self.swept.post_norms):
            b_O = self.swept.weights[layer].b_O
            whole = einsum(self.z[layer], self.swept.W_O[layer], "h d_head, h d_head d -> d")
            found.append(norm.freeze(whole if b_O is None else whole + b_O))
        return found

    def _k(self, k: Any) -> int:
        if type(k) is not int or k < 1:
            raise InputError(f"k is the number of top tokens, at least 1, not {k!r}")
        return min(k, self.view.d_vocab)

    def _per_head(self, name: str) -> Tensor:
        shared = rearrange(self._shown(name), "layer pos head d -> layer head pos d")
        each = self.view.kv_head(shared.shape[1])
        return shared if len(each) == shared.shape[1] else shared[:, each]

    def _shown(self, name: str) -> Tensor:
        if name not in self.kept:
            raise ModelError(
                f"{self.view.name} shows its {name} in no form that this study reads (its "
                f"attention is latent, or not opened)"
            )
        return self.kept[name]

    def _named(self, name: str, what: str) -> Tensor:
        if name not in self.kept:
            raise InputError(f"{self.view.name} has no {what}, so this study cannot be of it")
        return self.kept[name]
