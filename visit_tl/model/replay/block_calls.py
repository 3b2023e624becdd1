"""Call a model's blocks again, on the rows from one position on, for several runs at once.

A block gets the arguments that the model itself passed, cut to the rows (`block_arguments.py`).
Earlier rows are not computed again; the block uses their keys and values from a cache, as in
generation. The argument that takes the cache is found by trying: it is right if the block uses a
cache given there, and if the rows then come out the same as when all rows are computed.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.replay.block_arguments import (
    Axes,
    Call,
    Path,
    call_of_block,
    fitted,
    hidden_path,
    leaves,
    readings,
    rebuilt,
    structure,
)
from visit_tl.model.replay.past import UNSHOWN_NAMES, Past, is_cache
from visit_tl.model.view import ModelView
from visit_tl.segments.spans import Segments

# Largest allowed difference between rows computed alone and the same rows computed with all others,
# as a share of what the block adds. Measured on every small model of the tests in float32: at most
# 2e-6 if the arguments are read correctly, at least 1e-2 if a mask or an angle is wrong.
_SAME: Final = 1e-4
_SAME_HALF: Final = 5e-2


@dataclass(frozen=True)
class Entry:
    """Where a block takes its cache of keys and values.

    Attributes:
        place: The argument, by index or name.
        inner: Whether it is an argument of the block's attention instead of the block.
    """

    place: int | str
    inner: bool


@dataclass
class _Plan:
    """How to call blocks of one kind on some of their rows."""

    readings: list[dict[Path, Axes]]
    entry: Entry | None = None
    refusal: str | None = None


_FOUND: WeakKeyDictionary[Any, dict[Any, _Plan]] = WeakKeyDictionary()
"""For each model, the plans of its kinds of blocks. Failures are not stored: a hook may cause one.
"""


class BlockCalls:
    """The calls of the blocks in one forward pass, and methods to call the blocks again.

    Args:
        view: The model.
        tokens: The prompt.
        segments: The segments under whose mask it is run; None is causal.
    """

    def __init__(self, view: ModelView, tokens: Tensor, segments: Segments | None = None) -> None:
        self.view, self.tokens, self.segments = view, tokens, segments
        self._calls: dict[int, Call] = {}
        self._plans: dict[Any, _Plan] = {}

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Record the calls of the blocks in a forward pass that is run inside."""
        handles = [
            block.register_forward_pre_hook(_note(self._calls, layer), with_kwargs=True)
            for layer, block in enumerate(self.view.model.blocks)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def hidden(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        """The residual stream that entered a block.

        Raises:
            ModelError: the block was not called as a module.
        """
        call = self._call(layer)
        path = self._hidden_path(call)
        return next(value for where, value in leaves(call) if where == path)

    def arguments(self, layer: int) -> Iterator[Any]:
        """Every value that was passed to a block; tuples, lists and dicts are opened."""
        yield from (value for _, value in leaves(self._call(layer)))

    def __call__(
        self, layer: int, x: Float[Tensor, "run row d_model"], first: int, past: Past | None = None
    ) -> Float[Tensor, "run row d_model"]:
        """The output of a block for the rows from `first` on of several runs.

        Args:
            layer: The block.
            x: Its input.
            first: The position of the first row.
            past: The keys and values of the earlier rows, from `keys_and_values`; required if
                `first` is not 0.
        """
        plan = self._plan(layer)
        return self._run(layer, x, first, past, plan.entry, plan.readings[0])

    def keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values of a block in the unchanged run, in the form that it caches.

        Raises:
            ModelError: the block takes no cache; the message lists what was tried.
        """
        if (kept := self.view.parts[layer].opaque_words) is not None:
            raise ModelError(
                f"blocks.{layer} of {self.view.name} has a part that was not opened and may keep a "
                f"state of its own ({kept}), so earlier rows cannot come from keys and values"
            )
        plan = self._plan(layer)
        if plan.entry is None and plan.refusal is None:
            self._find_entry(layer, plan)
        if plan.entry is None:
            raise ModelError(plan.refusal)
        past = Past()
        self._run(layer, self.hidden(layer), 0, past, plan.entry, plan.readings[0])
        if past.seen is None:
            raise ModelError(f"blocks.{layer} does not use the cache that blocks of its kind use")
        return past.seen

    # --- how a block takes its arguments -------------------------------------------------------

    def _call(self, layer: int) -> Call:
        if layer not in self._calls:
            raise ModelError(
                f"blocks.{layer} of {self.view.name} was not called as a module, so it cannot be "
                f"run again by itself"
            )
        return self._calls[layer]

    def _hidden_path(self, call: Call) -> Path:
        return hidden_path(call, self.tokens.shape[1], self.view.d_model)

    def _plan(self, layer: int) -> _Plan:
        call = self._call(layer)
        kind = (type(_wrapped(self.view.model.blocks[layer])), *structure(call).items())
        if kind not in self._plans:
            known = _FOUND.get(self.view.model, {}).get(kind)
            self._plans[kind] = known or _Plan(self._readings(layer, call))
        plan = self._plans[kind]
        if plan.entry is not None:
            _FOUND.setdefault(self.view.model, {})[kind] = plan
        return plan

    def _readings(self, layer: int, call: Call) -> list[dict[Path, Axes]]:
        n, model = self.tokens.shape[1], self.view.model
        grown = 1 if n < self.view.n_ctx else -1
        more = torch.cat([self.tokens, self.tokens[:, -1:]], dim=1) if grown > 0 else None
        other = self.tokens[:, :-1] if more is None else more
        try:
            longer = call_of_block(model, layer, other, self.segments)
            twice = call_of_block(model, layer, self.tokens.expand(2, -1), self.segments)
            return list(readings(call, longer, twice, self._hidden_path(call), grown))
        except Exception:  # a hook of the caller may work for this prompt only
            return [{}]

    def _find_entry(self, layer: int, plan: _Plan) -> None:
        """Try each argument that may take a cache, with each reading of the other arguments."""
        tried: list[str] = []
        for entry in self._entries(layer):
            tried.append(f"attn {entry.place}" if entry.inner else str(entry.place))
            for reading in plan.readings:
                if self._works(layer, entry, reading):
                    plan.entry = entry
                    plan.readings = [reading]
                    return
        plan.refusal = (
            f"blocks.{layer} of {self.view.name} fails or gives other numbers when earlier rows "
            f"come from a cache of keys and values (arguments tried: {', '.join(tried) or 'none'})"
        )

    def _entries(self, layer: int) -> Iterator[Entry]:
        """Arguments that may take a cache: those of the block first, then those of its attention.

        Such an argument holds None or a cache now.
        """
        block = self.view.model.blocks[layer]
        yield from (Entry(place, False) for place in _open_places(block, self._call(layer)))
        attn = getattr(block, "attn", None)
        if attn is None:
            return
        calls: dict[int, Call] = {}
        handle = attn.register_forward_pre_hook(_note(calls, layer), with_kwargs=True)
        try:
            with contextlib.suppress(Exception), torch.no_grad():
                self._run(layer, self.hidden(layer), 0, None, None, {})
        finally:
            handle.remove()
        shown = _open_places(attn, calls.get(layer, ((), {})))
        unshown = (name for name in UNSHOWN_NAMES if name not in shown)
        yield from (Entry(place, True) for place in (*shown, *unshown))

    def _works(self, layer: int, entry: Entry, reading: dict[Path, Axes]) -> bool:
        """Whether the block's last rows come out the same computed alone as with all rows."""
        x = self.hidden(layer)
        first = (self.tokens.shape[1] + 1) // 2
        past = Past()
        try:
            with torch.no_grad(), warnings.catch_warnings():
                # A deprecated argument counts as missing.
                warnings.simplefilter("error", FutureWarning)
                warnings.simplefilter("error", DeprecationWarning)
                whole = self._run(layer, x, 0, past, entry, reading)
                if past.seen is None:
                    return False
                before = Past(*past.seen, first)
                rows = self._run(layer, x[:, first:], first, before, entry, reading)
        except Exception:  # an argument that takes no cache may fail in any way
            return False
        if before.seen is None or rows.shape != whole[:, first:].shape:
            return False
        added = (whole - x)[:, first:].float().norm()
        allowed = _SAME if x.dtype in (torch.float32, torch.float64) else _SAME_HALF
        return bool((rows - whole[:, first:]).float().norm() <= allowed * added)

    # --- calling -------------------------------------------------------------------------------

    def _run(
        self,
        layer: int,
        x: Tensor,
        first: int,
        past: Past | None,
        entry: Entry | None,
        reading: dict[Path, Axes],
    ) -> Tensor:
        block, call = self.view.model.blocks[layer], self._call(layer)
        hidden = self._hidden_path(call)

        def change(path: Path, value: Any) -> Any:
            if path == hidden:
                return x
            if is_cache(value):
                if self.view.parts[layer].opaque_words is not None:
                    return None  # such a part may keep other things in a cache than keys
                return Past()  # the model's own cache belongs to the earlier run
            if isinstance(value, Tensor):
                return fitted(value, reading.get(path, Axes()), first, len(x))
            return value

        args, kwargs = rebuilt(call, change)
        handle = None
        if past is not None and entry is not None:
            if entry.inner:
                handle = block.attn.register_forward_pre_hook(_giver(entry, past), with_kwargs=True)
            else:
                args, kwargs = _given(args, kwargs, entry, past)
        try:
            with self.view.masked(self.segments):
                out = block(*args, **kwargs)
        finally:
            if handle is not None:
                handle.remove()
        return out[0] if isinstance(out, tuple) else out


def _note(calls: dict[int, Call], layer: int) -> Callable[..., None]:
    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[layer] = args, dict(kwargs)

    return note


def _giver(entry: Entry, past: Past) -> Callable[..., Call]:
    def give(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return _given(args, kwargs, entry, past)

    return give


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], entry: Entry, past: Past) -> Call:
    """The call with the cache passed as the argument `entry.place`."""
    if isinstance(entry.place, str):
        return args, kwargs | {entry.place: past}
    return (*args[: entry.place], past, *args[entry.place + 1 :]), kwargs


def _open_places(module: Any, call: Call) -> list[int | str]:
    """Arguments of a module, in its call or signature, that hold a cache or None."""
    args, kwargs = call
    passed = [*enumerate(args), *kwargs.items()]
    caches: list[int | str] = [place for place, value in passed if is_cache(value)]
    empty: list[int | str] = [place for place, value in passed if value is None]
    parameters = list(inspect.signature(_wrapped(module).forward).parameters.values())
    unused = [
        p.name
        for p in parameters[len(args) :]
        if p.name not in kwargs and p.default is None and p.kind is not p.VAR_KEYWORD
    ]
    return [*caches, *empty, *unused]


def _wrapped(module: Any) -> Any:
    """The original module that a bridge's component wraps; any other module itself."""
    inner = getattr(module, "original_component", None)
    return module if inner is None else inner
