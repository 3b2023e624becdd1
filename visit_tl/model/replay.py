"""One forward pass, kept so that parts of it can be run again with something changed.

A change at block l and position p leaves all blocks before l, and in causal models all positions
before p, as they were. So the model's own blocks are called again from l on, with the rows from p
on, and with the keys and values that the earlier rows had. Many changes run side by side as a
batch, each joining it at the block where it begins. Nothing of a block is written anew here: what
is passed to it is what the model itself passed, cut to the rows.

Whether a model allows that is not guessed. It is tried, and every batch carries unchanged rows that
must come out as the model computed them (`visit_tl.causal.replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.block_calls import BlockCalls
from visit_tl.model.differentiable import gradients_enabled
from visit_tl.model.hooks import keeper
from visit_tl.model.past import Past
from visit_tl.model.patch import Placed, Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView


class KeptRun:
    """One forward pass of a prompt, as it was, and the means to run it again from any block.

    The caller's hooks fire as they always do, here and whenever a block is run again; they, the
    flags, the grad mode and the random state are afterwards as they were before.

    Args:
        view: The model.
        prompt: The tokens that go in.
        keep: For each hook whose activations are kept, which part: `row`, `all` or `query`, as in
            `visit_tl.model.hooks.ROWS`.
        positions: The rows that are kept of `row` and `query`.

    Attributes:
        view: The model.
        logits: The model's logits.
        kept: What was kept, float32, by hook, without the batch axis.
        positions: The positions that the rows of `kept` are of.
        calls: How the model called its blocks.

    Raises:
        ModelError: a hook did not fire.
    """

    # What is kept lives longer than the caller's inference mode, and gradients read it.
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
        self.calls = BlockCalls(view, self.tokens)
        with self.calls.noted():
            logits = view.run(self.tokens, hooks)
        self.logits: Float[Tensor, "1 pos d_vocab"] = _full(logits)
        if silent := [name for name in keep or {} if name not in self.kept]:
            raise ModelError(
                f"the hook {silent[0]} of {view.name} did not fire in this forward pass, "
                f"so what it holds cannot be patched"
            )

    @property
    def n_tokens(self) -> int:
        """Number of positions of the prompt."""
        return self.tokens.shape[1]

    @property
    def causal(self) -> bool:
        """Whether a position sees only itself and those before it."""
        return getattr(self.view.model.cfg, "attention_dir", "causal") == "causal"

    def row(self, hook: str, position: int) -> Tensor:
        """What a hook held at one position, of those kept as `row` or `query`."""
        return self.kept[hook][self.positions.index(position)]

    # --- running again -------------------------------------------------------------------------

    def whole(self, writes: Sequence[Write]) -> Float[Tensor, "1 pos d_vocab"]:
        """The logits of the whole model run again with these changes: slow, and always right."""
        placed = Placed(0)
        placed.writes = [(0, write) for write in writes]
        with torch.no_grad():
            logits = self.view.model.run_with_hooks(self.tokens, fwd_hooks=placed.hooks())
        placed.require_all(self.view.name)
        return _full(logits)

    def rows(
        self, runs: Sequence[Sequence[Write]], begins: Sequence[int], first: int
    ) -> Float[Tensor, "run row d_vocab"]:
        """The logits from position `first` on of several runs, each with its changes.

        Args:
            runs: The changes of each run.
            begins: Ascending, the block from which each is computed; not after its first change.
            first: First position that is computed; 0 needs no keys and values of before.

        Raises:
            ModelError: the model's blocks cannot be called like that. Other errors are theirs.
        """
        placed = Placed(first)
        placed.writes = [(i, write) for i, writes in enumerate(runs) for write in writes]
        x = self.hidden(begins[0])[:0, first:]
        if first and self._pasts is None:  # before the hooks of the changes are on
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
        """What hooks of one block hold when it is run again with these changes.

        Returns:
            By name, the whole tensor of the run without its batch axis, float32.
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
                # Not every block can be called by itself; the whole model can.
                placed.fired.clear()
                self.view.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
        placed.require_all(self.view.name)
        return kept

    def hidden(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        """What entered a block in the unchanged run."""
        return self.calls.hidden(layer)

    def run_block(
        self, layer: int, x: Float[Tensor, "run row d_model"], first: int
    ) -> Float[Tensor, "run row d_model"]:
        """One of the model's blocks, on rows from `first` on of several runs."""
        past = Past(*self._pasts[layer], first) if first and self._pasts is not None else None
        return self.calls(layer, x, first, past)

    def head(self, resid: Float[Tensor, "run row d_model"]) -> Float[Tensor, "run row d_vocab"]:
        """Final norm and unembedding, by the model's own modules."""
        norm = getattr(self.view.model, "ln_final", None)
        logits = self.view.model.unembed(resid if norm is None else norm(resid))
        transform = self.view.output_transform
        return logits if transform is None else transform(logits)

    def gradients(
        self, names: Iterable[str], metric: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The gradient of a metric of the logits with respect to what each hook holds.

        The parameters' own gradients are left as they are.

        Args:
            names: Hooks.
            metric: Logits `[1, pos, d_vocab]` to a 0-d tensor.

        Returns:
            By hook, without the batch axis, float32.

        Raises:
            InputError: the metric has no gradient.
            ModelError: a hook does not take part in what the metric reads.
        """
        caught: dict[str, Tensor] = {}
        hooks = [(name, _gradient_keeper(caught, name)) for name in names]
        with gradients_enabled(self.view.model):
            value = metric(self.view.model.run_with_hooks(self.tokens, fwd_hooks=hooks))
            if not value.requires_grad:
                raise InputError(
                    "the metric has no gradient, so nothing can be screened by attribution; give "
                    "one that is computed from the logits by torch alone, or screen=None"
                )
            found = torch.autograd.grad(value, list(caught.values()), allow_unused=True)
        by_name = dict(zip(caught, found, strict=True))
        for name, _ in hooks:
            if by_name.get(name) is None:
                raise ModelError(
                    f"the hook {name} of {self.view.name} takes no part in what the metric reads, "
                    f"so its nodes cannot be screened by attribution; use screen=None"
                )
        return {name: gradient[0].detach().float() for name, gradient in by_name.items()}


def _full(logits: Tensor) -> Tensor:
    """Detached, and no less than float32: a metric should not round."""
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
