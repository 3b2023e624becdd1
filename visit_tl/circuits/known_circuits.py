"""Load the reference circuits that come with the package, and reference files of your own."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import ReferenceName
from visit_tl.circuits.reference_files import from_json
from visit_tl.circuits.references import Reference
from visit_tl.errors import FileError, GraphError, InputError
from visit_tl.strict_json import parse_json


def available() -> tuple[str, ...]:
    """The names of the references that come with the package, in alphabetical order."""
    return _shipped()


@checked
def load(name: ReferenceName) -> Reference:
    """Load a reference by its name, or your own from a file.

    Args:
        name: One of `available()`; or the path of a JSON file of the schema in
            docs/schema.md, given as a Path or as text that ends in `.json`.

    Raises:
        InputError: there is no reference with that name.
        FileError: the file cannot be read.
        GraphError: the file is not a valid reference; the message names the field that is missing,
            of the wrong type or out of range.
    """
    if not isinstance(name, str) or name.endswith(".json"):
        return _read(Path(name))
    if name not in _shipped():
        raise InputError(
            f"{name!r} is no reference circuit; there are {', '.join(_shipped())}; one of your own "
            f"is loaded by the path of its .json file"
        )
    return _load_shipped(name)


def codings_of(circuit: str) -> tuple[Reference, ...]:
    """All references of one circuit, such as `ioi`, that come with the package."""
    return tuple(ref for name in _shipped() if (ref := _load_shipped(name)).circuit == circuit)


@cache
def _shipped() -> tuple[str, ...]:
    folder = resources.files("visit_tl.circuits") / "data"
    names = (file.name for file in folder.iterdir() if file.name.endswith(".json"))
    return tuple(sorted(name.removesuffix(".json") for name in names))


@cache
def _load_shipped(name: str) -> Reference:
    file = resources.files("visit_tl.circuits") / "data" / f"{name}.json"
    return from_json(json.loads(file.read_text(encoding="utf-8")), name)


def _read(path: Path) -> Reference:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"the reference {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GraphError(f"the reference {path} is not UTF-8 text: {error}") from error
    except ValueError as error:  # NUL in the path
        raise FileError(f"the reference {str(path)!r} cannot be read: {error}") from error
    try:
        data = parse_json(text)
    except ValueError as error:
        raise GraphError(f"the reference {path} is no JSON: {error}") from error
    return from_json(data, str(path))
