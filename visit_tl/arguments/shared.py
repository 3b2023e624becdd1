"""Keyword arguments that several calls share, described once: a TypedDict with defaults.

    class GraphOptions(TypedDict, total=False): ...
    GRAPH_OPTIONS = shared(GraphOptions, k=5)

    @checked
    def flow_graph(model, prompt, **options: Unpack[GraphOptions]): ...

Editors complete the names from the TypedDict; `inspect.signature` and notebooks list them with
their defaults, as if each were in the signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:

    class Unpack:
        """Stands for `typing.Unpack`, which Python 3.10 lacks; `checked` checks the options."""

        def __class_getitem__(cls, options):
            """Any, so that tools that evaluate annotations at run time check nothing here."""
            return Any


_UNPACK = re.compile(r"Unpack\[(\w+)\]")
_DEFAULTS: dict[Any, Mapping[str, Any]] = {}


def shared(options: Any, **defaults: Any) -> Mapping[str, Any]:
    """Register the defaults of a TypedDict of options.

    Returns:
        The defaults, which a call updates with the options that it was given.

    Raises:
        TypeError: the names are not those of the TypedDict.
    """
    if set(defaults) != set(options.__annotations__):
        raise TypeError(f"{options.__name__} has other names than its defaults")
    _DEFAULTS[options] = defaults
    return defaults


def options_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The TypedDict that annotates `**options`; None if another call checks these options."""
    said = parameter.annotation
    match = _UNPACK.fullmatch(said) if isinstance(said, str) else None
    return None if match is None else inspect.unwrap(function).__globals__[match[1]]


def hints_of(options: Any) -> dict[str, Any]:
    """The annotation of each key of a TypedDict."""
    return get_type_hints(options, include_extras=True)


def whole_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, each shared option with its name and default."""
    own = inspect.signature(function)
    found: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        options = (
            options_of(function, parameter) if parameter.kind is parameter.VAR_KEYWORD else None
        )
        if options is None:
            found.append(parameter)
            continue
        found += [
            inspect.Parameter(
                name,
                parameter.KEYWORD_ONLY,
                default=_DEFAULTS[options][name],
                annotation=getattr(said, "__forward_arg__", said),
            )
            for name, said in options.__annotations__.items()
        ]
    return own.replace(parameters=found)
