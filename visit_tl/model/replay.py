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

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.differentiable import gradients_enabled
from visit_tl.model.hooks import keeper
from visit_tl.model.past import Past, is_past
from visit_tl.model.patch import Placed, Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

# Arguments of a block that have one row a position, and the axis of the rows, from the end.
_ROW_AXIS: Final = {
    "attention_mask": -2,
    "position_ids": -1,
    "cache_position": -1,
    "shortformer_pos_embed": -2,
}


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
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._pasts: list[tuple[Tensor, Tensor]] | None = None
        hooks = [
            (name, keeper(self.kept, name, rows, self.positions))
            for name, rows in (keep or {}).items()
        ]
        handles = [
            block.register_forward_pre_hook(self._catcher(layer), with_kwargs=True)
            for layer, block in enumerate(view.model.blocks)
        ]
        try:
            with torch.no_grad():
                logits = view.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
        finally:
            for handle in handles:
                handle.remove()
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
        x = self._hidden(begins[0])[:0, first:]
        if first and self._pasts is None:  # before the hooks of the changes are on
            with torch.no_grad():
                self._pasts = [self._made(layer) for layer in range(self.view.n_layers)]
        with torch.no_grad(), self.view.model.hooks(fwd_hooks=placed.hooks()):
            for layer in range(begins[0], self.view.n_layers):
                fresh = self._hidden(layer)[:, first:].expand(begins.count(layer), -1, -1)
                x = torch.cat([x, fresh.to(x.device)])
                placed.fired.clear()
                x = self._block(layer, x, first)
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
                    self._block(layer, self._hidden(layer), 0)
            except Exception:
                # Not every block can be called by itself; the whole model can.
                placed.fired.clear()
                self.view.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
        placed.require_all(self.view.name)
        return kept

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

    # --- details -------------------------------------------------------------------------------

    def _catcher(self, layer: int) -> Callable[..., None]:
        def catch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._calls[layer] = args, dict(kwargs)

        return catch

    def _hidden(self, layer: int) -> Tensor:
        """What entered a block, `[1, pos, d_model]`."""
        if layer not in self._calls:
            raise ModelError(
                f"blocks.{layer} of {self.view.name} was not called as a module, so it cannot be "
                f"run again by itself"
            )
        args, kwargs = self._calls[layer]
        for name in ("hidden_states", "resid_pre"):
            if name in kwargs:
                return kwargs[name]
        return args[0]

    def _block(self, layer: int, x: Tensor, first: int) -> Tensor:
        """One of the model's blocks, on rows from `first` on of several runs."""
        if first == 0 or self._pasts is None:
            return self._call(layer, x, 0, None)
        return self._call(layer, x, first, Past(*self._pasts[layer], first))

    def _made(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values that a block makes of the unchanged run, as it caches them.

        Raises:
            ModelError: it takes no cache.
        """
        past = Past()
        self._call(layer, self._hidden(layer), 0, past)
        if past.seen is None:
            raise ModelError(
                f"blocks.{layer} of {self.view.name} does not use a cache of keys and values"
            )
        return past.seen

    def _call(self, layer: int, x: Tensor, first: int, past: Past | None) -> Tensor:
        block = self.view.model.blocks[layer]
        args, kwargs = self._calls[layer]
        inner = getattr(block, "original_component", None)
        names = list(inspect.signature((block if inner is None else inner).forward).parameters)
        hidden = {"hidden_states", "resid_pre"} & set(kwargs)
        new_args = [
            _fitted(name, value, x, first, past) for name, value in zip(names, args, strict=False)
        ]
        if len(new_args) < len(args):  # *args: only what enters is passed without a name
            new_args = list(args)
        if not hidden:
            new_args[0] = x
        new_kwargs = {
            name: x if name in hidden else _fitted(name, value, x, first, past)
            for name, value in kwargs.items()
        }
        out = block(*new_args, **new_kwargs)
        return out[0] if isinstance(out, tuple) else out


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


def _fitted(name: str, value: Any, x: Tensor, first: int, past: Past | None) -> Any:
    """An argument of a block, cut to the rows from `first` on and widened to the batch."""
    if is_past(name, value):
        return past if past is not None else Past() if value is not None else None
    if name.startswith("position_embeddings") and isinstance(value, tuple):
        return tuple(part[..., first:, :] for part in value)
    if not isinstance(value, Tensor):
        return value
    axis = _ROW_AXIS.get(name)
    by_row = axis is not None and (name != "attention_mask" or value.ndim == 4)
    if axis is not None and by_row:
        value = value.narrow(axis, first, value.shape[axis] - first)
    if name == "alibi":  # Bloom: [batch * head, 1, key]; Falcon: [batch, head, 1, key]
        return value.repeat(len(x), *(1 for _ in value.shape[1:]))
    return value
