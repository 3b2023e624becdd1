"""Graphs on disk: written whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import FileError, GraphError, InputError
from visit_tl.graph import networks, sheets
from visit_tl.graph.export import from_json, to_json
from visit_tl.graph.flow import FlowGraph
from visit_tl.strict_json import parse_json

# How our own files begin; a file that does not is not ours to replace.
_SIGNED: Final = rf"(?:<\?xml[^>]*\?>\s*)?(?://|<!--) {networks.MARK}".encode()
_MARKS: Final = {
    ".json": rb'\{"schema": [0-9]+, "model": |\{"metadata": \{"info": \{"generator": \{"name": '
    rb'"visit_tl"',
    ".html": rb'.*<meta name="generator" content="visit_tl',
    ".svg": _SIGNED,
    ".graphml": _SIGNED,
    ".dot": _SIGNED,
    ".csv": re.escape(sheets.NODES_HEAD),
    ".edges.csv": re.escape(sheets.EDGES_HEAD),
}
_UNMARKED: Final = (".png", ".pdf", ".parquet")
"""Files that do not say who wrote them: never replaced without being told to."""

_PICTURES: Final = (".html", ".svg", ".png", ".pdf")
_TABLES: Final = (".csv", ".parquet")
SUFFIXES: Final = (*_PICTURES, ".json", ".graphml", ".dot", *_TABLES)
SCHEMAS: Final = ("visit_tl", "neuronpedia")
_HEAD: Final = 4096


def save(
    graph: FlowGraph,
    path: str | Path,
    *,
    overwrite: bool = False,
    theme: str = "light",
    layers: Layers | None = None,
    schema: str = "visit_tl",
) -> Path:
    """Write a graph by the suffix of the path; see `FlowGraph.save`.

    Args:
        graph: What is written.
        path: Where; the folder must exist.
        overwrite: Replace a file that is not known for one of ours.
        theme: `light` or `dark`, for the pictures.
        layers: Which blocks the pictures show; None as `FlowGraph.figure`.
        schema: For `.json`: `visit_tl`, or `neuronpedia`.

    Returns:
        The path.

    Raises:
        FileError: as `check`.
        InputError: an unknown schema or theme, or layers or a schema for what has none.
        GraphError: a number of the graph is not finite, and JSON has none for it.
    """
    path = check(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    if schema not in SCHEMAS or (schema != "visit_tl" and suffix != ".json"):
        raise InputError(
            f"a .json file is of the schema {' or '.join(SCHEMAS)}, and no other file has one; "
            f"got {schema!r} for {path.name!r}"
        )
    if layers is not None and suffix not in _PICTURES:
        raise InputError(
            f"layers says what a picture shows, and a {suffix} file holds all of a graph; save "
            f"g.subgraph(layers) instead"
        )
    if suffix in _TABLES:
        nodes, edges = sheets.csv(graph) if suffix == ".csv" else sheets.parquet(graph)
        write_all({path: nodes, sheets.edges_path(path): edges})
    elif suffix in _PICTURES:
        write(path, _picture(graph, suffix, theme, layers))
    elif suffix == ".graphml":
        write(path, networks.graphml(graph))
    elif suffix == ".dot":
        write(path, networks.dot(graph, theme).encode())
    else:
        write(path, _json(graph, path, schema))
    return path


def check(path: str | Path, *, overwrite: bool = False, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """A path that `save` would write to, asked before the work is done.

    Args:
        path: Where.
        overwrite: As for `save`.
        suffixes: What may be written, of `SUFFIXES`.

    Raises:
        FileError: an unknown suffix, an unwritable path, a file there that is not known for one of
            ours without `overwrite`, or something that this kind of file needs is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise FileError(
            f"{path.name!r} has the suffix {path.suffix!r}; this is saved as "
            f"{', '.join(suffixes[:-1])}{' or ' if suffixes[1:] else ''}{suffixes[-1]}"
        )
    if path.is_dir():
        raise FileError(f"{path} is a folder; name a file in it, such as {path / 'graph.html'}")
    if not path.parent.is_dir():
        raise FileError(f"the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"the folder {path.parent} cannot be written to; choose another")
    files = {path: suffix}
    if suffix in _TABLES:
        files[sheets.edges_path(path)] = f".edges{suffix}"
    for file, kind in files.items():
        if file.exists() and not overwrite and not _is_ours(file, kind):
            known = f"and a {suffix} file does not say who made it" if suffix in _UNMARKED else ""
            raise FileError(
                f"{file} exists {known or 'and is no visit_tl graph'}; choose another name, or say "
                f"overwrite=True (--force on the command line)"
            )
    if suffix == ".parquet":
        sheets.require_pyarrow()
    elif suffix in (".png", ".pdf"):
        from visit_tl.view.image import require_kaleido

        require_kaleido()
    return path


def load(path: str | Path) -> FlowGraph:
    """Read a graph that was saved as `.json`; see `FlowGraph.load`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and suffix != ".json":
        what = "a page" if suffix == ".html" else f"a {suffix} file"
        raise GraphError(
            f"{path} is {what} to look at or for other tools; graphs are loaded from their .json"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or NUL in the path
        raise FileError(f"{path} cannot be read as text: {error}") from error
    try:
        data = parse_json(text)
    except ValueError as error:
        raise GraphError(f"{path} is not JSON, or is cut off: {error}") from error
    if isinstance(data, dict) and "schema" not in data and {"qParams", "links"} <= data.keys():
        raise GraphError(
            f"{path} is for the viewers of Neuronpedia and circuit-tracer, which do not hold all "
            f"of a graph; load the .json that was saved without schema='neuronpedia'"
        )
    return from_json(data)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary sibling is moved into place.

    Raises:
        FileError: it cannot be written.
    """
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole or not at all; none is touched before all are written.

    Raises:
        FileError: one cannot be written.
    """
    ready: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            try:
                handle, ready[path] = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                # mkstemp gives 0600; a new file should have the rights that open() would give it.
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(ready[path], 0o666 & ~mask)
            except OSError as error:
                raise _unwritable(path, error) from error
        for path, temporary in ready.items():
            try:
                os.replace(temporary, path)
            except OSError as error:
                raise _unwritable(path, error) from error
    finally:
        for temporary in ready.values():
            if os.path.exists(temporary):
                os.unlink(temporary)


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(f"{path} cannot be written: {error.strerror or error}")


def _is_ours(path: Path, kind: str) -> bool:
    if path.is_file() and path.stat().st_size == 0:
        return True
    if kind not in _MARKS:
        return False
    try:
        with path.open("rb") as file:
            return re.match(_MARKS[kind], file.read(_HEAD), re.DOTALL) is not None
    except OSError:
        return False


def _json(graph: FlowGraph, path: Path, schema: str) -> bytes:
    data: dict[str, Any]
    if schema == "visit_tl":
        data = to_json(graph)
    else:
        from visit_tl.graph.neuronpedia import to_neuronpedia

        data = to_neuronpedia(graph, path.stem)
    try:
        written = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise GraphError(
            f"this graph has a number that is not finite, which JSON cannot hold: {error}"
        ) from error
    # Lone surrogates, which some tokenizers give, are no UTF-8. JSON's own escape for them is read
    # back as what it was, which is also what Python's escape looks like.
    return f"{written}\n".encode("utf-8", errors="backslashreplace")


def _picture(graph: FlowGraph, suffix: str, theme: str, layers: Layers | None) -> bytes:
    if suffix == ".html":
        from visit_tl.view.page import page

        text = page(graph, theme=theme, layers=layers)
        return text.encode("utf-8", errors="backslashreplace")
    if suffix == ".svg":
        from visit_tl.view.svg import svg

        return svg(graph, theme=theme, layers=layers).encode()
    from visit_tl.view.image import image

    return image(graph, suffix[1:], theme=theme, layers=layers)
