"""How one kind of argument is described: in words, and as a type that pydantic checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visit_tl.arguments.plain import plain


@dataclass(frozen=True, eq=False)
class Taken:
    """What a call takes for one of its arguments; the metadata of an `Annotated` alias.

    Attributes:
        words: What it is, to follow "is" in a message: `an integer of at least 1`.
        example: One that is taken, as it is written in code; "" for none.
        reads: The name in `types` of what pydantic checks strictly, once `form` has been applied;
            "" where only `classes` are taken.
        classes: Classes whose instances are taken as they are: builtins, or `module:Name` for
            those that need not be imported.
        long: Whether it may be thousands of integers. A list of nothing else is then taken without
            a look at each: whoever reads it asks for their range anyway.
        form: Turns natural forms into the plain one that `reads` describes.
    """

    words: str
    example: str = ""
    reads: str = ""
    classes: tuple[type | str, ...] = ()
    form: Callable[[Any], Any] = plain
    long: bool = False

    def known_classes(self) -> tuple[type, ...]:
        """The classes that are there; of a module that was never imported there is no instance."""
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
    """An argument that is read where it is used, since only that can tell what it is.

    Attributes:
        why: Who reads it.
        model: Whether it is the model, so that the call runs other people's code.
    """

    why: str
    model: bool = False
