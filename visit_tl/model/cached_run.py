"""Run a prompt piece by piece, with the model's own cache of keys and values.

Which argument takes the cache, and what a cache is, differs between classes of model and releases.
All known pairs are tried once per model: a prompt run in two pieces must give the logits of the
prompt run whole. If none does, every piece is run with all that came before it, which is slow and
gives the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.masked_runs import masked, require_masks
from visit_tl.model.replay.past import UNSHOWN_NAMES
from visit_tl.model.replay.slow_way import say_once
from visit_tl.model.same_logits import differ, error_of
from visit_tl.model.view import ModelView
from visit_tl.segments.spans import Segments


def _transformers_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _hooked_cache(model: Any) -> Any:
    import transformer_lens

    kind = next(
        found
        for name in ("HookedTransformerKeyValueCache", "TransformerLensKeyValueCache")
        if (found := getattr(transformer_lens, name, None)) is not None
    )
    return kind.init_cache(model.cfg, next(model.parameters()).device, 1)


@dataclass(frozen=True)
class _Entry:
    """Where a model takes a cache.

    Attributes:
        name: The argument.
        make: What makes an empty cache.
        options: Further arguments.
        inner: Whether it is an argument of each attention module instead of the model. The model
            then does not know of the cache, and is told the positions and the mask.
    """

    name: str
    make: Callable[[Any], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    inner: bool = False

    def __str__(self) -> str:
        return f"attn {self.name}" if self.inner else self.name


_ENTRIES: Final = (
    _Entry("past_key_values", _transformers_cache, {"use_cache": True}),
    _Entry("past_kv_cache", _hooked_cache),
    # TransformerLens 4.3 with transformers 5.24, which gives its cache another name.
    *(_Entry(name, _transformers_cache, inner=True) for name in UNSHOWN_NAMES),
)

_FOUND: WeakKeyDictionary[Any, _Entry | None] = WeakKeyDictionary()

_TOKENS: Final = 6


class CachedRun:
    """A run of a prompt that can be continued.

    Args:
        view: The model.
        segments: The segments under whose mask it is run; None is causal. No piece may end inside
            a segment.

    Attributes:
        view: The model.
        segments: The segments.
        ids: The tokens that were run so far.
    """

    def __init__(self, view: ModelView, segments: Segments | None = None) -> None:
        self.view, self.segments = view, segments
        self.ids: tuple[int, ...] = ()
        self._entry = _entry(view)
        self._cache = None if self._entry is None else self._entry.make(view.model)

    @property
    def cached(self) -> bool:
        """Whether the model takes a cache, so that earlier tokens are not run again."""
        return self._cache is not None

    def feed(self, ids: Sequence[int]) -> Float[Tensor, "row d_vocab"]:
        """Run further tokens.

        Returns:
            Their logits, float32.

        Raises:
            InputError: they end inside a segment, whose other tokens they would have to see, or
                are more than the context holds.
        """
        start, end = len(self.ids), len(self.ids) + len(ids)
        require_whole_segments(self.segments, end)
        if end > self.view.n_ctx:
            raise InputError(
                f"{end} tokens are more than the context of {self.view.name} holds, "
                f"{self.view.n_ctx}"
            )
        require_masks(self.view.model, self.segments, end)
        whole = (*self.ids, *ids)
        rows = _run(self.view, whole, start, self.segments, self._entry, self._cache)
        self.ids = whole
        return rows.float()

    def copy(self) -> CachedRun:
        """The same run, to be continued in another way."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        return other


def require_whole_segments(segments: Segments | None, end: int) -> None:
    """Require that no segment has tokens on both sides of a position.

    Raises:
        InputError: one does.
    """
    for start, stop in segments.spans if segments is not None else ():
        if start < end < stop:
            raise InputError(
                f"the first {end} tokens end inside the segment ({start}, {stop}), whose tokens "
                f"see each other and are run together; end at {start} or {stop}"
            )


def _run(
    view: ModelView,
    ids: Sequence[int],
    start: int,
    segments: Segments | None,
    entry: _Entry | None,
    cache: Any,
) -> Float[Tensor, "row d_vocab"]:
    """The logits of the tokens from `start` on; those before are in the cache, if there is one."""
    model, device = view.model, view.W_U.device
    with torch.no_grad(), warnings.catch_warnings(), ExitStack() as stack:
        if entry is None:
            return view.run(torch.tensor([ids], device=device), [], segments)[0, start:]
        # transformers warns of names that it will not take later.
        warnings.simplefilter("ignore", FutureWarning)
        tokens = torch.tensor([ids[start:]], device=device)
        options = {entry.name: cache, **entry.options}
        if entry.inner:
            options = {"position_ids": torch.arange(start, len(ids), device=device)[None]}
            segments = Segments(()) if segments is None else segments
            for block in model.blocks:
                give = _giver(entry.name, cache)
                handle = block.attn.register_forward_pre_hook(give, with_kwargs=True)
                stack.callback(handle.remove)
        with masked(model, segments, past=start):
            return model(tokens, **options)[0]


def _giver(name: str, cache: Any) -> Callable[..., Any]:
    def give(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, name: cache}

    return give


def _entry(view: ModelView) -> _Entry | None:
    """Where the model takes a cache; None if it takes none of the known ones."""
    if view.model not in _FOUND:
        tried: list[str] = []
        _FOUND[view.model] = None
        for entry in _ENTRIES:
            try:
                off = _error_in_pieces(view, entry)
            except Exception as error:  # a model without such a cache may fail in any way
                tried.append(f"{entry}: {type(error).__name__}")
                continue
            if off is None:
                _FOUND[view.model] = entry
                break
            tried.append(f"{entry}: other logits, by {off:.1e} of the largest")
        else:
            say_once(
                view.model,
                view.name,
                "whole run for each token",
                "all earlier tokens are run again for each new one",
                f"it takes no cache of keys and values (tried {'; '.join(tried)})",
                doing="generating with",
            )
    return _FOUND[view.model]


def _error_in_pieces(view: ModelView, entry: _Entry) -> float | None:
    """How far the logits of a prompt in pieces are from those of it whole; None if the same."""
    n = min(_TOKENS, view.n_ctx)
    ids = [i % view.d_vocab for i in range(n)]
    whole = _run(view, ids, 0, None, None, None)
    cache = entry.make(view.model)
    pieces = ((0, 2), (2, n - 1), (n - 1, n))
    rows = torch.cat([_run(view, ids[:b], a, None, entry, cache) for a, b in pieces if a < b])
    return error_of(rows, whole) if differ(rows, whole) else None
