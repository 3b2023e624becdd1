"""What every part of one run adds to the residual stream, at all positions.

The parts are those of circuits: the input, the heads and the MLPs. Together with the biases they
sum to the residual stream. This is checked, because path patching replaces single terms of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import DecompositionError, ModelError
from visit_tl.graph.circuit_parts import Part
from visit_tl.model.hooks import hook_names
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.required_parts import blocks_named
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

_SLOTS = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True, eq=False)
class Writes:
    """What the parts of a run write to the residual stream, `[pos, d_model]` each.

    Attributes:
        parts: By part, in the order of the forward pass.
        biases: By block, the output bias of its attention, which belongs to no head. A post-norm
            is included: its scale in this run, and its bias.
    """

    parts: Mapping[Part, Tensor]
    biases: tuple[Tensor, ...]

    def zero(self) -> Writes:
        """The same parts, all writing zeros; the biases stay as they are."""
        return replace(self, parts={p: torch.zeros_like(x) for p, x in self.parts.items()})

    @classmethod
    def mean(cls, runs: Sequence[Writes]) -> Writes:
        """The mean over runs, part by part and position by position."""
        first = runs[0]
        parts = {p: torch.stack([r.parts[p] for r in runs]).mean(0) for p in first.parts}
        biases = [
            torch.stack([r.biases[i] for r in runs]).mean(0) for i in range(len(first.biases))
        ]
        return cls(parts, tuple(biases))


class WrittenRun:
    """One run of a prompt, and what its parts wrote.

    Args:
        view: The model.
        prompt: The tokens.

    Attributes:
        kept: The run itself, to be run again with changes.
        hooks: By block, TransformerLens's name of each hook that is read.
        writes: What the parts wrote.

    Raises:
        ModelError: a hook is missing or did not fire; or a block has no attention, or a part that
            was not opened.
        DecompositionError: the parts do not sum to the residual stream.
    """

    def __init__(self, view: ModelView, prompt: Prompt) -> None:
        self.view = view
        view.require_attention("patching edges between heads and MLPs")
        if closed := [i for i, parts in enumerate(view.parts) if parts.opaque is not None]:
            raise ModelError(
                f"edges between heads and MLPs cannot be patched in {view.name}: "
                f"{blocks_named(closed)} also add what was not opened "
                f"({view.parts[closed[0]].opaque_words})"
            )
        self.hooks = [hook_names(view, layer) for layer in range(view.n_layers)]
        keep = {slots[s]: "all" for slots in self.hooks for s in _SLOTS if s in slots}
        self.kept = KeptRun(view, prompt, keep)
        parts: dict[Part, Tensor] = {Part("input"): self.at(0, "resid_pre")}
        biases = []
        for layer, slots in enumerate(self.hooks):
            heads, bias = head_writes(view, layer, self.at(layer, "z"))
            parts |= {Part("head", layer, h): heads[:, h] for h in range(view.n_heads)}
            biases.append(bias)
            if "mlp_out" in slots:
                parts[Part("mlp", layer)] = self.at(layer, "mlp_out")
        self.writes = Writes(parts, tuple(biases))
        self._check()

    @property
    def logits(self) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the run."""
        return self.kept.logits

    def at(self, layer: int, slot: str) -> Tensor:
        """Activation at one hook of a block, `[pos, ...]`."""
        return self.kept.kept[self.hooks[layer][slot]]

    def _check(self) -> None:
        stream = self.writes.parts[Part("input")]
        for layer in range(self.view.n_layers):
            here = [x for part, x in self.writes.parts.items() if part.layer == layer]
            stream = stream + torch.stack(here).sum(0) + self.writes.biases[layer]
            error = relative(stream, self.at(layer, "resid_post"))
            if not error <= tolerance(self.view):
                raise DecompositionError(
                    f"the input, heads and MLPs of {self.view.name} up to block {layer} sum to its "
                    f"residual stream only up to {error:.2g} (tolerance "
                    f"{tolerance(self.view):.0e}); no edge between them can be patched"
                    f"{left_on(self.view.model)}"
                )


def head_writes(
    view: ModelView, layer: int, z: Float[Tensor, "*rows some entries"]
) -> tuple[Float[Tensor, "*rows head d_model"], Float[Tensor, "*rows d_model"]]:
    """What each head of a block writes to the stream, and the bias that belongs to no head.

    The scale of a post-norm is fixed to its value for the sum of these heads and the bias; the norm
    is then linear, and is applied to each of them, as in `components.stream_weights`.

    Args:
        view: The model.
        layer: The block.
        z: All heads of one run, before W_O, as their hook shows them.
    """
    weights, norm = view.weights(layer), view.norm(layer, "ln1_post")
    z = view.by_head(layer, z)
    heads = einsum(z, weights.W_O, "... head d_head, head d_head d_model -> ... head d_model")
    whole = heads.sum(-2)
    b_O = torch.zeros_like(whole) if weights.b_O is None else weights.b_O
    bias = b_O.expand_as(whole)
    if norm.kind == "none":
        return heads, bias
    frozen = norm.freeze(whole + bias)
    split = replace(frozen, gain=frozen.gain.unsqueeze(-2))
    bias = frozen.parts(bias)
    return split.parts(heads), bias if frozen.bias is None else bias + frozen.bias
