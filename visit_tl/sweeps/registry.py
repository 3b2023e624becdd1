"""Studies: functions from one forward pass to rows of a table, registered by name."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.plain import NotPlainError, many
from visit_tl.arguments.vocabulary import Flag, Names, Word
from visit_tl.arguments.words import short
from visit_tl.errors import InputError

TYPES: Final = ("int64", "float64", "string", "bool")
"""The types that a column can have."""
PROMPT: Final = "prompt"
"""The column that the sweep adds: the place of the prompt in its file."""
SUMMARY: Final = ("n", "share")
"""The columns that a summary adds."""
TAKEN: Final = ("prompts", "errors", "done")
"""What else is in the folder of a run; no study has these names."""

StudyColumns = Annotated[
    Mapping[str, str], Unchecked("Study says which column it cannot have, and why")
]

_REGISTERED: dict[str, Study] = {}
_ROOM: Final = "visit_tl.sweeps"
_BUILT_IN: Final = ("paper", "observed_heads", "head_effects", "gradient_summaries")
"""The modules of this room that register studies."""


@dataclass(frozen=True)
class Study:
    """A measurement of one forward pass.

    Attributes:
        name: Its name, and that of its table.
        function: Called with a `PromptRun` and the options. It returns columns of equal length, by
            name; or it is a generator that yields stacks of vectors, gets their readouts, and
            returns the columns.
        columns: The type of each column: int64, float64, string or bool.
        by: The columns that a summary groups by.
        source: Where it is from.
        options: Values of its options.
        paper: Whether it is a measurement of VISIT (Katz and Belinkov, 2023).

    Raises:
        InputError: a name, column, or option that cannot be.
    """

    name: str
    function: Callable[..., Any] = field(repr=False, compare=False)
    columns: Mapping[str, str]
    by: tuple[str, ...]
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: bool = False

    def __post_init__(self) -> None:
        name, columns = self.name, self.columns
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            raise InputError(
                f"{name!r} is no name of a study: it names a table, such as heads_ov, and is not "
                f"{', '.join(TAKEN)}"
            )
        if not callable(self.function):
            raise InputError(f"{name} is {type(self.function).__name__}; a study is a function")
        if not isinstance(columns, Mapping) or not columns:
            raise InputError(f"{name} has no columns; name one or more, each with its type")
        for column, kind in columns.items():
            if not isinstance(column, str) or not column or kind not in TYPES:
                raise InputError(
                    f"the column {column!r} of {name} is {kind!r}; a column is one of "
                    f"{', '.join(TYPES)}"
                )
            if column in (PROMPT, *SUMMARY) or column.removesuffix("_se") in {*columns} - {column}:
                raise InputError(
                    f"the column {column!r} of {name} has a name that the sweep or its summaries "
                    f"give: {', '.join((PROMPT, *SUMMARY))}, or that of another column and _se"
                )
        if isinstance(self.by, str) or not isinstance(self.by, Sequence):
            raise InputError(f"{name} is summarised by {self.by!r}; by is a list of columns")
        if unknown := [one for one in self.by if one not in columns]:
            raise InputError(f"{name} is summarised by {unknown[0]!r}, which is no column of it")
        for option, value in self.options.items():
            _check_option(name, option, value)
        object.__setattr__(self, "columns", dict(columns))
        object.__setattr__(self, "by", tuple(self.by))

    @property
    def code(self) -> str | None:
        """A hash of its code, without comments and docstring; None if there is no source."""
        try:
            text = textwrap.dedent(inspect.getsource(inspect.unwrap(self.function)))
            made = ast.parse(text).body[0]
        except (OSError, TypeError, ValueError, SyntaxError, IndexError):
            return None
        if isinstance(made, ast.FunctionDef):
            made.decorator_list = []  # the columns are known anyway
            made.body = made.body[ast.get_docstring(made) is not None :]
        return hashlib.sha256(ast.unparse(made).encode()).hexdigest()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A study that a module holds is pickled by its name: its function is not there by its own.

        Only then need nothing be pickled that the function refers to.
        """
        home = self.function.__module__
        held = getattr(sys.modules.get(home), self.name, None)
        if home == "__main__" or not isinstance(held, Study) or held.function is not self.function:
            return super().__reduce_ex__(protocol)
        return _held_study, (home, self.name, dict(self.options))

    def __call__(self, run: Any) -> Any:
        """Measure one run: the columns, or a generator that asks for readouts first."""
        return self.function(run, **self.options)

    @checked
    def having(self, **options: Any) -> Study:
        """The same study with other options, such as `heads_ov.having(k=20)`.

        Raises:
            InputError: there is no such option, or its value is not text, a number or a bool.
        """
        known = _options(self.function)
        for name, value in options.items():
            if name not in known:
                raise InputError(
                    f"the study {self.name} has no option {name!r}; it has "
                    f"{', '.join(known) or 'none'}"
                )
            _check_option(self.name, name, value)
        return replace(self, options={**self.options, **options})


