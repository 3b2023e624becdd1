"""`@checked`: the arguments of a public call, checked once and read into plain Python.

Annotations say what is taken (`vocabulary`). They are resolved, and pydantic is imported, when a
call is made for the first time; importing the package costs nothing of it.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from visit_tl.arguments.kinds import Taken, Unchecked
from visit_tl.arguments.plain import NotPlainError
from visit_tl.arguments.releases_note import note_newer_releases
from visit_tl.arguments.shared import hints_of, options_of, whole_signature
from visit_tl.arguments.words import name_of_call, refusal, short
from visit_tl.errors import ArgumentTypeError, ArgumentValueError

F = TypeVar("F", bound=Callable[..., Any])

_VALUE_ERRORS = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
    "too_short", "too_long", "int_parsing_size",
}  # fmt: skip


def checked(function: F) -> F:
    """Check the arguments of a call by their annotations before it is made.

    Defaults are not checked. Unknown names of arguments raise Python's own TypeError. Errors of a
    call that takes a model say if a library is newer than all that was tested.

    Raises:
        ArgumentTypeError: an argument is of another type than the call takes.
        ArgumentValueError: it is of the type, and still not taken.
    """
    plan: Plan | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal plan
        if plan is None:
            plan = Plan(function)
        read, named = plan.read(args, kwargs)
        if not plan.takes_model:
            return function(*read, **named)
        try:
            return function(*read, **named)
        except Exception as error:
            note_newer_releases(error)
            raise

    call.__checked__ = True  # type: ignore[attr-defined]
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        call.__signature__ = whole_signature(function)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


class Plan:
    """The checks of one call.

    Attributes:
        checks: By parameter, the check; None where it is read elsewhere.
        takes_model: Whether one of them is a model.

    Raises:
        TypeError: a parameter says nothing of what it takes.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.checks: dict[str, Check | None] = {}
        self.takes_model = False
        self._positional: list[str] = []
        self._rest: str | None = None
        self._function, self._open = function, False
        for i, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
            if i == 0 and name in ("self", "cls"):
                self._positional.append(name)
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                options = options_of(function, parameter)
                if options is None:  # passed on to a call that checks them
                    self._open = True
                    continue
                for key, hint in hints_of(options).items():
                    self._add(function, key, hint)
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = name
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                self._positional.append(name)
            self._add(function, name, _hint(function, parameter))

    def _add(self, function: Callable[..., Any], name: str, hint: Any) -> None:
        parts = list(_parts(hint))
        self.takes_model |= any(isinstance(p, Unchecked) and p.model for p in parts)
        unread = any(isinstance(part, Unchecked) for part in parts)
        self.checks[name] = None if unread else Check(function, name, parts)

    def read(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments in plain form."""
        names, owner = self._positional, None
        if names and names[0] in ("self", "cls") and args:
            owner = args[0] if isinstance(args[0], type) else type(args[0])
        read = list(args)
        for i, value in enumerate(args):
            name = names[i] if i < len(names) else self._rest
            check = self.checks.get(name or "")
            if check is not None:
                read[i] = check(value, owner)
        for name, value in kwargs.items():
            check = self.checks.get(name)
            if check is not None and name != self._rest:
                kwargs[name] = check(value, owner)
            elif check is None and name not in self.checks and not self._open:
                raise TypeError(
                    f"{self._function.__qualname__}() got an unexpected keyword argument {name!r}"
                )
        return tuple(read), kwargs


class Check:
    """The check of one argument."""

    def __init__(self, function: Callable[..., Any], name: str, parts: list[Any]) -> None:
        self._function, self._name = function, name
        self._taken = [part for part in parts if isinstance(part, Taken)]
        self._none = type(None) in parts
        own = [part for part in parts if isinstance(part, type) and part is not type(None)]
        self._own = tuple(own)
        self._lazy = any(isinstance(one, str) for taken in self._taken for one in taken.classes)
        self._classes = self._own + tuple(c for t in self._taken for c in t.known_classes())
        self._validator: Any = None
        self._long = any(taken.long for taken in self._taken)
        self._reads = [taken.reads for taken in self._taken if taken.reads]
        # An iterator can be read once: of several kinds, the first says how.
        self._form = next((taken.form for taken in self._taken), None)

    def __call__(self, value: Any, owner: type | None = None) -> Any:
        """The argument in plain form.

        Raises:
            ArgumentTypeError: it is of another type than the call takes.
            ArgumentValueError: it is of the type, and still not taken.
        """
        if value is None and self._none:
            return None
        if isinstance(value, self._classes):
            return value
        if self._lazy:
            new = self._own + tuple(c for t in self._taken for c in t.known_classes())
            if new != self._classes:
                self._classes = new
                return self(value, owner)
        if self._long and type(value) is list and set(map(type, value)) == {int}:
            return value
        if self._form is None:
            raise self._refused(ArgumentTypeError, value, owner)
        try:
            read = self._form(value)
        except NotPlainError as error:
            raise self._refused(ArgumentValueError, value, owner, str(error)) from error.__cause__
        if isinstance(read, self._classes):
            return read
        if not self._reads:
            raise self._refused(ArgumentTypeError, value, owner)
        if self._validator is None:
            self._validator = _validator(self._reads)
        try:
            return self._validator.validate_python(read)
        except ValueError as error:  # pydantic's ValidationError is one
            kind, why = _reason(error, read)
            raise self._refused(kind, value, owner, why) from None

    def _refused(
        self,
        kind: type[ArgumentTypeError | ArgumentValueError],
        value: Any,
        owner: type | None,
        why: str = "",
    ) -> ArgumentTypeError | ArgumentValueError:
        words = [taken.words for taken in self._taken]
        words += [f"a {one.__name__}" for one in self._own]
        words += ["None"] if self._none else []
        example = next((taken.example for taken in self._taken if taken.example), "")
        call = name_of_call(self._function, owner)
        return kind(refusal(call, self._name, ", or ".join(words), example, value, why))


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The resolved annotation of one parameter; those of others may name what is not imported."""
    hint = parameter.annotation
    if isinstance(hint, str):
        holder = types.SimpleNamespace(__annotations__={"it": hint})
        space = inspect.unwrap(function).__globals__
        hint = get_type_hints(holder, globalns=space, localns={}, include_extras=True)["it"]
    if hint is inspect.Parameter.empty or hint is Any:
        raise TypeError(f"{function.__qualname__} does not say what {parameter.name} takes")
    return hint


def _parts(hint: Any) -> list[Any]:
    """What may be given: `Taken`, `Unchecked`, classes, and the class of None."""
    origin = get_origin(hint)
    if origin is Annotated:
        said = [x for x in hint.__metadata__ if isinstance(x, Taken | Unchecked)]
        if said:
            return said[-1:]
        return _parts(hint.__origin__)
    if origin in (Union, types.UnionType):
        return [part for one in get_args(hint) for part in _parts(one)]
    if hint is None:
        return [type(None)]
    if isinstance(hint, type) and origin is None:
        return [hint]
    raise TypeError(f"{hint} is not in the vocabulary of arguments")


def _validator(names: list[str]) -> Any:
    """A validator of pydantic's, strict and without numbers that are none."""
    from pydantic import ConfigDict, TypeAdapter

    from visit_tl.arguments import types as known

    config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    wanted: Any = Union[tuple(getattr(known, name) for name in names)]  # noqa: UP007
    return TypeAdapter(wanted, config=config).validator


def _reason(error: Any, read: Any) -> tuple[type[ArgumentTypeError | ArgumentValueError], str]:
    """Whether the type or the value is at fault, and which item of a list it is."""
    found = error.errors(include_url=False, include_context=False)
    wrong = any(
        one["type"] in _VALUE_ERRORS
        or (one["type"] == "literal_error" and isinstance(one["input"], str))
        for one in found
    )
    deepest = max(found, key=lambda one: sum(isinstance(x, int) for x in one["loc"]))
    where = [x for x in deepest["loc"] if isinstance(x, int)]
    why = ""
    if where and isinstance(read, list):
        item = "".join(f"[{i}]" for i in where)
        why = f"whose item {item} is {short(deepest['input'])}"
    return (ArgumentValueError if wrong else ArgumentTypeError), why
