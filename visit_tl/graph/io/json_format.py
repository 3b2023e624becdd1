"""A graph as plain JSON types and back, with a schema version; equal after the round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from visit_tl.errors import GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import NodeId
from visit_tl.graph.io.migrations import SCHEMA, upgraded
from visit_tl.graph.records import (
    EDGE_KINDS,
    Column,
    Edge,
    Effect,
    Hidden,
    Hook,
    Node,
    TokenProb,
)

_T = TypeVar("_T")


def to_json(graph: GraphData) -> dict[str, Any]:
    """The graph as dicts, lists, strings and numbers, as docs/schema.md describes it."""
    return {
        "schema": SCHEMA,
        "model": graph.model,
        "prompt": graph.prompt,
        "tokens": list(graph.tokens),
        "token_ids": list(graph.token_ids),
        "prepend_bos": graph.prepend_bos,
        "bos_in_prompt": graph.bos_in_prompt,
        "position": graph.position,
        "target": graph.target,
        "target_id": graph.target_id,
        "target_given": graph.target_given,
        "layers": list(graph.layers),
        "n_layers": graph.n_layers,
        "d_vocab": graph.d_vocab,
        "pruning": dict(graph.pruning),
        "patched": list(graph.patched),
        "adapters": list(graph.adapters),
        **_by_layer(graph),
        "columns": [
            {"position": c.position, "hops": c.hops, "layers": list(c.layers), **_by_layer(c)}
            for c in graph.columns
        ],
        "nodes": [_node_to_json(node) for node in graph.nodes],
        "edges": [
            {
                "source": str(e.source),
                "target": str(e.target),
                "kind": e.kind,
                "score": e.score,
                "effect": None if e.effect is None else _slots(e.effect),
            }
            for e in graph.edges
        ],
    }


def from_json(data: object) -> GraphData:
    """Read a graph that `to_json` wrote.

    Raises:
        GraphError: the data is not a graph or has another schema; or a value is missing, of the
            wrong type, out of range or does not fit the rest. The message names the place.
    """
    root = _Reader(upgraded(data), "the file")
    graph = GraphData(
        model=root.text("model"),
        prompt=root.text("prompt"),
        tokens=tuple(root.items("tokens", str)),
        token_ids=tuple(root.items("token_ids", int)),
        prepend_bos=root.boolean("prepend_bos"),
        bos_in_prompt=root.boolean("bos_in_prompt"),
        position=root.integer("position"),
        target=root.text("target"),
        target_id=root.integer("target_id"),
        target_given=root.boolean("target_given"),
        layers=tuple(root.items("layers", int)),
        n_layers=root.integer("n_layers"),
        d_vocab=root.integer("d_vocab"),
        pruning=_pruning(root),
        hidden=_hidden_by_layer(root),
        residual_error=_errors(root),
        patched=tuple(root.items("patched", str)),
        adapters=tuple(root.items("adapters", str)),
        columns=tuple(_column(part) for part in root.parts("columns")),
        nodes=tuple(_node(part) for part in root.parts("nodes")),
        edges=tuple(_edge(part) for part in root.parts("edges")),
    )
    _check_whole(graph)
    return graph


def _node_to_json(node: Node) -> dict[str, Any]:
    """A node, with the parts of its id as fields for readers that do not parse ids."""
    return {
        "id": str(node.id),
        "kind": node.kind,
        "layer": node.id.layer,
        "head": node.id.head,
        "key_position": node.id.key_position,
        "neuron": node.id.neuron,
        "position": node.id.position,
        "label": node.label,
        "token": node.token,
        "top": [_slots(t) for t in node.top],
        "bottom": [_slots(t) for t in node.bottom],
        "rank": node.rank,
        "prob": node.prob,
        "entropy": node.entropy,
        "norm": node.norm,
        "coefficient": node.coefficient,
        "attention": None if node.attention is None else list(node.attention),
        "hook": None
        if node.hook is None
        else {"name": node.hook.name, "index": list(node.hook.index)},
        "attribution": node.attribution,
        "effect": None if node.effect is None else _slots(node.effect),
    }


def _by_layer(part: GraphData | Column) -> dict[str, Any]:
    return {
        "hidden": {str(layer): _slots(hidden) for layer, hidden in part.hidden.items()},
        "residual_error": {str(layer): error for layer, error in part.residual_error.items()},
    }


def _slots(record: TokenProb | Hidden | Effect) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


class _Reader:
    """Reads typed values from untrusted JSON; its errors name the place of a wrong one."""

    def __init__(self, data: object, where: str) -> None:
        self._data, self._where = data, where

    def get(self, key: str) -> object:
        if not isinstance(self._data, Mapping):
            raise GraphError(f"{self._where} is {type(self._data).__name__}, not an object")
        if key not in self._data:
            raise GraphError(f"{self._where} has no {key!r}")
        return self._data[key]

    def text(self, key: str) -> str:
        return self._typed(key, self.get(key), str)

    def boolean(self, key: str) -> bool:
        return self._typed(key, self.get(key), bool)

    def integer(self, key: str) -> int:
        value = self._typed(key, self.get(key), int)
        if value < 0:
            raise GraphError(f"{self._where}: {key!r} is {value}, below 0")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise GraphError(f"{self._where}: {key!r} is {value!r}, not a finite number")
        return float(value)

    def prob(self, key: str) -> float:
        value = self.number(key)
        if not 0.0 <= value <= 1.0:
            raise GraphError(f"{self._where}: {key!r} is {value}, outside 0..1")
        return value

    def items(self, key: str, kind: type[_T]) -> list[_T]:
        value = self._typed(key, self.get(key), list)
        return [self._typed(f"{key}[{i}]", item, kind) for i, item in enumerate(value)]

    def parts(self, key: str) -> list[_Reader]:
        value = self._typed(key, self.get(key), list)
        return [_Reader(item, f"{key}[{i}]") for i, item in enumerate(value)]

    def by_layer(self, key: str) -> list[tuple[int, _Reader]]:
        value = self._typed(key, self.get(key), dict)
        found = []
        for layer, part in value.items():
            if not (isinstance(layer, str) and layer.isascii() and layer.isdigit()):
                raise GraphError(f"{self._where}: {key!r} has {layer!r} where a layer belongs")
            part = part if isinstance(part, dict) else {"error": part}
            found.append((int(layer), _Reader(part, f"{key}[{layer}]")))
        return found

    def optional(self, key: str) -> bool:
        return self.get(key) is not None

    def _typed(self, key: str, value: object, kind: type[_T]) -> _T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise GraphError(
                f"{self._where}: {key!r} is {type(value).__name__}, expected {kind.__name__}"
            )
        return value


def _pruning(root: _Reader) -> dict[str, str | int | None]:
    value = root.get("pruning")
    if not isinstance(value, dict) or not all(
        isinstance(v, str | int) or v is None for v in value.values()
    ):
        raise GraphError("the file: 'pruning' is not an object of strings, integers and nulls")
    return value


def _hidden_by_layer(part: _Reader) -> dict[int, Hidden]:
    return {
        layer: Hidden(*(hidden.integer(name) for name in Hidden.__slots__))
        for layer, hidden in part.by_layer("hidden")
    }


def _errors(part: _Reader) -> dict[int, float]:
    return {layer: error.number("error") for layer, error in part.by_layer("residual_error")}


def _column(part: _Reader) -> Column:
    return Column(
        position=part.integer("position"),
        hops=part.integer("hops"),
        layers=tuple(part.items("layers", int)),
        hidden=_hidden_by_layer(part),
        residual_error=_errors(part),
    )


def _effect(part: _Reader) -> Effect | None:
    if not part.optional("effect"):
        return None
    inner = _Reader(part.get("effect"), "effect")
    return Effect(inner.number("value"), inner.boolean("exact"))


def _node(part: _Reader) -> Node:
    hook = None
    if part.optional("hook"):
        inner = _Reader(part.get("hook"), "hook")
        hook = Hook(inner.text("name"), tuple(inner.items("index", int)))
    attention = None
    if part.optional("attention"):
        row = part.items("attention", object)
        attention = tuple(_Reader({"attention": a}, "a node").prob("attention") for a in row)
    node_id = NodeId.parse(part.text("id"))
    return Node(
        id=node_id,
        top=tuple(_token(t) for t in part.parts("top")),
        bottom=tuple(_token(t) for t in part.parts("bottom")),
        entropy=part.number("entropy"),
        norm=part.number("norm"),
        rank=part.integer("rank"),
        prob=part.prob("prob"),
        token=part.text("token") if part.optional("token") else None,
        coefficient=part.number("coefficient") if part.optional("coefficient") else None,
        attention=attention,
        hook=hook,
        attribution=part.number("attribution") if part.optional("attribution") else None,
        effect=_effect(part),
    )


def _token(part: _Reader) -> TokenProb:
    return TokenProb(part.text("token"), part.integer("id"), part.prob("prob"))


def _edge(part: _Reader) -> Edge:
    kind = part.text("kind")
    if kind not in EDGE_KINDS:
        raise GraphError(f"an edge has the kind {kind!r}; the kinds are {', '.join(EDGE_KINDS)}")
    source, target = NodeId.parse(part.text("source")), NodeId.parse(part.text("target"))
    return Edge(source, target, cast(Any, kind), part.number("score"), _effect(part))


def _check_whole(graph: GraphData) -> None:
    """Check that the fields of a graph fit each other."""
    if not graph.nodes or not graph.layers:
        raise GraphError("this graph has no nodes or no layers")
    if graph.layers != tuple(range(graph.layers[0], graph.layers[-1] + 1)):
        raise GraphError(f"the layers {list(graph.layers)} are not consecutive and ascending")
    if len(graph.tokens) != len(graph.token_ids) or graph.position >= len(graph.tokens):
        raise GraphError(
            f"{len(graph.tokens)} tokens, {len(graph.token_ids)} token ids and the position "
            f"{graph.position} do not fit together"
        )
    _check_tables(graph, "the graph")
    where: dict[int | None, set[int]] = {None: set(graph.layers)}
    for column in graph.columns:
        _check_column(graph, column)
        where[column.position] = {*column.layers, graph.layers[0] + len(column.layers)}
    if len(where) != len(graph.columns) + 1:
        raise GraphError("two columns are at the same position")
    for node in graph.nodes:
        known = where.get(node.id.position)
        outside = node.layer is not None and node.layer not in graph.layers
        if known is None or outside or (node.layer is not None and node.layer not in known):
            raise GraphError(f"the node {node.id} is outside the graph's layers and columns")
        if node.rank >= graph.d_vocab:
            raise GraphError(f"the node {node.id} has rank {node.rank} of {graph.d_vocab} tokens")
        if not node.top or not node.bottom:
            raise GraphError(f"the node {node.id} has no readout")


def _check_column(graph: GraphData, column: Column) -> None:
    if column.position >= graph.position or column.hops < 1:
        raise GraphError(
            f"a column at position {column.position}, {column.hops} hops away, does not fit a "
            f"graph of position {graph.position}"
        )
    if column.layers != graph.layers[: len(column.layers)]:
        raise GraphError(
            f"the column at position {column.position} has the layers {list(column.layers)}, "
            f"which are not the first of the graph's"
        )
    _check_tables(column, f"the column at position {column.position}")


def _check_tables(part: GraphData | Column, where: str) -> None:
    for name, table in (("hidden", part.hidden), ("residual_error", part.residual_error)):
        if set(table) != set(part.layers):
            raise GraphError(f"{where}: {name!r} is not given for exactly its layers")
