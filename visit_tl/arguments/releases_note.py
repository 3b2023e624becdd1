"""Errors that a release newer than the tested ones may have caused say so."""

from __future__ import annotations

import sys

from visit_tl.errors import DecompositionError, VisitError


def note_newer_releases(error: Exception) -> None:
    """Add to an error which libraries are newer than all that was tested, if one is.

    What visit_tl refuses on purpose is left as it is, but for a decomposition that does not hold.
    """
    if isinstance(error, MemoryError):
        return
    if isinstance(error, VisitError) and not isinstance(error, DecompositionError):
        return
    from visit_tl.model.releases import newer

    note = newer()
    if note is None or note in str(error) or note in getattr(error, "__notes__", ()):
        return
    if sys.version_info >= (3, 11) and not isinstance(error, DecompositionError):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
