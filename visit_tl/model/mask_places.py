"""The places where a mask of segments can be put in the caller's model, for a while.

- `argument`: the model inside a TransformerBridge takes a mask `[1, 1, query, key]`.
- `block`: that model hands such a mask to its blocks, but makes it itself, and positions or slopes
  with it (OPT, BLOOM). What the blocks get is exchanged.
- `method`: the attention of a HookedTransformer, which takes a mask of padding only, hides later
  keys in a method of its own. The method is exchanged during the run.
- `buffer`: each attention module keeps a square table of the keys that a query may see, as in
  TransformerLens's own small decoder. The tables are exchanged during the run.

Which of them a model obeys is found in `masked_runs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visit_tl.errors import ModelError
from visit_tl.segments.masks import additive, allowed, later
from visit_tl.segments.spans import Segments

INNER: Final = ("original_model",)
"""Names under which releases of TransformerLens hold the model inside a bridge."""
_METHODS: Final = ("apply_causal_mask",)
"""Names of the methods of attention that hide later keys in scores `[batch, head, query, key]`."""
WAYS: Final = (("argument",), ("block",), ("method",), ("buffer",), ("argument", "buffer"))
"""The places, alone or together, in the order in which they are tried."""


@contextmanager
def placed(model: Any, segments: Segments, way: Sequence[str], past: int) -> Iterator[None]:
    """Put the mask of segments in some places; `past` positions come before those of a run."""
    with ExitStack() as stack:
        if "argument" in way:
            stack.enter_context(_as_argument(model, segments, past))
        if "block" in way:
            stack.enter_context(_as_block_mask(model, segments))
        if "method" in way:
            stack.enter_context(_as_method(model, segments))
        if "buffer" in way:
            stack.enter_context(_as_buffers(model, segments))
        yield


@contextmanager
def _as_argument(model: Any, segments: Segments, past: int) -> Iterator[None]:
    inner = next((found for n in INNER if (found := getattr(model, n, None)) is not None), None)
    if not isinstance(inner, nn.Module):
        raise ModelError("there is no model inside that takes a mask")
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    masks: dict[tuple[int, Any], Float[Tensor, "1 1 query key"]] = {}

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tokens = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 2)
        batch, rows = tokens.shape[:2]
        key = rows, tokens.device
        if key not in masks:
            size = past + rows
            seen = allowed(segments.spans, size, past).to(tokens.device)
            masks[key] = additive(seen, dtype)[None, None]
        return args, {**kwargs, "attention_mask": masks[key].expand(batch, -1, -1, -1)}

    handle = inner.register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _as_block_mask(model: Any, segments: Segments) -> Iterator[None]:
    handles = [
        block.register_forward_pre_hook(_exchange_mask(segments), with_kwargs=True)
        for block in model.blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _exchange_mask(segments: Segments) -> Callable[..., Any]:
    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim == 3)
        rows, found = stream.shape[1], 0

        def unhidden(value: Any) -> Any:
            nonlocal found
            if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[-2] != rows:
                return value
            size = value.shape[-1]
            if size < rows or not (value.is_floating_point() or value.dtype == torch.bool):
                return value
            found += 1
            upper = later(segments.spans, size, size - rows).to(value.device)
            if not bool(upper.any()):  # nothing to show, and a slope a key can look like a mask
                found = 1
                return value
            shown = torch.ones if value.dtype == torch.bool else torch.zeros
            return torch.where(upper, shown((), dtype=value.dtype, device=value.device), value)

        new = tuple(map(unhidden, args)), {name: unhidden(x) for name, x in kwargs.items()}
        if found != 1:
            raise ModelError(f"its blocks get {found} masks of queries and keys, not one")
        return new

    return put


@contextmanager
def _as_method(model: Any, segments: Segments) -> Iterator[None]:
    exchanged: list[tuple[nn.Module, str, Any]] = []
    try:
        for block in model.blocks:
            name = next((n for n in _METHODS if callable(getattr(block.attn, n, None))), None)
            if name is None:
                raise ModelError("its attention has no method that hides later keys")
            exchanged.append((block.attn, name, vars(block.attn).get(name)))
            vars(block.attn)[name] = _unhiding(getattr(block.attn, name), segments)
        yield
    finally:
        for module, name, own in exchanged:
            if own is None:
                del vars(module)[name]
            else:
                vars(module)[name] = own


def _unhiding(method: Callable[..., Tensor], segments: Segments) -> Callable[..., Tensor]:
    """A method that hides later keys, except those of a query's own segment."""

    def hide(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        hidden = method(scores, *args, **kwargs)
        rows, size = scores.shape[-2:]
        upper = later(segments.spans, size, size - rows).to(hidden.device)
        return torch.where(upper, scores.to(hidden.device), hidden)

    return hide


@contextmanager
def _as_buffers(model: Any, segments: Segments) -> Iterator[None]:
    handles: list[Any] = []
    before: list[tuple[nn.Module, str, Tensor]] = []
    try:
        for block in model.blocks:
            tables = _tables(block.attn)
            if not tables:
                raise ModelError("its attention keeps no table of the keys that a query may see")
            before += [(module, name, table) for module, name, table, _ in tables]
            put = _exchange(tables, segments)
            handles.append(block.attn.register_forward_pre_hook(put, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name, table in before:
            module._buffers[name] = table


Table = tuple[nn.Module, str, Bool[Tensor, "*ones key key"], bool]
"""The module and name of a table, the table, and the value that it has where a key is seen."""


def _tables(attention: nn.Module) -> list[Table]:
    """The square tables of an attention module that say which keys a query may see."""
    found: list[Table] = []
    for module in attention.modules():
        for name, table in module._buffers.items():
            if table is None or table.dtype != torch.bool or table.ndim < 2:
                continue
            size = table.shape[-1]
            if table.shape[-2] != size or table.numel() != size * size:
                continue
            square = table.reshape(size, size)
            # A query always sees itself. An empty table grows when it is needed.
            seen = bool(square.diagonal().all())
            if seen or not bool(square.diagonal().any()):
                found.append((module, name, table, seen))
    return found


def _exchange(tables: Sequence[Table], segments: Segments) -> Callable[..., None]:
    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        rows = next(x.shape[1] for x in given if isinstance(x, Tensor) and x.ndim >= 3)
        pasts = [getattr(x, "past_keys", None) for x in given]
        size = rows + next((p.shape[1] for p in pasts if isinstance(p, Tensor)), 0)
        mask = allowed(segments.spans, size)
        for owner, name, table, seen in tables:
            _require_no_window(table, seen, size)
            shape = (*table.shape[:-2], size, size)
            new = (mask if seen else ~mask).reshape(shape).to(table.device)
            owner._buffers[name] = new

    return put


def _require_no_window(table: Tensor, seen: bool, size: int) -> None:
    """Refuse a table that hides earlier keys."""
    n = min(size, table.shape[-1])
    own = table.reshape(table.shape[-2:])[:n, :n]
    if n and bool((own == (not seen)).tril().any()):
        reach = int((own[-1] == seen).sum())
        raise ModelError(
            f"its attention reaches {reach} tokens back, and this run has {size}; the mask of "
            f"segments would lift that limit, so give at most {reach} tokens"
        )
