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

SCHEMA: Final = 2
"""The schema of the files that are written."""

_Json = dict[str, Any]


_ADDED_IN_2: Final[dict[str, _Json]] = {
    "nodes": {"position": None, "attribution": None, "effect": None},
    "edges": {"effect": None},
}


def _with_columns(data: _Json) -> _Json:
    """Schema 1 to 2: schema 1 had no other positions, no attributions and no effects.

    Whatever is not a list of objects stays as it is, to be refused by the reader.
    """
    filled = {
        name: [missing | dict(p) if isinstance(p, Mapping) else p for p in data[name]]
        for name, missing in _ADDED_IN_2.items()
        if isinstance(data.get(name), list)
    }
    return {"columns": []} | data | filled | {"schema": 2}


def _defaults(data: _Json) -> _Json:
    """Schema 2: fields that were added later, without a new schema."""
    return {"patched": [], "adapters": [], "bos_in_prompt": False} | data


STEPS: Final[dict[int, Callable[[_Json], _Json]]] = {1: _with_columns}
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
    return _defaults(new)
