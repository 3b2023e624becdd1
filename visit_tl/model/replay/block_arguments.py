"""Which axes of a block's arguments belong to positions, and which to the prompts of a batch.

Masks, position ids and tables of angles are passed to each block. To run a block on some of its
rows, these arguments must be cut to the rows; to run it on several prompts, some must be repeated.
Their names change from release to release, so names are not used. Instead, the model is called with
a prompt that is one token longer (or shorter), and with the prompt twice; the axes that change in
size are the ones to cut or repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.masked_runs import masked
from visit_tl.segments.spans import Segments

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the named arguments of one call of a module."""
Path = tuple[int | str, ...]
"""Where a tensor is in a call: the index or name of the argument, then indices inside it."""


@dataclass(frozen=True)
class Axes:
    """The meaning of the axes of one tensor of a call. Axes are counted from the end.

    Attributes:
        row: The axis of the rows that are computed; None if there is none.
        run: The axis of the prompts of a batch; None if there is none.
    """

    row: int | None = None
    run: int | None = None


class _Reached(Exception):  # noqa: N818 (not an error: it ends a run early)
    """Ends a forward pass at the block whose arguments are wanted."""


def call_of_block(model: Any, layer: int, tokens: Tensor, segments: Segments | None = None) -> Call:
    """The arguments of the model's call of a block for these tokens; the block itself is not run.

    Args:
        model: The model.
        layer: The block.
        tokens: The tokens.
        segments: The segments under whose mask the model is run.

    Raises:
        ModelError: the block is not called as a module.
    """
    caught: list[Call] = []

    def catch(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args, dict(kwargs)))
        raise _Reached

    handle = model.blocks[layer].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad(), masked(model, segments):
            model(tokens)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not caught:
        raise ModelError(f"blocks.{layer} was not called as a module")
    return caught[0]


def leaves(call: Call) -> Iterator[tuple[Path, Any]]:
    """Every value in a call with its path; tuples, lists and dicts are opened."""
    args, kwargs = call
    for place, value in [*enumerate(args), *kwargs.items()]:
        yield from _inside((place,), value)


def _inside(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from _inside((*path, i), part)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _inside((*path, name), part)
    else:
        yield path, value


def rebuilt(call: Call, change: Callable[[Path, Any], Any]) -> Call:
    """The same call with `change` applied to each of its leaves."""

    def of(path: Path, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)([of((*path, i), part) for i, part in enumerate(value)])
        if isinstance(value, dict):
            return {name: of((*path, name), part) for name, part in value.items()}
        return change(path, value)

    args, kwargs = call
    return (
        tuple(of((i,), value) for i, value in enumerate(args)),
        {name: of((name,), value) for name, value in kwargs.items()},
    )


def hidden_path(call: Call, n_tokens: int, d_model: int) -> Path:
    """The path of the residual stream: the first tensor of its shape, `[1, pos, d_model]`.

    Raises:
        ModelError: there is none.
    """
    for path, value in leaves(call):
        if isinstance(value, Tensor) and tuple(value.shape[-2:]) == (n_tokens, d_model):
            return path
    raise ModelError("a block is called without a residual stream")


def readings(
    call: Call, longer: Call, twice: Call, hidden: Path, grown: int
) -> Iterator[dict[Path, Axes]]:
    """The possible meanings of the axes of a call, the most likely first.

    If two axes grow with the prompt, as in a mask, the first belongs to the rows and the last to
    the keys. A single axis may be either: position ids have one entry per row, ALiBi's slopes one
    per key. Both are yielded; calling the block shows which is right.

    Args:
        call: The call for the prompt.
        longer: The call for a prompt of another length.
        twice: The call for a batch of the prompt twice.
        hidden: The path of the residual stream, whose axes are known.
        grown: By how much the other prompt is longer (negative if it is shorter).
    """
    others, doubled = dict(leaves(longer)), dict(leaves(twice))
    fixed: dict[Path, Axes] = {}
    single: dict[int | str, list[tuple[Path, Axes]]] = {}
    for path, value in leaves(call):
        if not isinstance(value, Tensor) or path == hidden:
            continue
        rows = _growing(value, others.get(path), lambda size: size + grown)
        runs = _growing(value, doubled.get(path), lambda size: 2 * size)
        run = runs[0] if runs else None
        if len(rows) == 1:
            single.setdefault(path[0], []).append((path, Axes(rows[0], run)))
        else:
            fixed[path] = Axes(rows[-2] if rows else None, run)
    # All tensors of one argument, such as cosines and sines, get the same meaning.
    for keys in product((False, True), repeat=len(single)):
        reading = dict(fixed)
        for as_key, group in zip(keys, single.values(), strict=True):
            reading |= {path: Axes(None, a.run) if as_key else a for path, a in group}
        yield reading


def _growing(value: Tensor, other: Any, expected: Callable[[int], int]) -> list[int]:
    """The axes, counted from the end, whose size changes in the other call as expected."""
    if not isinstance(other, Tensor) or other.ndim != value.ndim:
        return []
    sizes = zip(value.shape, other.shape, strict=True)
    return [
        i - value.ndim for i, (own, theirs) in enumerate(sizes) if theirs == expected(own) != own
    ]


def fitted(value: Tensor, axes: Axes, first: int, n_runs: int) -> Tensor:
    """A tensor of a call, cut to the rows from `first` on and repeated for `n_runs` runs."""
    if axes.row is not None and first:
        value = value.narrow(axes.row, first, value.shape[axes.row] - first)
    if axes.run is not None and n_runs != 1:
        sizes = [1] * value.ndim
        sizes[axes.run] = n_runs
        one = value.shape[axes.run] == 1
        value = value.expand(*(n if n > 1 else -1 for n in sizes)) if one else value.repeat(sizes)
    return value


def structure(call: Call) -> Mapping[Path, tuple[str, int]]:
    """The types of a call's values by path; the axes of calls of equal structure agree."""
    return {
        path: (type(value).__name__, value.ndim if isinstance(value, Tensor) else 0)
        for path, value in leaves(call)
    }
