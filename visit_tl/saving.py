"""Save a graph in the format that the suffix of the path names; load it from `.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from visit_tl import files
from visit_tl.arguments.vocabulary import Layers
from visit_tl.errors import FileError, GraphError, InputError
from visit_tl.graph.container import GraphData
from visit_tl.graph.io import csv_parquet, networks
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.strict_json import parse_json

_MARKS: Final = {
    **files.MARKS,
    ".csv": csv_parquet.NODES_HEAD,
    ".edges.csv": csv_parquet.EDGES_HEAD,
}

_PICTURES: Final = (".html", ".svg", ".png", ".pdf")
_TABLES: Final = (".csv", ".parquet")
SUFFIXES: Final = (*_PICTURES, ".json", ".graphml", ".dot", *_TABLES)
SCHEMAS: Final = ("visit_tl", "neuronpedia")


def save(
    graph: GraphData,
    path: str | Path,
    *,
    overwrite: bool = False,
    theme: str = "light",
    layers: Layers | None = None,
    schema: str = "visit_tl",
) -> Path:
    """Write a graph in the format that the suffix of the path names; see `FlowGraph.save`.

    Args:
        graph: The graph.
        path: Where; the folder must exist.
        overwrite: Replace an existing file even if visit_tl did not write it.
        theme: `light` or `dark`, for the pictures.
        layers: The blocks that a picture shows; None as in `FlowGraph.figure`.
        schema: For `.json`: `visit_tl`, or `neuronpedia`.

    Returns:
        The path.

    Raises:
        FileError: as `check`.
        InputError: the schema or theme is unknown, or the format takes no layers or no schema.
        GraphError: a number of the graph is not finite, which JSON cannot hold.
    """
    path = check(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    if schema not in SCHEMAS or (schema != "visit_tl" and suffix != ".json"):
        raise InputError(
            f"a .json file has the schema {' or '.join(SCHEMAS)}, and no other file has one; "
            f"got {schema!r} for {path.name!r}"
        )
    if layers is not None and suffix not in _PICTURES:
        raise InputError(
            f"layers= chooses the blocks of a picture, but a {suffix} file holds all of a graph; "
            f"save g.subgraph(layers) instead"
        )
    if suffix in _TABLES:
        nodes, edges = csv_parquet.csv(graph) if suffix == ".csv" else csv_parquet.parquet(graph)
        files.write_all({path: nodes, csv_parquet.edges_path(path): edges})
    elif suffix in _PICTURES:
        files.write(path, _picture(graph, suffix, theme, layers))
    elif suffix == ".graphml":
        files.write(path, networks.graphml(graph))
    elif suffix == ".dot":
        from visit_tl.view.dot import dot

        files.write(path, dot(graph, theme).encode())
    else:
        files.write(path, _json(graph, path, schema))
    return path


def check(path: str | Path, *, overwrite: bool = False, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Check, before the work is done, that `save` can write to a path; return it as a Path.

    Args:
        path: Where.
        overwrite: As for `save`.
        suffixes: The allowed suffixes, some or all of `SUFFIXES`.

    Raises:
        FileError: as `files.check`, or a package that this format needs is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    beside = {csv_parquet.edges_path(path): f".edges{suffix}"} if suffix in _TABLES else {}
    path = files.check(path, suffixes, overwrite=overwrite, beside=beside, marks=_MARKS)
    if suffix == ".parquet":
        csv_parquet.require_pyarrow()
    elif suffix in (".png", ".pdf"):
        from visit_tl.view.image import require_kaleido

        require_kaleido()
    return path


def load(path: str | Path) -> GraphData:
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


def _json(graph: GraphData, path: Path, schema: str) -> bytes:
    data: dict[str, Any]
    if schema == "visit_tl":
        data = to_json(graph)
    else:
        from visit_tl.graph.io.neuronpedia import to_neuronpedia

        data = to_neuronpedia(graph, path.stem)
    try:
        written = json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise GraphError(
            f"this graph has a number that is not finite, which JSON cannot hold: {error}"
        ) from error
    # Some tokenizers give lone surrogates, which UTF-8 cannot encode. `backslashreplace` writes
    # them in the form of JSON's own escape, so that they are read back unchanged.
    return f"{written}\n".encode("utf-8", errors="backslashreplace")


def _picture(graph: GraphData, suffix: str, theme: str, layers: Layers | None) -> bytes:
    if suffix == ".html":
        from visit_tl.view.page.document import page

        text = page(graph, theme=theme, layers=layers)
        return text.encode("utf-8", errors="backslashreplace")
    if suffix == ".svg":
        from visit_tl.view.svg import svg

        return svg(graph, theme=theme, layers=layers).encode()
    from visit_tl.view.image import image

    return image(graph, suffix[1:], theme=theme, layers=layers)
