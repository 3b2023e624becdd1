"""Run one block of a kept run again on a batch of streams, with the model's own modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from visit_tl.causal.residual_writes import WrittenRun
from visit_tl.errors import ModelError
from visit_tl.model.replay.slow_way import say_once
from visit_tl.model.standing_hooks import left_on
from visit_tl.xray.conservation import relative, tolerance

# Limit on how many numbers the widest tensor of one batch holds; 2^24 floats are 64 MB.
_NUMBERS = 2**24


class BlockRows:
    """Runs one block of a run again, each row with its own values at some hooks.

    The block is called alone if that gives the same values as before when nothing is changed.
    Otherwise it runs inside the whole model. Both give the same.

    Args:
        run: The run that the block belongs to.
        layer: Index of the block.
        alone: False never calls the block alone; for comparison.

    Raises:
        ModelError: the block, run again without changes, gives other values than before.
    """

    def __init__(self, run: WrittenRun, layer: int, *, alone: bool = True) -> None:
        self.run, self.layer = run, layer
        self.hooks = dict(run.hooks[layer])
        # Whole tensors are put and read, so it does not matter that latent attention shows heads
        # first.
        for slot in ("query", "keys", "values"):
            if (shown := self.hooks.get(f"latent_{slot}")) is not None:
                self.hooks[slot] = shown
        self.alone = alone and self._reproduces(True)
        if alone and not self.alone:
            say_once(
                run.view.model,
                run.view.name,
                "whole model for a block",
                f"to try new inputs of one of {run.view.n_layers} blocks, all before it are run",
                f"blocks.{layer} gives other numbers, or none, when it is called alone",
            )
        if not self.alone and not self._reproduces(False):
            raise ModelError(
                f"blocks.{layer} of {run.view.name} does not give the same numbers when it runs "
                f"again, so no change in it can be measured; call model.eval(), and take off hooks "
                f"that change what they see from run to run{left_on(run.view.model)}"
            )

    def __call__(self, put: Mapping[str, Tensor], slots: Sequence[str]) -> dict[str, Tensor]:
        """Run the block with new values at some hooks, and return the values at others.

        Args:
            put: By slot of `model.hooks.hook_names`, the new values at its hook, `[row, pos, ...]`;
                all with the same number of rows.
            slots: The slots to read.

        Returns:
            By slot, `[row, pos, ...]`, float32.
        """
        rows = len(next(iter(put.values())))
        size = self._size()
        found: dict[str, list[Tensor]] = {slot: [] for slot in slots}
        for at in range(0, rows, size):
            part = {slot: tensor[at : at + size] for slot, tensor in put.items()}
            n = len(next(iter(part.values())))
            for slot, tensor in self._batch(n, part, slots, self.alone).items():
                found[slot].append(tensor)
        return {slot: torch.cat(tensors) for slot, tensors in found.items()}

    def _size(self) -> int:
        view, n = self.run.view, self.run.kept.n_tokens
        width = max(view.d_model * 4, view.n_heads * max(view.d_head * 3, n))
        return max(1, _NUMBERS // (n * width))

    def _reproduces(self, alone: bool) -> bool:
        slots = [slot for slot in ("z", "attn_out", "mlp_out") if slot in self.hooks]
        if not alone:
            again = self._batch(1, {}, slots, alone)
        else:
            try:
                again = self._batch(1, {}, slots, alone)
            except Exception:  # a block that cannot be called alone may fail in any way
                return False
        allowed = tolerance(self.run.view)
        return all(relative(again[s][0], self.run.at(self.layer, s)) <= allowed for s in slots)

    def _batch(
        self, n: int, put: Mapping[str, Tensor], slots: Sequence[str], alone: bool
    ) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        hooks = [(self.hooks[slot], _putter(tensor)) for slot, tensor in put.items()]
        hooks += [(self.hooks[slot], _reader(kept, slot, len(slots))) for slot in slots]
        model, again = self.run.view.model, self.run.kept
        with torch.no_grad(), contextlib.suppress(_AllRead):
            if alone:
                hidden = again.hidden(self.layer)
                with model.hooks(fwd_hooks=hooks):
                    again.run_block(self.layer, hidden.expand(n, -1, -1), 0)
            else:
                with self.run.view.masked(again.segments):
                    model.run_with_hooks(again.tokens.expand(n, -1), fwd_hooks=hooks)
        if silent := [slot for slot in slots if slot not in kept]:
            raise ModelError(
                f"the hook {self.hooks[silent[0]]} of {self.run.view.name} did not fire when its "
                f"block ran again"
            )
        return kept


def _putter(value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    def put(tensor: Tensor, hook: Any) -> Tensor:
        return value.to(tensor.device, tensor.dtype).reshape(tensor.shape)

    return put


class _AllRead(Exception):  # noqa: N818 (not an error, but an early end of a run)
    """Ends a run once all wanted hooks are read; this often skips the MLP, most of a block."""


def _reader(kept: dict[str, Tensor], slot: str, wanted: int) -> Callable[[Tensor, Any], None]:
    def read(tensor: Tensor, hook: Any) -> None:
        kept[slot] = tensor.detach().float().clone()
        if len(kept) == wanted:
            raise _AllRead

    return read
