"""Convert arguments to plain Python: numbers and lists instead of NumPy, torch and pandas values.

This module does not import these libraries: before a library is imported, no value can come from
it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

LONGEST: Final = 10_000_000
"""The most items that an iterable may give; one with more is taken to be endless."""

_SCALARS: Final = (int, float, str, bool, complex, bytes)
_NOT_LISTS: Final = (str, bytes, bytearray, memoryview, Mapping)


class NotPlainError(Exception):
    """A value that cannot be converted; the message says why."""


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def plain(value: Any) -> Any:
    """Convert a value to numbers, texts and lists if possible; return others unchanged."""
    if value is None or type(value) in _SCALARS:
        return value
    if type(value) in (list, tuple, range, set, frozenset):
        if isinstance(value, range) and value[LONGEST:]:
            raise NotPlainError(f"which gives more than {LONGEST} items")
        items = list(value)
        return items if set(map(type, items)) <= {int, str} else [plain(item) for item in items]
    if (made := _array(value)) is not None:
        return made
    if hasattr(value, "__index__") and not isinstance(value, int):
        return _read_safely(value.__index__)
    items = many(value)
    return [plain(item) for item in items] if isinstance(items, list) else items


def names(value: Any) -> Any:
    """A list of texts; one text becomes a list of one."""
    items = one_or_many(value)
    return [text(item) for item in items] if isinstance(items, list) else items


def many(value: Any) -> Any:
    """The items of an iterable as a list, without conversion; other values unchanged."""
    if isinstance(value, (*_NOT_LISTS, type)) or not isinstance(value, Iterable):
        return value
    items = _read_safely(lambda: list(islice(value, LONGEST + 1)))
    if len(items) > LONGEST:
        raise NotPlainError(f"which gives more than {LONGEST} items")
    return items


def one_or_many(value: Any) -> Any:
    """As `many`; a text or a single record of this package becomes a list of one."""
    if isinstance(value, str):
        return [value]
    if type(value).__module__.startswith("visit_tl.") and not hasattr(type(value), "__iter__"):
        return [value]
    return many(value)


def prompt(value: Any) -> Any:
    """A prompt: a text, a tensor, or lists of token ids."""
    if isinstance(value, str):
        return text(value)
    if is_tensor(value):
        return value
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and torch and isinstance(value, numpy.ndarray) and value.dtype.kind in "iu":
        # Converting item by item takes 20 times as long.
        return torch.from_numpy(value.astype("int64"))
    return plain(value)


def prompts(value: Any) -> Any:
    """A list of prompts; a tensor becomes a list of its rows."""
    items = many(value)
    return [prompt(item) for item in items] if isinstance(items, list) else items


def batch(value: Any) -> Any:
    """As `prompts`; a 2D array of token ids becomes one tensor, so that a mask can go with it."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and torch and isinstance(value, numpy.ndarray) and value.ndim == 2:
        return _read_safely(lambda: torch.tensor(value.tolist()))
    return prompts(value)


def token(value: Any) -> Any:
    """One token or several, as text or ids."""
    return text(value) if isinstance(value, str) else plain(value)


def token_or_metric(value: Any) -> Any:
    """One token, or a metric, which stays as it is."""
    return value if callable(value) else token(value)


def tokens_or_metric(value: Any) -> Any:
    """One token or metric, or a list of them."""
    if callable(value):
        return value
    items = many(value) if isinstance(value, list | tuple) else token(value)
    return [token_or_metric(item) for item in items] if isinstance(items, list) else items


def text(value: Any) -> Any:
    """Check that a text can be encoded in UTF-8, as tokenizers and files need."""
    if isinstance(value, str) and (at := half_pair(value)) is not None:
        raise NotPlainError(f"whose character {at} is half of a surrogate pair")
    return value


def half_pair(value: str) -> int | None:
    """Index of the first half surrogate pair, which UTF-8 cannot encode; None if there is none."""
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def path(value: Any) -> Any:
    """Check that a path is a text, without NUL, and no longer than the system allows."""
    named = _read_safely(lambda: os.fspath(value)) if isinstance(value, os.PathLike) else value
    if not isinstance(named, str):
        return named
    if "\0" in named:
        raise NotPlainError("which holds a NUL character")
    text(named)
    if too_long(named):
        raise NotPlainError("which is longer than a path may be")
    return value


def too_long(named: str) -> bool:
    """Whether the system refuses to look a path up because of its length, or that of a part."""
    try:
        os.lstat(os.path.expanduser(named))
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) == errno.ENAMETOOLONG
    return False


def node(value: Any) -> Any:
    """The id of a node, if a node is given; other values unchanged."""
    records = sys.modules.get("visit_tl.graph.records")
    return value.id if records is not None and isinstance(value, records.Node) else value


def nodes(value: Any) -> Any:
    """A list of node ids; one node becomes a list of one."""
    items = one_or_many(value)
    return [node(item) for item in items] if isinstance(items, list) else items


def hooks(value: Any) -> Any:
    """A list of (hook, function) pairs; one pair becomes a list of one."""
    alone = isinstance(value, tuple) and len(value) == 2 and callable(value[1])
    items = [value] if alone else many(value)
    if not isinstance(items, list):
        return items
    return [tuple(item) if isinstance(item, list) else item for item in items]


def mask(value: Any) -> Any:
    """Convert an array or lists to a tensor."""
    torch = sys.modules.get("torch")
    return _read_safely(lambda: torch.tensor(plain(value))) if torch else value


def as_it_is(value: Any) -> Any:
    """Return the value unchanged."""
    return value


def _array(value: Any) -> Any:
    """Convert an array, tensor or series to plain Python; None if it is none of these."""
    numpy = sys.modules.get("numpy")
    if is_tensor(value) or (numpy and isinstance(value, numpy.ndarray | numpy.generic)):
        return _read_safely(value.tolist)
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(value, pandas.Series | pandas.Index):
        return _read_safely(value.tolist)
    return None


def _read_safely(read: Any) -> Any:
    """Read from an object of the caller; any exception becomes a `NotPlainError`."""
    try:
        return read()
    except Exception as error:
        raise NotPlainError(
            f"and reading it failed with {type(error).__name__}: {error}"
        ) from error
