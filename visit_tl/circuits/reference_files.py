"""Read reference circuits from JSON. An error names the field of the file that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from visit_tl.circuits.references import SCHEMA, Reference
from visit_tl.errors import GraphError
from visit_tl.graph.circuit_edges import INPUT, LOGITS, Shape, inside, join, named
from visit_tl.graph.circuit_parts import HEAD_INPUTS, Edge, Part

_FIELDS: Final = {
    "schema": int,
    "name": str,
    "circuit": str,
    "coding": str,
    "model": dict,
    "task": str,
    "prompt": dict,
    "heads": dict,
    "mlps": dict,
    "edges": dict,
    "counts": dict,
    "sources": list,
    "notes": list,
}
_REQUIRED: Final = ("name", "circuit", "coding", "model", "heads", "sources")
_RULE: Final = ("from", "to", "inputs")

_T = TypeVar("_T")


def from_json(data: object, where: str) -> Reference:
    """Build a reference from the parsed content of a JSON file.

    Args:
        data: The parsed JSON.
        where: Name or path of the file, for messages.

    Raises:
        GraphError: a field is missing, unknown, of the wrong type or out of range, or the counts in
            the file differ from the number of heads, MLPs or edges that it lists.
    """
    try:
        return _reference(data)
    except GraphError as error:
        raise GraphError(f"the reference {where}: {error}") from None


def _reference(data: object) -> Reference:
    if not isinstance(data, Mapping) or "schema" not in data:
        raise GraphError("it has no schema, so it is no reference circuit")
    if data["schema"] != SCHEMA or isinstance(data["schema"], bool):
        raise GraphError(
            f"it has schema {data['schema']!r}, but this release of visit_tl reads schema {SCHEMA}"
        )
    _check_keys(data, tuple(_FIELDS), "the file")
    for name in _REQUIRED:
        if name not in data:
            raise GraphError(f"{name} is missing")
    root = {name: _typed(value, _FIELDS[name], name) for name, value in data.items()}
    shape, model = _shape(root["model"])
    classes, groups = _groups(root["heads"], "head"), _groups(root.get("mlps", {}), "mlp")
    _check_parts(classes, groups, shape, model)
    edges, internal = _edges(root.get("edges", {}), classes, groups, shape)
    made = Reference(
        name=root["name"],
        circuit=root["circuit"],
        coding=root["coding"],
        model=model,
        shape=shape,
        classes=classes,
        mlp_groups=groups,
        edges=edges,
        internal=internal,
        task=root.get("task", ""),
        prompt=root.get("prompt", {}),
        sources=_texts(root["sources"], "sources"),
        notes=_texts(root.get("notes", []), "notes"),
    )
    _check_counts(made, root.get("counts", {}))
    return made


def _shape(model: dict[str, Any]) -> tuple[Shape, str]:
    _check_keys(model, ("name", "n_layers", "n_heads", "mlps", "parallel"), "model")
    sizes = {}
    for size in ("n_layers", "n_heads"):
        value = model.get(size)
        if type(value) is not int or value < 1:
            raise GraphError(f"model.{size} must be an integer from 1 up, got {value!r}")
        sizes[size] = value
    flags = {
        name: _typed(model.get(name, default), bool, f"model.{name}")
        for name, default in (("mlps", True), ("parallel", False))
    }
    return Shape(**sizes, **flags), _typed(model.get("name"), str, "model.name")


def _groups(groups: dict[str, Any], kind: str) -> dict[str, tuple[Part, ...]]:
    field = f"{kind}s"
    found = {}
    for name, members in groups.items():
        if name in ("input", "logits", "heads", "mlps"):
            raise GraphError(
                f"{field}: a class cannot be called {name!r}, a word that edge rules use"
            )
        spelled = _texts(_typed(members, list, f"{field}.{name}"), f"{field}.{name}")
        parts = tuple(Part.parse(member) for member in spelled)
        if wrong := [s for s, p in zip(spelled, parts, strict=True) if p.kind != kind]:
            raise GraphError(f"{field}.{name}: {wrong[0]!r} is no {kind}")
        found[name] = parts
    return found


def _check_parts(
    classes: dict[str, tuple[Part, ...]],
    groups: dict[str, tuple[Part, ...]],
    shape: Shape,
    model: str,
) -> None:
    """Check that each part is listed once and exists in the model, and that names are unique."""
    if both := set(classes) & set(groups):
        raise GraphError(f"{min(both)!r} is the name of a class of heads and of a group of MLPs")
    home: dict[Part, str] = {}
    for name, parts in (*classes.items(), *groups.items()):
        for part in parts:
            if part in home:
                raise GraphError(
                    f"{part} is in {home[part]!r} and in {name!r}; a part has one class"
                )
            home[part] = name
    _inside_model(home, shape, model)


def _inside_model(parts: Iterable[Part], shape: Shape, model: str) -> None:
    if outside := [str(part) for part in parts if not shape.holds(part)]:
        mlps = "" if shape.mlps else " and no MLPs"
        raise GraphError(f"{model} has {shape}{mlps}, but not {', '.join(outside)}")


def _edges(
    data: dict[str, Any],
    classes: dict[str, tuple[Part, ...]],
    groups: dict[str, tuple[Part, ...]],
    shape: Shape,
) -> tuple[tuple[Edge, ...], bool]:
    """The listed edges and those made by the rules, sorted; whether edges inside heads count."""
    _check_keys(data, ("rules", "list", "internal"), "edges")
    words = {
        **classes,
        **groups,
        "heads": tuple(p for parts in classes.values() for p in parts),
        "mlps": tuple(p for parts in groups.values() for p in parts),
        "input": (INPUT,),
        "logits": (LOGITS,),
    }
    listed = _texts(_typed(data.get("list", []), list, "edges.list"), "edges.list")
    edges = [Edge.parse(text) for text in listed]
    if len(set(edges)) < len(edges):
        twice = next(e for i, e in enumerate(edges) if e in edges[:i])
        raise GraphError(f"edges.list has {twice} twice")
    for i, rule in enumerate(_typed(data.get("rules", []), list, "edges.rules")):
        edges += _rule(rule, words, shape, f"edges.rules[{i}]")
    internal = _typed(data.get("internal", False), bool, "edges.internal")
    if internal:
        edges += inside(edges)
    _inside_model(dict.fromkeys(end for e in edges for end in (e.source, e.target)), shape, "it")
    return tuple(sorted(set(edges), key=lambda edge: edge.order)), internal


def _rule(rule: Any, words: Mapping[str, tuple[Part, ...]], shape: Shape, where: str) -> list[Edge]:
    rule = _typed(rule, dict, where)
    _check_keys(rule, _RULE, where)
    sources, targets = (
        named(words, _texts(_typed(rule.get(end), list, f"{where}.{end}"), f"{where}.{end}"))
        for end in ("from", "to")
    )
    inputs = _typed(rule.get("inputs", ""), str, f"{where}.inputs")
    if set(inputs) - set(HEAD_INPUTS) or len(set(inputs)) < len(inputs):
        raise GraphError(f"{where}.inputs must be letters of qkv, got {inputs!r}")
    if not inputs and any(part.kind == "head" for part in targets):
        raise GraphError(f"{where} has heads as targets and must say at which inputs, such as 'kv'")
    read = [letter for letter in HEAD_INPUTS if letter in inputs]
    return list(join(sources, targets, read, parallel=shape.parallel))


def _check_counts(made: Reference, counts: dict[str, Any]) -> None:
    _check_keys(counts, ("heads", "mlps", "edges"), "counts")
    for name, stated in counts.items():
        found = len(getattr(made, name))
        if stated != found:
            raise GraphError(f"counts.{name} is {stated!r}, but the file lists {found}")


# --- types ---------------------------------------------------------------------------------------


def _check_keys(data: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    if unknown := [name for name in data if name not in names]:
        raise GraphError(f"{where} has no {unknown[0]!r}; it may have {', '.join(names)}")


def _typed(value: Any, kind: type[_T], where: str) -> _T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
        raise GraphError(f"{where} must be {words.get(kind, kind.__name__)}, got {value!r}")
    return value


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    return tuple(_typed(value, str, f"{where}[{i}]") for i, value in enumerate(values))
