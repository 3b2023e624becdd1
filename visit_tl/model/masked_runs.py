"""Run the caller's model under the mask of a prompt's segments.

There are four places where a mask can be put, and which of them a model obeys is tried once:

- `argument`: the model inside a TransformerBridge takes a mask `[1, 1, query, key]`.
- `block`: that model hands such a mask to its blocks, but makes it itself, and positions or slopes
  with it (OPT, BLOOM). What the blocks get is exchanged.
- `method`: the attention of a HookedTransformer, which takes a mask of padding only, hides later
  keys in a method of its own. The method is exchanged during the run.
- `buffer`: each attention module keeps a square table of the keys that a query may see, as in
  TransformerLens's own small decoder. The tables are exchanged during the run.

A model that obeys none, or that sees less than all earlier tokens (a sliding window), is refused
by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visit_tl.errors import ModelError
from visit_tl.segments.masks import additive, allowed
from visit_tl.segments.spans import Segments

_INNER: Final = ("original_model",)
"""Names under which releases of TransformerLens hold the model inside a bridge."""
_WINDOWS: Final = ("sliding_window", "window_size", "attention_window_size", "local_window_size")
"""Names of configurations for how far back attention reaches. A name only says what to try."""
_METHODS: Final = ("apply_causal_mask",)
"""Names of the methods of attention that hide later keys in scores `[batch, head, query, key]`."""
_WAYS: Final = (("argument",), ("block",), ("method",), ("buffer",), ("argument", "buffer"))

_FOUND: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()
_LENGTHS: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()
"""For each model with a window, the lengths of prompts that were found to fit into it."""

# Largest allowed difference between logits without a mask and with the causal one, as a share of
# the largest logit. Measured on every small model of the tests: at most 4e-7.
_SAME: Final = 1e-5
_SAME_HALF: Final = 2e-2
_TOKENS: Final = 6
_SPANS: Final = ((0, 2), (2, 5))


@contextmanager
def masked(model: Any, segments: Segments | None, *, past: int = 0) -> Iterator[None]:
    """Put every run of a model inside under the mask of these segments; None leaves it as it is.

    Args:
        model: A HookedTransformer or TransformerBridge.
        segments: The segments; tokens past the last one are causal, whatever the run's length.
        past: How many positions come from a cache, before the tokens of the run.

    Raises:
        ModelError: the model obeys no such mask.
    """
    if segments is None:
        yield
        return
    with _placed(model, segments, _way(model), past):
        yield


def require_masks(model: Any, segments: Segments | None, length: int) -> None:
    """Require that a model can run prompts of this length under the mask of segments.

    Raises:
        ModelError: it obeys no such mask, or sees less than all earlier tokens.
    """
    if segments is None:
        return
    way = _way(model)
    window = _window(model)
    if window is None or length <= window or length in _LENGTHS.get(model, ()):
        return
    tokens = torch.arange(length, device=_device(model))[None] % int(model.cfg.d_vocab)
    if (off := _causal_error(model, tokens, way)) > _allowed_error(model):
        raise ModelError(
            f"the attention of {_name(model)} reaches {window} tokens back, and this prompt has "
            f"{length}; the mask of segments would lift that limit (logits of the causal mask are "
            f"off by {off:.1e}), so give at most {window} tokens"
        )
    _LENGTHS.setdefault(model, set()).add(length)


# --- which way -----------------------------------------------------------------------------------


def _way(model: Any) -> tuple[str, ...]:
    if model not in _FOUND:
        tried = []
        for way in _WAYS:
            try:
                reason = _refusal(model, way)
            except Exception as error:  # a model that takes no such mask may fail in any way
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if reason is None:
                _FOUND[model] = way
                break
            tried.append(f"{' and '.join(way)}: {reason}")
        else:
            raise ModelError(
                f"{_name(model)} ({type(model).__name__}) cannot run under the mask of segments "
                f"exactly; tried as {'; as '.join(tried)}"
            )
    return _FOUND[model]


def _refusal(model: Any, way: tuple[str, ...]) -> str | None:
    """Why a way of passing the mask does not do what the mask says; None if it does."""
    n = min(_TOKENS, int(model.cfg.n_ctx), _window(model) or _TOKENS)
    d_vocab = int(model.cfg.d_vocab)
    tokens = torch.arange(n, device=_device(model))[None] % d_vocab
    if (off := _causal_error(model, tokens, way)) > _allowed_error(model):
        return f"a causal mask gives other logits than none, by {off:.1e} of the largest"
    segments = Segments(tuple((a, min(b, n)) for a, b in _SPANS if a < n))
    mask = allowed(segments.spans, n).to(tokens.device)

    def run(ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        patterns: list[Tensor] = []
        hooks = [
            (f"blocks.{i}.attn.hook_pattern", _into(patterns)) for i in range(len(model.blocks))
        ]
        with torch.no_grad(), _placed(model, segments, way, 0):
            return model.run_with_hooks(ids, fwd_hooks=hooks)[0].float(), patterns

    def changed(position: int) -> Tensor:
        other = tokens.clone()
        other[0, position] = (other[0, position] + max(1, d_vocab // 2)) % d_vocab
        return other

    logits, patterns = run(tokens)
    for layer, pattern in enumerate(patterns):
        if bool((pattern[0][:, ~mask] != 0).any()):
            return f"blocks.{layer} attends to tokens that the mask hides"
        upper = mask.triu(1)
        if bool(upper.any()) and not bool((pattern[0][:, upper] != 0).any()):
            return f"blocks.{layer} does not attend to later tokens of a segment"
    plain = [model.run_with_hooks(ids)[0].float() for ids in (tokens, changed(1))]
    for position, (start, _) in ((1, (0, 2)), (min(4, n - 1), (2, 5))):
        if start >= n:
            continue
        moved = (run(changed(position))[0] != logits).any(-1)
        if bool(moved[:start].any()):
            return f"changing the token {position} moves a token that must not see it"
        # Whether a token can reach another at all is seen without a mask.
        if bool((plain[0] != plain[1])[2:].any()) and not bool(moved[start]):
            return f"changing the token {position} does not move the first of its segment"
    return None


def _causal_error(model: Any, tokens: Tensor, way: tuple[str, ...]) -> float:
    with torch.no_grad():
        plain = model.run_with_hooks(tokens).float()
        with _placed(model, Segments(()), way, 0):
            under = model.run_with_hooks(tokens).float()
    largest = float(plain.abs().max())
    return float((under - plain).abs().max()) / largest if largest else 0.0


def _allowed_error(model: Any) -> float:
    return _SAME_HALF if _dtype(model) in (torch.float16, torch.bfloat16) else _SAME


def _into(patterns: list[Tensor]) -> Callable[[Tensor, Any], None]:
    def keep(tensor: Tensor, hook: Any) -> None:
        patterns.append(tensor.detach())

    return keep


def _window(model: Any) -> int | None:
    """The shortest reach of attention that a configuration names; None if it names none."""
    configs = [model.cfg, *(getattr(getattr(model, n, None), "config", None) for n in _INNER)]
    values = [getattr(config, name, None) for config in configs for name in _WINDOWS]
    return min((v for v in values if type(v) is int and v > 0), default=None)


# --- putting it there ----------------------------------------------------------------------------


@contextmanager
def _placed(model: Any, segments: Segments, way: Sequence[str], past: int) -> Iterator[None]:
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
    inner = next((found for n in _INNER if (found := getattr(model, n, None)) is not None), None)
    if not isinstance(inner, nn.Module):
        raise ModelError("there is no model inside that takes a mask")
    masks: dict[tuple[int, Any], Float[Tensor, "1 1 query key"]] = {}

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tokens = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 2)
        batch, rows = tokens.shape[:2]
        key = rows, tokens.device
        if key not in masks:
            size = past + rows
            whole = allowed(segments.spans, size)[past:].to(tokens.device)
            masks[key] = additive(whole, _dtype(model))[None, None]
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
            upper = allowed(segments.spans, size).triu(1)[size - rows :].to(value.device)
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
        upper = allowed(segments.spans, size).triu(1)[size - rows :].to(hidden.device)
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


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device


def _dtype(model: Any) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def _name(model: Any) -> str:
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)
