"""One stored forward pass, of which parts can be run again with changes.

A change at block l and position p does not affect the blocks before l, nor the positions before p
or, under a mask of segments, before p's segment. So the model's own blocks are called again from l
on, with the rows from there on, and with the keys and values of the earlier rows. Many changed runs
form a batch; each joins the batch at the block where its changes begin. No block is reimplemented
here: each gets the arguments that the model itself passed, cut to the rows.

Whether a model supports this is tested, not assumed: every batch contains unchanged rows, which
must come out as the model computed them (`visit_tl.causal.patching.batched_runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.hooks import keeper
from visit_tl.model.replay.block_calls import BlockCalls
from visit_tl.model.replay.differentiable import gradients_enabled
from visit_tl.model.replay.past import Past
from visit_tl.model.replay.patch import Placed, Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


class KeptRun:
    """One forward pass of a prompt, and methods to run it again from any block.

    The caller's hooks fire as usual, here and whenever a block is run again. Afterwards hooks,
    flags, grad mode and random state are as they were before.

    Args:
        view: The model.
        prompt: The input tokens.
        keep: For each hook whose activations are kept, which part: `row`, `all` or `query`, as in
            `visit_tl.model.hooks.ROWS`.
        positions: The positions whose rows are kept for `row` and `query`.

    Attributes:
        view: The model.
        logits: The model's logits.
        kept: The kept activations by hook, float32, without the batch axis.
        positions: The positions of the rows in `kept`.
        calls: The model's calls of its blocks.
        segments: The segments under whose mask it ran, and runs again; None is causal.

    Raises:
        ModelError: a hook did not fire.
    """

    # The kept tensors are used after the caller's inference mode has ended, also for gradients.
    @torch.inference_mode(False)
    def __init__(
        self,
        view: ModelView,
        prompt: Prompt,
        keep: Mapping[str, str] | None = None,
        positions: Sequence[int] = (),
    ) -> None:
        self.view = view
        self.tokens = torch.tensor([prompt.ids], device=view.W_U.device)
        self.positions = tuple(positions)
        self.kept: dict[str, Tensor] = {}
        self._pasts: list[tuple[Tensor, Tensor]] | None = None
        hooks = [
            (name, keeper(self.kept, name, rows, self.positions))
            for name, rows in (keep or {}).items()
        ]
        self.segments = prompt.segments
        self.calls = BlockCalls(view, self.tokens, self.segments)
        with self.calls.noted():
            logits = view.run(self.tokens, hooks, self.segments)
        self.logits: Float[Tensor, "1 pos d_vocab"] = _full(logits)
        if silent := [name for name in keep or {} if name not in self.kept]:
            raise ModelError(
                f"the hook {silent[0]} of {view.name} did not fire in this forward pass, "
                f"so its activations cannot be patched"
            )

    @property
    def n_tokens(self) -> int:
        """Number of positions of the prompt."""
        return self.tokens.shape[1]

    @property
    def causal(self) -> bool:
        """Whether positions outside of segments attend only to themselves and earlier ones."""
        return getattr(self.view.model.cfg, "attention_dir", "causal") == "causal"

    def first_reached(self, position: int) -> int:
        """The first position that a change at this one can reach: where its segment begins."""
        if not self.causal:
            return 0
        return position if self.segments is None else self.segments.span_at(position)[0]

    def readers_of(self, positions: Bool[Tensor, " pos"]) -> Bool[Tensor, " pos"]:
        """The positions that attend to any of these."""
        if not self.causal:
            return positions.any().expand_as(positions)
        reached = torch.zeros_like(positions)
        if positions.any():
            # Whoever comes after the first of these sees it, and so does its whole segment.
            reached[self.first_reached(int(positions.int().argmax())) :] = True
        return reached

    def row(self, hook: str, position: int) -> Tensor:
        """The row of a hook at one position, for hooks kept as `row` or `query`."""
        return self.kept[hook][self.positions.index(position)]

    # --- running again -------------------------------------------------------------------------

    def whole(self, writes: Sequence[Write]) -> Float[Tensor, "1 pos d_vocab"]:
        """The logits of the whole model, run again with these changes: slow, but always correct."""
        placed = Placed(0)
        placed.writes = [(0, write) for write in writes]
        with torch.no_grad(), self.view.masked(self.segments):
            logits = self.view.model.run_with_hooks(self.tokens, fwd_hooks=placed.hooks())
        placed.require_all(self.view.name)
        return _full(logits)

    def rows(
        self, runs: Sequence[Sequence[Write]], begins: Sequence[int], first: int
    ) -> Float[Tensor, "run row d_vocab"]:
        """The logits from position `first` on of several runs, each with its changes.

        Args:
            runs: The changes of each run.
            begins: The block from which each run is computed, ascending; not after the first change
                of that run.
            first: First position that is computed; 0 needs no keys and values of earlier rows.

        Raises:
            ModelError: the model's blocks cannot be called like that. Other errors come from the
                blocks.
        """
        placed = Placed(first)
        placed.writes = [(i, write) for i, writes in enumerate(runs) for write in writes]
        x = self.hidden(begins[0])[:0, first:]
        if first and self._pasts is None:  # must come before the hooks of the changes are added
            with torch.no_grad():
                self._pasts = [
                    self.calls.keys_and_values(layer) for layer in range(self.view.n_layers)
                ]
        with torch.no_grad(), self.view.model.hooks(fwd_hooks=placed.hooks()):
            for layer in range(begins[0], self.view.n_layers):
                fresh = self.hidden(layer)[:, first:].expand(begins.count(layer), -1, -1)
                x = torch.cat([x, fresh.to(x.device)])
                placed.fired.clear()
                x = self.run_block(layer, x, first)
            placed.require_all(self.view.name)
            return self.head(x)

    def begin(self, writes: Sequence[Write]) -> int:
        """The first block that a run with these changes computes differently."""
        return min((write.layer for write in writes), default=self.view.n_layers - 1)

    def block(self, layer: int, writes: Sequence[Write], names: Sequence[str]) -> dict[str, Tensor]:
        """The tensors at hooks of one block when it is run again with these changes.

        Returns:
            For each hook name, the whole tensor without its batch axis, float32.
        """
        kept: dict[str, Tensor] = {}
        placed = Placed(0)
        placed.writes = [(0, write) for write in writes]
        hooks = [*placed.hooks(), *((name, keeper(kept, name, "all", ())) for name in names)]
        with torch.no_grad():
            try:
                with self.view.model.hooks(fwd_hooks=hooks):
                    self.run_block(layer, self.hidden(layer), 0)
            except Exception:
                # Not every block can be called alone, so the whole model is run instead.
                placed.fired.clear()
                with self.view.masked(self.segments):
                    self.view.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
        placed.require_all(self.view.name)
        return kept

    def hidden(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        """The residual stream that entered a block in the unchanged run."""
        return self.calls.hidden(layer)

    def run_block(
        self, layer: int, x: Float[Tensor, "run row d_model"], first: int
    ) -> Float[Tensor, "run row d_model"]:
        """The output of one of the model's blocks for the rows from `first` on of several runs."""
        past = Past(*self._pasts[layer], first) if first and self._pasts is not None else None
        return self.calls(layer, x, first, past)

    def head(self, resid: Float[Tensor, "run row d_model"]) -> Float[Tensor, "run row d_vocab"]:
        """Apply final norm and unembedding with the model's own modules."""
        norm = getattr(self.view.model, "ln_final", None)
        logits = self.view.model.unembed(resid if norm is None else norm(resid))
        transform = self.view.output_transform
        return logits if transform is None else transform(logits)

    def gradients(
        self, names: Iterable[str], metric: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The gradient of a metric of the logits with respect to the tensor at each hook.

        The gradients of parameters are not changed.

        Args:
            names: Hooks.
            metric: A function from logits `[1, pos, d_vocab]` to a 0-d tensor.

        Returns:
            The gradients by hook, without the batch axis, float32.

        Raises:
            InputError: the metric has no gradient.
            ModelError: the metric does not depend on the tensor of a hook.
        """
        caught: dict[str, Tensor] = {}
        hooks = [(name, _gradient_keeper(caught, name)) for name in names]
        with gradients_enabled(self.view.model), self.view.masked(self.segments):
            value = metric(self.view.model.run_with_hooks(self.tokens, fwd_hooks=hooks))
            if not value.requires_grad:
                raise InputError(
                    "the metric has no gradient, so nothing can be screened by attribution; use a "
                    "metric that is computed from the logits by torch alone, or screen=None"
                )
            found = torch.autograd.grad(value, list(caught.values()), allow_unused=True)
        by_name = dict(zip(caught, found, strict=True))
        for name, _ in hooks:
            if by_name.get(name) is None:
                raise ModelError(
                    f"the metric does not depend on the hook {name} of {self.view.name}, "
                    f"so its nodes cannot be screened by attribution; use screen=None"
                )
        return {name: gradient[0].detach().float() for name, gradient in by_name.items()}


def _full(logits: Tensor) -> Tensor:
    """Detached logits in float32 or better, so that a metric does not round."""
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.detach().float() if half else logits.detach()


def _gradient_keeper(
    caught: dict[str, Tensor], name: str
) -> Callable[[Tensor, Any], Tensor | None]:
    def keep(tensor: Tensor, hook: Any) -> Tensor | None:
        if name in caught:
            return None
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        caught[name] = tensor
        return tensor.clone()

    return keep