def _held_study(module: str, name: str, options: Mapping[str, Any]) -> Study:
    return replace(getattr(import_module(module), name), options=options)


@checked
def study(
    *, columns: StudyColumns, by: Names = (), source: Word = "", paper: Flag = False
) -> Callable[[Callable[..., Any]], Study]:
    """Register a function as a study under its own name.

    An older one of that name is replaced, as when a cell of a notebook is run again.

        @study(columns={"layer": "int64", "norm": "float64"}, by=["layer"])
        def stream_norms(run):
            return {"layer": run.layers, "norm": run.resid_post.norm(dim=-1)}

    Args:
        columns: The type of each column: int64, float64, string or bool.
        by: The columns that a summary groups by.
        source: Where it is from, such as a paper and its figure.
        paper: Whether it is a measurement of VISIT (Katz and Belinkov, 2023).

    Raises:
        InputError: a column of another type or with a name that is taken, `by` names no column, or
            an option has no default.
    """

    def registered(function: Callable[..., Any]) -> Study:
        name = function.__name__
        if not _of_the_package(function):
            known = studies().get(name)  # loads those of the package, whose names stay theirs
            if known is not None and _of_the_package(known.function):
                raise InputError(f"there is a study {name} in the package; choose another name")
        made = Study(name, function, columns, tuple(by), source, _options(function), paper)
        _REGISTERED[name] = made
        return made

    return registered


def studies() -> dict[str, Study]:
    """All registered studies by name: those of the package, then those of users."""
    for module in _BUILT_IN:
        import_module(f"{_ROOM}.{module}")
    return dict(_REGISTERED)


def chosen_studies(asked: str | Study | Iterable[str | Study]) -> list[Study]:
    """The studies that are meant by names or given themselves.

    Raises:
        InputError: there is none, or two have one name.
    """
    known = studies()
    try:
        given = [asked] if isinstance(asked, str | Study) else many(asked)
    except NotPlainError:
        given = asked
    if not isinstance(given, list):
        raise InputError(f"studies are names, or made by study, got {short(asked)}")
    found: list[Study] = []
    for one in given:
        if isinstance(one, Study):
            found.append(one)
        elif isinstance(one, str) and one in known:
            found.append(known[one])
        else:
            raise InputError(f"there is no study {short(one)}; there are {', '.join(known)}")
    if not found:
        raise InputError("no study was chosen; name some, such as ['heads_ov']")
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the study {twice[0]} was chosen twice; a run has one table of each name")
    return found


def _of_the_package(function: Callable[..., Any]) -> bool:
    return str(function.__module__).startswith(f"{_ROOM}.")  # None where text was executed


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())
    name = getattr(function, "__name__", "the study")
    if not parameters:
        raise InputError(f"{name} takes no argument; a study is called with the run of a prompt")
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for one in parameters[1:]:
        if one.default is one.empty and one.kind not in stars:
            raise InputError(f"the option {one.name} of {name} has no default; give it one")
    return {p.name: p.default for p in parameters[1:] if p.kind not in stars}


def _check_option(study: str, name: str, value: Any) -> None:
    plain = isinstance(value, str | int | float | bool | None)
    if not plain or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(
            f"the option {name} of {study} is {short(value)}; options are texts, finite numbers "
            f"and bools, so that a run can be described in a file"
        )
