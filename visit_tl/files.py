"""Write files whole or not at all, and never over a file that visit_tl did not write."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from visit_tl.errors import FileError

MARK: Final = "made by visit_tl"
"""Text in the first lines of our GraphML, DOT and SVG files, which marks them as ours."""

_SIGNED: Final = rf"(?:<\?xml[^>]*\?>\s*)?(?://|<!--) {MARK}".encode()
MARKS: Final = {
    ".json": rb'\{"schema": [0-9]+, "model": |\{"metadata": \{"info": \{"generator": \{"name": '
    rb'"visit_tl"',
    ".html": rb'.*<meta name="generator" content="visit_tl',
    ".svg": _SIGNED,
    ".graphml": _SIGNED,
    ".dot": _SIGNED,
}
"""How our own files begin, as regular expressions; other files are not replaced."""

_UNMARKED: Final = (".png", ".pdf", ".parquet")
"""Formats that do not say who wrote the file: it is replaced only with `overwrite`."""

_HEAD: Final = 4096


def check(
    path: str | Path,
    suffixes: Sequence[str],
    *,
    overwrite: bool = False,
    beside: Mapping[Path, str] | None = None,
    marks: Mapping[str, bytes] = MARKS,
) -> Path:
    """Check, before the work is done, that a path can be written to; return it as a Path.

    Args:
        path: Where the file will be written.
        suffixes: The allowed suffixes.
        overwrite: Replace an existing file even if it is not one of ours.
        beside: Other files that are written with it, each with its kind, a key of `marks`.
        marks: For each kind of file, a regular expression for how ours begin.

    Raises:
        FileError: the suffix is unknown, the path cannot be written to, or a file that is not ours
            is there and `overwrite` is False.
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
    for file, kind in {path: suffix, **(beside or {})}.items():
        if file.exists() and not overwrite and not _is_ours(file, kind, marks):
            known = f"and a {suffix} file does not say who made it" if suffix in _UNMARKED else ""
            raise FileError(
                f"{file} exists {known or 'and is no visit_tl graph'}; choose another name, or say "
                f"overwrite=True (--force on the command line)"
            )
    return path


def home(path: str | os.PathLike[str]) -> Path:
    """A path with `~` replaced by the user's folder, as in a shell.

    `~name` of a user that is not known stays as it is, and no such file is found; pathlib raises.
    """
    return Path(os.path.expanduser(path))


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it is moved into place.

    Raises:
        FileError: it cannot be written.
    """
    write_all({path: content})


def write_page(path: str | Path, html: str, *, overwrite: bool = False) -> Path:
    """Write a page of HTML; return its path.

    Raises:
        FileError: as `check` and `write`.
    """
    path = check(path, (".html",), overwrite=overwrite)
    write(path, html.encode("utf-8", errors="backslashreplace"))
    return path


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole or not at all.

    All temporary files are written before the first one is moved into place.

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


def _is_ours(path: Path, kind: str, marks: Mapping[str, bytes]) -> bool:
    if path.is_file() and path.stat().st_size == 0:
        return True
    if kind not in marks:
        return False
    try:
        with path.open("rb") as file:
            return re.match(marks[kind], file.read(_HEAD), re.DOTALL) is not None
    except OSError:
        return False
