"""Arguments in plain Python: the scalars and vectors of NumPy and torch as numbers and lists.

Neither library is imported: what is not there yet cannot have made a value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

LONGEST: Final = 10_000_000
"""What an iterator without a length may give; more is taken for one that never ends."""

_SCALARS: Final = (int, float, str, bool, complex, bytes)
_NO_LISTS: Final = (str, bytes, bytearray, memoryview, Mapping)


class NotPlainError(Exception):
    """A value that cannot be read at all; the message says why."""


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def plain(value: Any) -> Any:
    """Numbers, texts and lists for whatever holds nothing else; other things as they are."""
    if value is None or type(value) in _SCALARS:
        return value
    if type(value) in (list, tuple, range, set, frozenset):
        items = list(value)
        return items if set(map(type, items)) <= {int, str} else [plain(item) for item in items]
    if (made := _array(value)) is not None:
        return made
    if hasattr(value, "__index__") and not isinstance(value, int):
        return _tried(value.__index__)
    items = many(value)
    return [plain(item) for item in items] if isinstance(items, list) else items


def names(value: Any) -> Any:
    """A list of texts; one is a list of one."""
    items = one_or_many(value)
    return [text(item) for item in items] if isinstance(items, list) else items


def many(value: Any) -> Any:
    """The items of anything that can be gone through once, untouched; other things as they are."""
    if isinstance(value, (*_NO_LISTS, type)) or not isinstance(value, Iterable):
        return value
    items = _tried(lambda: list(islice(value, LONGEST + 1)))
    if len(items) > LONGEST:
        raise NotPlainError(f"which gives more than {LONGEST} items")
    return items


def one_or_many(value: Any) -> Any:
    """As `many`; a text or a single record is a list of one."""
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
        return torch.from_numpy(value.astype("int64"))  # reading it item by item takes 20 x as long
    return plain(value)


def prompts(value: Any) -> Any:
    """Several prompts; a tensor is its rows."""
    items = many(value)
    return [prompt(item) for item in items] if isinstance(items, list) else items


def batch(value: Any) -> Any:
    """As `prompts`; a batch of token ids stays one, for a mask to go with it."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and torch and isinstance(value, numpy.ndarray) and value.ndim == 2:
        return _tried(lambda: torch.tensor(value.tolist()))
    return prompts(value)


def token(value: Any) -> Any:
    """A token, or several: text or ids."""
    return text(value) if isinstance(value, str) else plain(value)


def text(value: Any) -> Any:
    """A text that has a form in UTF-8, as tokenizers and files need."""
    if isinstance(value, str) and (at := half_pair(value)) is not None:
        raise NotPlainError(f"whose character {at} is half of a pair")
    return value


def half_pair(value: str) -> int | None:
    """Where a text has half of a surrogate pair, which has no form in UTF-8; None if nowhere."""
    if value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def path(value: Any) -> Any:
    """A path of text."""
    named = _tried(lambda: os.fspath(value)) if isinstance(value, os.PathLike) else value
    if not isinstance(named, str):
        return named
    if "\0" in named:
        raise NotPlainError("which holds a NUL character")
    text(named)
    return value


def node(value: Any) -> Any:
    """The id of a node, for the node itself."""
    records = sys.modules.get("visit_tl.graph.records")
    return value.id if records is not None and isinstance(value, records.Node) else value


def nodes(value: Any) -> Any:
    """The ids of nodes; one is a list of one."""
    items = one_or_many(value)
    return [node(item) for item in items] if isinstance(items, list) else items


def hooks(value: Any) -> Any:
    """Pairs of a hook and a function; one pair is a list of one."""
    alone = isinstance(value, tuple) and len(value) == 2 and callable(value[1])
    items = [value] if alone else many(value)
    if not isinstance(items, list):
        return items
    return [tuple(item) if isinstance(item, list) else item for item in items]


def mask(value: Any) -> Any:
    """A tensor of an array or of lists."""
    torch = sys.modules.get("torch")
    return _tried(lambda: torch.tensor(plain(value))) if torch else value


def as_it_is(value: Any) -> Any:
    """Nothing is changed."""
    return value


def _array(value: Any) -> Any:
    """An array, tensor or series in plain Python; None if it is none of these."""
    numpy = sys.modules.get("numpy")
    if is_tensor(value) or (numpy and isinstance(value, numpy.ndarray | numpy.generic)):
        return _tried(value.tolist)
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(value, pandas.Series | pandas.Index):
        return _tried(value.tolist)
    return None


def _tried(read: Any) -> Any:
    """What the caller's own object gives; whatever it raises is a reason to refuse it."""
    try:
        return read()
    except Exception as error:
        raise NotPlainError(
            f"and reading it failed with {type(error).__name__}: {error}"
        ) from error
