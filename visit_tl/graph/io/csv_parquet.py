"""A graph as two tables, one of its nodes and one of its edges, in CSV or Parquet."""

from __future__ import annotations

import csv as csv_module
import io
import json
import re
from pathlib import Path
from typing import Any, Final

from visit_tl.errors import FileError
from visit_tl.graph.container import GraphData
from visit_tl.graph.io.networks import edge_facts, node_facts

NODE_COLUMNS: Final = {
    "id": "string",
    "label": "string",
    "kind": "string",
    **dict.fromkeys(("layer", "head", "key_position", "neuron", "position"), "int64"),
    "token": "string",
    "top": "list of string",
    "bottom": "list of string",
    "rank": "int64",
    **dict.fromkeys(("prob", "norm", "entropy", "coefficient", "attribution", "effect"), "double"),
    "effect_exact": "bool",
    "hook": "string",
    "index": "list of int64",
    "gradient": "double",
    "gradient_rank": "int64",
    "reversed": "double",
    "roles": "list of string",
}
"""Columns of the table of nodes, with their types."""

PART_COLUMNS: Final = {"expert": "int64", "unopened": "string"}
"""Further columns of a graph with experts, or with parts that were not opened."""

FEATURE_COLUMNS: Final = {"site": "string", "explanation": "string"}
"""Further columns of a graph with features."""

EDGE_COLUMNS: Final = {
    **dict.fromkeys(("source", "target", "kind"), "string"),
    **dict.fromkeys(("score", "effect"), "double"),
    "effect_exact": "bool",
}
"""Columns of the table of edges, with their types."""

_LATER: Final = ("gradient", "gradient_rank", "reversed")
_LATEST: Final = ("roles",)
"""The columns of nodes that tables of earlier releases do not have."""

NODES_HEAD: Final = (
    re.escape(",".join(n for n in NODE_COLUMNS if n not in (*_LATER, *_LATEST))).encode()
    + f"(,{','.join(_LATER)}(,{','.join(_LATEST)}(,{','.join(PART_COLUMNS)})?"
    f"(,{','.join(FEATURE_COLUMNS)})?)?)?\n".encode()
)
EDGES_HEAD: Final = re.escape(f"{','.join(EDGE_COLUMNS)}\n".encode())
"""Patterns of the first lines of our CSV files, which mark them as ours."""

_Row = dict[str, Any]


def edges_path(path: Path) -> Path:
    """The file of the edges, beside that of the nodes: `x.edges.csv` for `x.csv`."""
    return path.with_name(f"{path.stem}.edges{path.suffix}")


def csv(graph: GraphData) -> tuple[bytes, bytes]:
    """Nodes and edges as CSV with a header, in UTF-8; lists are JSON, missing values are empty.

    Characters that a text file cannot hold (NUL, halves of surrogate pairs) become escapes; see
    `escaping.carried`.
    """
    from visit_tl.escaping import carried

    written = []
    for columns, rows in zip(_columns(graph), _tables(graph), strict=True):
        file = io.StringIO()
        writer = csv_module.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: carried(v) if isinstance(v, str) else v for k, v in row.items()})
        written.append(file.getvalue().encode())
    return written[0], written[1]


def parquet(graph: GraphData) -> tuple[bytes, bytes]:
    """Nodes and edges as Parquet, with real lists; missing values are null.

    Raises:
        FileError: pyarrow is not installed.
    """
    require_pyarrow()
    import pyarrow as pa  # type: ignore[import-not-found]
    import pyarrow.parquet as pq  # type: ignore[import-not-found]

    kinds = {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "list of string": pa.list_(pa.string()),
        "list of int64": pa.list_(pa.int64()),
    }
    written = []
    for columns, rows in zip(_columns(graph), _tables(graph), strict=True):
        schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        table = pa.Table.from_pylist([_listed(row, columns) for row in rows], schema)
        file = io.BytesIO()
        pq.write_table(table, file)
        written.append(file.getvalue())
    return written[0], written[1]


def require_pyarrow() -> None:
    """Check that Parquet can be written.

    Raises:
        FileError: pyarrow is not installed.
    """
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise FileError(
            "Parquet is written by pyarrow, which is not installed: pip install "
            "'visit-tl[parquet]', or save the same tables as .csv"
        )


def _columns(graph: GraphData) -> tuple[dict[str, str], dict[str, str]]:
    parts = PART_COLUMNS if has_parts(graph) else {}
    return NODE_COLUMNS | parts | (FEATURE_COLUMNS if graph.feature_sets else {}), EDGE_COLUMNS


def has_parts(graph: GraphData) -> bool:
    """Whether a graph has experts, or parts that were not opened."""
    return any(n.id.expert is not None or n.unopened is not None for n in graph.nodes)


def _tables(graph: GraphData) -> tuple[list[_Row], list[_Row]]:
    nodes = [{"id": str(node.id), **node_facts(node, graph)} for node in graph.nodes]
    edges = [
        {"source": str(edge.source), "target": str(edge.target), **edge_facts(edge)}
        for edge in graph.edges
    ]
    return nodes, edges


def _listed(row: _Row, columns: dict[str, str]) -> _Row:
    """A row with lists in place of their JSON, and with texts that UTF-8 can encode."""
    return {
        name: _whole(json.loads(fact) if columns[name].startswith("list") else fact)
        for name, fact in row.items()
    }


def _whole(fact: Any) -> Any:
    if isinstance(fact, list):
        return [_whole(part) for part in fact]
    if isinstance(fact, str):
        return fact.encode("utf-8", errors="backslashreplace").decode()
    return fact
