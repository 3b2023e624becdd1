"""The types that pydantic checks plain arguments against, by the names that `vocabulary` uses.

This module and pydantic are imported at the first call, not with the package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from visit_tl.arguments.plain import is_tensor, one_or_many, plain


def _any_that(wanted: Callable[[Any], bool]) -> Any:
    """A type for any value for which `wanted` is true."""

    def check(value: Any) -> Any:
        if not wanted(value):
            raise ValueError("it is something else")
        return value

    return Annotated[Any, AfterValidator(check)]


def _is_node_id(value: Any) -> bool:
    ids = sys.modules.get("visit_tl.graph.ids")  # not imported: no node id can exist
    return ids is not None and isinstance(value, ids.NodeId)


def _is_cache(value: Any) -> bool:
    return callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")


def _dict_of_lists_or_none(value: Any) -> Any:
    """Check a dict of lists; a value may be None."""
    if not isinstance(value, Mapping):
        raise ValueError("it is no dict")
    read = {name: None if own is None else one_or_many(own) for name, own in value.items()}
    for name, own in read.items():
        if own is not None and not isinstance(own, list):
            raise ValueError(f"what {name} has is no list")
    return read


def _dict_of_lists(value: Any) -> Any:
    """Check a dict of lists; no value may be None."""
    read = _dict_of_lists_or_none(value)
    if None in read.values():
        raise ValueError("None is no list")
    return read


def _dict_of_numbers(value: Any) -> Any:
    """Check a dict of numbers; whether they are finite is checked where they are used."""
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
TokenOrFunction = Integer | str | Callable[..., Any]
TokensOrFunctions = TokenOrFunction | list[TokenOrFunction]
Prompt = str | list[Integer] | list[list[Integer]]
Prompts = list[Prompt | _any_that(is_tensor)]
IntegersOrAll = Integer | list[Integer] | Literal["all"]

NodeName = str | _any_that(_is_node_id)
NodeNames = list[NodeName]
TwoNodeNames = Annotated[list[NodeName], Field(min_length=2, max_length=2)]

Hooks = list[tuple[str | Function, Function]]
Cache = _any_that(_is_cache)
Looks = list[tuple[str, str]]
Lists = Annotated[Any, AfterValidator(_dict_of_lists)]
At = str | Annotated[Any, AfterValidator(_dict_of_lists_or_none)]
EdgeScores = Annotated[Any, AfterValidator(_dict_of_numbers)]
