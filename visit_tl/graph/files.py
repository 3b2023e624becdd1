"""Graphs on disk: written whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from visit_tl.errors import FileError, GraphError
from visit_tl.graph.export import from_json, to_json
from visit_tl.graph.flow import FlowGraph

# What the first bytes of our own files hold; a file without it is not ours to replace.
_MARKS: Final = {".json": b'{"schema":', ".html": b'<meta name="generator" content="visit_tl'}
_HEAD: Final = 4096


def save(
    graph: FlowGraph, path: str | Path, *, overwrite: bool = False, theme: str = "light"
) -> Path:
    """Write a graph by the suffix of the path: `.json` or `.html`.

    Args:
        graph: What is written.
        path: Where; the folder must exist.
        overwrite: Replace a file that is not a graph of ours. Graphs are always replaced.
        theme: `light` or `dark`, for HTML.

    Returns:
        The path.

    Raises:
        FileError: an unknown suffix, an unwritable path, or a foreign file without `overwrite`.
    """
    path = check(path, overwrite=overwrite)
    writers: dict[str, Callable[[], str]] = {
        ".json": lambda: json.dumps(to_json(graph), ensure_ascii=False, allow_nan=False) + "\n",
        ".html": lambda: _page(graph, theme),
    }
    # Lone surrogates, which some tokenizers give, are no UTF-8; they are shown escaped.
    write(path, writers[path.suffix.lower()]().encode("utf-8", errors="backslashreplace"))
    return path


def check(
    path: str | Path, *, overwrite: bool = False, suffixes: Sequence[str] = tuple(_MARKS)
) -> Path:
    """A path that `save` would write to, asked before the work is done.

    Args:
        path: Where.
        overwrite: As for `save`.
        suffixes: What may be written, of `.json` and `.html`.

    Raises:
        FileError: as `save`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise FileError(
            f"{path.name!r} has the suffix {path.suffix!r}; this is saved as "
            f"{' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise FileError(f"{path} is a folder; name a file in it, such as {path / 'graph.html'}")
    if not path.parent.is_dir():
        raise FileError(f"the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"the folder {path.parent} cannot be written to; choose another")
    if path.exists() and not overwrite and not _is_ours(path, suffix):
        raise FileError(
            f"{path} exists and is no visit_tl graph; choose another name, or say overwrite=True "
            f"(--force on the command line)"
        )
    return path


def load(path: str | Path) -> FlowGraph:
    """Read a graph that was saved as `.json`; see `FlowGraph.load`."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read as text: {error}") from error
    if path.suffix.lower() == ".html":
        raise GraphError(f"{path} is a page to look at; graphs are loaded from their .json")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path} is not JSON, or is cut off: {error}") from error
    return from_json(data)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary sibling is moved into place.

    Raises:
        FileError: it cannot be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp gives 0600; a new file should have the rights that open() would give it.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _is_ours(path: Path, suffix: str) -> bool:
    if path.is_file() and path.stat().st_size == 0:
        return True
    try:
        with path.open("rb") as file:
            return _MARKS[suffix] in file.read(_HEAD)
    except OSError:
        return False


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _page(graph: FlowGraph, theme: str) -> str:
    from visit_tl.view.page import page

    return page(graph, theme=theme)
