"""The types that pydantic checks plain arguments against, by the names that `vocabulary` uses.

Imported with pydantic when a call is made for the first time, never with the package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from visit_tl.arguments.plain import is_tensor, one_or_many, plain


def _such(wanted: Callable[[Any], bool]) -> Any:
    """Anything of which this holds."""

    def check(value: Any) -> Any:
        if not wanted(value):
            raise ValueError("it is something else")
        return value

    return Annotated[Any, AfterValidator(check)]


def _is_node_id(value: Any) -> bool:
    ids = sys.modules.get("visit_tl.graph.ids")  # what is not there yet cannot have made one
    return ids is not None and isinstance(value, ids.NodeId)


def _is_cache(value: Any) -> bool:
    return callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")


def _lists(value: Any) -> Any:
    """A dict of lists."""
    if not isinstance(value, Mapping):
        raise ValueError("it is no dict")
    read = {name: None if own is None else one_or_many(own) for name, own in value.items()}
    for name, own in read.items():
        if own is not None and not isinstance(own, list):
            raise ValueError(f"what {name} has is no list")
    return read


def _whole_lists(value: Any) -> Any:
    """A dict of lists, none of which is None."""
    read = _lists(value)
    if None in read.values():
        raise ValueError("None is no list")
    return read


def _numbers(value: Any) -> Any:
    """A dict of numbers; that they are finite is asked where they are used."""
    if not isinstance(value, Mapping):
        raise ValueError("it is no dict")
    read = {name: plain(own) for name, own in value.items()}
    if not all(type(own) in (int, float) for own in read.values()):
        raise ValueError("it holds something else than numbers")
    return read


Texts = list[str]
Many = list[Any]
Function = Callable[..., Any]
FunctionOrFunctions = Callable[..., Any] | list[Callable[..., Any]]
File = str | os.PathLike[str]

# 64 bits: what torch, NumPy and range can count.
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
AnyInteger = int
Whole = Annotated[int, Field(ge=0, le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Flag = bool
Number = float
Integers = list[Integer]
Numbers = list[float]
Flags = list[bool]
HighAndLow = Whole | Annotated[list[Whole], Field(min_length=2, max_length=2)]

Token = Integer | str
TokenOrMany = Integer | str | list[Integer | str]
Prompt = str | list[Integer] | list[list[Integer]]
Prompts = list[Prompt | _such(is_tensor)]
IntegersOrAll = Integer | list[Integer] | Literal["all"]

NodeName = str | _such(_is_node_id)
NodeNames = list[NodeName]
TwoNodeNames = Annotated[list[NodeName], Field(min_length=2, max_length=2)]

Hooks = list[tuple[str | Function, Function]]
Cache = _such(_is_cache)
Looks = list[tuple[str, str]]
Lists = Annotated[Any, AfterValidator(_whole_lists)]
At = str | Annotated[Any, AfterValidator(_lists)]
EdgeScores = Annotated[Any, AfterValidator(_numbers)]
