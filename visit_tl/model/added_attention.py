"""Add to the attention of heads, in every run of the caller's model.

Most models make their heads from the tensor at `hook_pattern`. Some bridges only show it there: the
attention of the wrapped model has used it already. Which it is, is tried once per model. For the
second kind what is added goes to the heads themselves, `z + change V`, and to the shown pattern.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError, ModelError
from visit_tl.model.hooks import values_hook
from visit_tl.model.view import ModelView

Changes = Mapping[int, Float[Tensor, "head query key"]]
"""What is added to the attention, by layer."""

_USED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_TOKENS: Final = 4
# TransformerLens warns when a hook changes a tensor that was used already.
_UNUSED: Final = "A hook on .* returned a modified tensor"


@contextmanager
def attention_added(view: ModelView, changes: Changes) -> Iterator[None]:
    """Add to the attention of some layers in every run inside, after the softmax.

    Runs must have as many tokens as the changes, or be the last rows of such a run.

    Raises:
        InputError: in a run of another length.
        ModelError: neither way changes the heads as it should.
    """
    shown_only = bool(changes) and not pattern_is_used(view)
    handles: list[tuple[Any, Any]] = []
    quiet = warnings.catch_warnings() if shown_only else contextlib.nullcontext()
    try:
        for layer, change in changes.items():
            for name, function in _functions(view, layer, change, shown_only):
                point = view.model.hook_dict[name]
                before = list(point.fwd_hooks)
                # Permanent, since run_with_hooks and reset_hooks would take it off.
                point.add_hook(function, is_permanent=True)
                handles += [(point, new) for new in point.fwd_hooks if new not in before]
        with quiet:
            if shown_only:
                # The shown pattern is changed as well, to be what the heads are made of.
                warnings.filterwarnings("ignore", _UNUSED)
            yield
    finally:
        for point, handle in handles:
            handle.hook.remove()
            if handle in point.fwd_hooks:
                point.fwd_hooks.remove(handle)


def pattern_is_used(view: ModelView) -> bool:
    """Whether the model makes its heads from the tensor at `hook_pattern`; tried once."""
    if view.model not in _USED:
        _USED[view.model] = _try(view)
    return _USED[view.model]


def _try(view: ModelView) -> bool:
    attn = f"blocks.{view.n_layers - 1}.attn"
    kept: list[Tensor] = []

    def z(change: Callable[[Tensor, Any], Tensor | None]) -> Tensor:
        kept.clear()
        tokens = torch.zeros(1, min(_TOKENS, view.n_ctx), dtype=torch.long, device=view.W_U.device)
        hooks = [(f"{attn}.hook_pattern", change), (f"{attn}.hook_z", lambda t, hook: _keep(t))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _UNUSED)
            view.run(tokens, hooks)
        return kept[0]

    def _keep(tensor: Tensor) -> None:
        kept.append(tensor.detach().float().clone())

    plain, halved = z(lambda t, hook: None), z(lambda t, hook: t / 2)
    if float((halved - plain / 2).norm()) <= 1e-2 * float(plain.norm()):
        return True
    if torch.equal(halved, plain):
        return False
    raise ModelError(
        f"half the attention of {view.name} gives neither half nor all of its heads, so attention "
        f"cannot be patched"
    )


def _functions(
    view: ModelView, layer: int, change: Float[Tensor, "head query key"], shown_only: bool
) -> list[tuple[str, Callable[[Tensor, Any], Tensor | None]]]:
    attn, n = f"blocks.{layer}.attn", change.shape[-1]
    values: list[Tensor] = []

    def require_length(rows: int, keys: int) -> None:
        if keys != n or rows > n:
            raise InputError(
                f"what is added to the attention is of {n} tokens, and this run has {keys}; run "
                f"prompts of {n} tokens inside the block"
            )

    def to_pattern(pattern: Tensor, hook: Any) -> Tensor:
        rows, keys = pattern.shape[-2:]
        require_length(rows, keys)
        return pattern + change[:, n - rows :].to(pattern.device, pattern.dtype)

    def note_values(v: Tensor, hook: Any) -> None:
        values[:] = [v]

    def to_heads(z: Tensor, hook: Any) -> Tensor:
        v = values.pop()
        rows, keys = z.shape[1], v.shape[1]
        require_length(rows, keys)
        each = view.kv_head(v.shape[2]).to(v.device)
        more = change[:, n - rows :].to(z.device, z.dtype)
        return z + einsum(
            more, v[:, :, each], "head query key, batch key head d -> batch query head d"
        )

    both: list[tuple[str, Callable[[Tensor, Any], Tensor | None]]] = [
        (f"{attn}.hook_pattern", to_pattern)
    ]
    if shown_only:
        both += [
            (f"blocks.{layer}.{values_hook(view, layer)}", note_values),
            (f"{attn}.hook_z", to_heads),
        ]
    return both
