"""Description of one kind of argument: in words, and as a type that pydantic checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visit_tl.arguments.plain import plain


@dataclass(frozen=True, eq=False)
class Taken:
    """What an argument of a call accepts; used as the metadata of an `Annotated` alias.

    Attributes:
        words: What is accepted, to follow "must be" in a message: `an integer of at least 1`.
        example: An accepted value, as it is written in code; "" for none.
        reads: Name of the type in `types` that pydantic checks strictly, after `form` was applied;
            "" if only `classes` are accepted.
        classes: Classes whose instances are accepted unchanged: classes, or `module:Name` for
            those that must not be imported here.
        long: Whether it may hold thousands of integers. A list that holds only integers is then
            accepted without a check of each item, because their range is checked where they are
            used.
        form: Function that converts what users write to the plain form that `reads` describes.
    """

    words: str
    example: str = ""
    reads: str = ""
    classes: tuple[type | str, ...] = ()
    form: Callable[[Any], Any] = plain
    long: bool = False

    def known_classes(self) -> tuple[type, ...]:
        """The classes that are loaded; a module that was never imported has no instances."""
        found: list[type] = []
        for one in self.classes:
            if isinstance(one, str):
                module, _, name = one.partition(":")
                one = getattr(sys.modules.get(module), name, None)  # type: ignore[assignment]
            if isinstance(one, type):
                found.append(one)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Unchecked:
    """An argument that is not checked at the call, but where it is used.

    Attributes:
        why: What checks it instead.
        model: Whether it is a model. The call then runs code of other libraries.
    """

    why: str
    model: bool = False
