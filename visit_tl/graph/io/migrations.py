"""Convert graphs of older schemas to the present one, in memory; the file is not changed.

Policy: every graph that a release of this package wrote can be opened by all later releases. To
change what a file holds, raise `SCHEMA`, add the step from the previous schema to `STEPS`, and put
a file of the previous schema into tests/data/graphs, where a test opens each one. A file of a newer
schema is refused, because its meaning is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from visit_tl.errors import GraphError

SCHEMA: Final = 3
"""The schema of the files that are written."""

_Json = dict[str, Any]


_ADDED_IN_2: Final[dict[str, _Json]] = {
    "nodes": {"position": None, "attribution": None, "effect": None},
    "edges": {"effect": None},
}
_ADDED_IN_3: Final[dict[str, _Json]] = {"nodes": {"gradient": None, "reversed": None}}


def _filled(data: _Json, added: dict[str, _Json]) -> _Json:
    """The lists of a file with the fields that its objects lack.

    Whatever is not a list of objects stays as it is, to be refused by the reader.
    """
    return {
        name: [missing | dict(p) if isinstance(p, Mapping) else p for p in data[name]]
        for name, missing in added.items()
        if isinstance(data.get(name), list)
    }


def _with_columns(data: _Json) -> _Json:
    """Schema 1 to 2: schema 1 had no other positions, no attributions and no effects."""
    return {"columns": []} | data | _filled(data, _ADDED_IN_2) | {"schema": 2}


def _with_gradients(data: _Json) -> _Json:
    """Schema 2 to 3: schema 2 had no gradients, no reversed attention and no segments.

    Three other fields came within schema 2, and its early files lack them.
    """
    late = {"patched": [], "adapters": [], "bos_in_prompt": False}
    return {"segments": []} | late | data | _filled(data, _ADDED_IN_3) | {"schema": 3}


STEPS: Final[dict[int, Callable[[_Json], _Json]]] = {1: _with_columns, 2: _with_gradients}
"""For each older schema, the function that converts it to the next one."""


def upgraded(data: object) -> _Json:
    """Convert the data of a file to the present schema.

    Raises:
        GraphError: the data has no schema, or one that this release cannot read.
    """
    if not isinstance(data, Mapping) or "schema" not in data:
        raise GraphError("this is no visit_tl graph: it has no schema")
    schema = data["schema"]
    if type(schema) is not int or not min(STEPS) <= schema <= SCHEMA:
        raise GraphError(
            f"this graph has schema {schema!r}, but this release of visit_tl reads the schemas "
            f"{min(STEPS)} to {SCHEMA}; open it with the release that wrote it, or build it again"
        )
    new = dict(data)
    for step in range(schema, SCHEMA):
        new = STEPS[step](new)
    return new
