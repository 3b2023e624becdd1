"""Studies: functions from one forward pass to rows of a table, registered by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final

from visit_tl.errors import InputError

TYPES: Final = ("int64", "float64", "string", "bool")
"""The types that a column can have."""
PROMPT: Final = "prompt"
"""The column that the sweep adds: the place of the prompt in its file."""

_REGISTERED: dict[str, Study] = {}
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
    """

    name: str
    function: Callable[..., Any] = field(repr=False, compare=False)
    columns: Mapping[str, str]
    by: tuple[str, ...]
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: bool = False

    def __call__(self, run: Any) -> Any:
        """Measure one run: the columns, or a generator that asks for readouts first."""
        return self.function(run, **self.options)

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
            if not isinstance(value, str | int | float | bool | None):
                raise InputError(
                    f"the option {name} of {self.name} is {type(value).__name__}; options are "
                    f"texts, numbers and bools, so that a run can be described in a file"
                )
        return replace(self, options={**self.options, **options})


def study(
    *, columns: Mapping[str, str], by: Sequence[str] = (), source: str = "", paper: bool = False
) -> Callable[[Callable[..., Any]], Study]:
    """Register a function as a study under its own name.

        @study(columns={"layer": "int64", "norm": "float64"}, by=["layer"])
        def stream_norms(run):
            return {"layer": run.layers, "norm": run.resid_post.norm(dim=-1)}

    Args:
        columns: The type of each column: int64, float64, string or bool.
        by: The columns that a summary groups by.
        source: Where it is from, such as a paper and its figure.
        paper: Whether it is a measurement of VISIT (Katz and Belinkov, 2023).

    Raises:
        InputError: a column has another type or the name `prompt`, or `by` names no column.
    """

    def registered(function: Callable[..., Any]) -> Study:
        name = function.__name__
        for column, kind in columns.items():
            if kind not in TYPES or column == PROMPT or not column:
                raise InputError(
                    f"the column {column!r} of {name} is {kind!r}; a column is one of "
                    f"{', '.join(TYPES)}, and its name is not {PROMPT!r}"
                )
        if unknown := [one for one in by if one not in columns]:
            raise InputError(f"{name} is summarised by {unknown[0]!r}, which is no column of it")
        made = Study(name, function, dict(columns), tuple(by), source, _options(function), paper)
        _REGISTERED[name] = made
        return made

    return registered


def studies() -> dict[str, Study]:
    """All registered studies by name: those of the package, then those of users."""
    for module in _BUILT_IN:
        import_module(f"visit_tl.sweeps.{module}")
    return dict(_REGISTERED)


def chosen_studies(asked: str | Study | Iterable[str | Study]) -> list[Study]:
    """The studies that are meant by names or given themselves.

    Raises:
        InputError: there is none, or two have one name.
    """
    known = studies()
    given = [asked] if isinstance(asked, str | Study) else list(asked)
    found: list[Study] = []
    for one in given:
        if isinstance(one, Study):
            found.append(one)
        elif isinstance(one, str) and one in known:
            found.append(known[one])
        else:
            raise InputError(f"there is no study {one!r}; there are {', '.join(known)}")
    if not found:
        raise InputError("no study was chosen; name some, such as ['heads_ov']")
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the study {twice[0]} was chosen twice; a run has one table of each name")
    return found


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}
