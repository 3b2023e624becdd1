"""What can be kept: pages, graphs, notebooks and scripts; and saved graphs, opened again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from visit_tl.errors import GraphError, InputError
from visit_tl.escaping import for_html, visible
from visit_tl.explorer import limits
from visit_tl.explorer.changes import difference
from visit_tl.explorer.recipe import cells, code
from visit_tl.explorer.requests import Export
from visit_tl.flow import FlowGraph
from visit_tl.graph.descriptions import heading
from visit_tl.graph.io.json_format import from_json, to_json
from visit_tl.strict_json import parse_json
from visit_tl.view.page.document import page
from visit_tl.view.style import palette

_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)


def opened(content: bytes) -> FlowGraph:
    """A graph from the content of a saved `.json`.

    Raises:
        GraphError: it is no graph, or not a consistent one.
        InputError: it is larger than the explorer draws.
    """
    if len(content) > limits.FILE:
        raise InputError(f"the file has {len(content)} bytes; the explorer opens {limits.FILE}")
    try:
        data = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise GraphError(f"the file is no JSON: {error}") from error
    graph = FlowGraph.of(from_json(data))
    if len(graph.nodes) > limits.NODES:
        raise InputError(
            f"the graph has {len(graph.nodes)} nodes; the explorer opens {limits.NODES}"
        )
    return graph


def key_of(content: bytes) -> str:
    """The key of an opened file."""
    return hashlib.sha256(content).hexdigest()[:24]


def kept(
    asked: Export, graphs: Sequence[FlowGraph], recipes: Sequence[str]
) -> tuple[str, str, bytes]:
    """A file: its name, its media type and its content."""
    if asked.form == "py":
        text = code(asked.runs, recipes, same_target=asked.same_target)
        return "visit_tl.py", "text/x-python", f"{text}\n".encode()
    if asked.form == "ipynb":
        return "visit_tl.ipynb", "application/x-ipynb+json", _notebook(asked, recipes)
    if asked.form == "json":
        text = json.dumps(to_json(graphs[0]), ensure_ascii=False, allow_nan=False)
        return "graph.json", "application/json", f"{text}\n".encode("utf-8", "backslashreplace")
    if asked.form == "html" or len(graphs) == 1:
        whole = page(graphs[0], theme=asked.theme)
        return "graph.html", "text/html", whole.encode("utf-8", "backslashreplace")
    side = side_by_side(
        graphs, asked.theme, code(asked.runs, recipes, same_target=asked.same_target)
    )
    return "side-by-side.html", "text/html", side.encode("utf-8", "backslashreplace")


def _notebook(asked: Export, recipes: Sequence[str]) -> bytes:
    made: list[dict[str, Any]] = []
    for i, lines in enumerate(cells(asked.runs, recipes, same_target=asked.same_target)):
        source = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
        made.append(
            {
                "cell_type": "code",
                "id": f"cell-{i}",
                "metadata": {},
                "source": source,
                "execution_count": None,
                "outputs": [],
            }
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": made,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return f"{json.dumps(whole, ensure_ascii=False, indent=1)}\n".encode(
        "utf-8", "backslashreplace"
    )


def side_by_side(graphs: Sequence[FlowGraph], theme: str, script: str) -> str:
    """Two pictures, what differs and the Python, as one page that needs no server."""
    colours = palette(theme)
    frames = "".join(
        f'<section><h2>{for_html(name)}</h2><iframe title="{for_html(name)}" '
        f'sandbox="allow-scripts allow-downloads" '
        f'srcdoc="{for_html(page(graph, theme=theme))}"></iframe></section>'
        for name, graph in zip(_names(graphs), graphs, strict=True)
    )
    css = (
        f"body{{margin:0;padding:8px 14px;font:14px/1.4 sans-serif;background:{colours.background};"
        f"color:{colours.text}}}iframe{{width:100%;height:820px;border:1px solid {colours.rule}}}"
        "main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));"
        "gap:12px}h2{font-size:15px;overflow-wrap:anywhere}table{border-collapse:collapse}"
        f"td,th{{text-align:left;padding:2px 12px 2px 0;border-bottom:1px solid {colours.rule}}}"
        "pre{overflow:auto}"
    )
    return (
        f'<!doctype html>\n<html lang="en" data-theme="{for_html(theme)}"><head>'
        f'<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{for_html(_POLICY)}">'
        f'<meta name="generator" content="visit_tl">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>visit_tl: two pictures side by side</title><style>{css}</style></head>"
        f"<body><main>{frames}</main>{_difference(graphs)}"
        f"<h2>The same in Python</h2><pre>{for_html(script)}</pre></body></html>\n"
    )


def _names(graphs: Sequence[FlowGraph]) -> list[str]:
    found = []
    for graph in graphs:
        words = heading(graph)
        more = f", patched at {len(graph.patched)} hooks" if graph.patched else ""
        found.append(f"{words['model']}: {words['prompt']}{more}")
    return found


def _difference(graphs: Sequence[FlowGraph]) -> str:
    found = difference(graphs[0], graphs[1])
    if found is None:
        return "<p>The pictures follow different targets, so their ranks are not compared.</p>"
    changed, appeared, vanished, same = found["counts"]
    rows = "".join(
        f"<tr><td>{for_html(one['id'])}</td><td>{for_html(one['says_before'])}</td>"
        f"<td>{one['rank_before']}</td><td>{for_html(one['says_after'])}</td>"
        f"<td>{one['rank_after']}</td></tr>"
        for one in found["changed"][:40]
    )
    return (
        f"<h2>What differs</h2><p>Of the target {for_html(visible(graphs[0].target))}: {changed} "
        f"nodes changed rank, {appeared} appeared, {vanished} vanished, {same} as before.</p>"
        f"<table><tr><th>node</th><th>said</th><th>rank</th><th>says</th><th>rank</th></tr>"
        f"{rows}</table>"
    )
