"""Add a note to errors that an untested, newer release of a library may have caused."""

from __future__ import annotations

import sys

from visit_tl.errors import DecompositionError, VisitError


def note_newer_releases(error: Exception) -> None:
    """Add a note to an error that names the libraries newer than the tested ones, if there are any.

    Errors that visit_tl raises on purpose get no note, except a failed decomposition.
    """
    if isinstance(error, MemoryError):
        return
    if isinstance(error, VisitError) and not isinstance(error, DecompositionError):
        return
    from visit_tl.releases import newer

    note = newer()
    if note is None or note in str(error) or note in getattr(error, "__notes__", ()):
        return
    if sys.version_info >= (3, 11) and not isinstance(error, DecompositionError):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
