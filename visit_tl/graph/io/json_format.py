"""A graph as plain JSON types and back, with a schema version; equal after the round trip."""

from __future__ import annotations

from typing import Any, Final, cast

from visit_tl.errors import GraphError
from visit_tl.graph.container import GraphData
from visit_tl.graph.ids import FEATURE_SITES, NodeId
from visit_tl.graph.io.consistency import check_whole
from visit_tl.graph.io.migrations import SCHEMA, upgraded
from visit_tl.graph.io.typed_reader import TypedReader
from visit_tl.graph.lens_record import LensRecord
from visit_tl.graph.records import (
    EDGE_KINDS,
    Column,
    Edge,
    Effect,
    FeatureSet,
    Gradient,
    Hidden,
    Hook,
    Node,
    Reason,
    Reversed,
    ScorePair,
    TokenProb,
)

_LATER_COUNTS: Final = ("features",)
"""Counts of what pruning hid that files leave out where they are 0."""


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
        "segments": [list(span) for span in graph.segments],
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
        **({"reasons": list(map(_reason_to_json, graph.reasons))} if graph.reasons else {}),
        **({"feature_sets": list(map(_slots, graph.feature_sets))} if graph.feature_sets else {}),
        **({"lens": _lens_to_json(graph.lens)} if graph.lens is not None else {}),
    }


def from_json(data: object) -> GraphData:
    """Read a graph that `to_json` wrote.

    Raises:
        GraphError: the data is not a graph or has another schema; or a value is missing, of the
            wrong type, out of range or does not fit the rest. The message names the place.
    """
    root = TypedReader(upgraded(data), "the file")
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
        segments=_segments(root),
        columns=tuple(_column(part) for part in root.parts("columns")),
        nodes=tuple(_node(part) for part in root.parts("nodes")),
        edges=tuple(_edge(part) for part in root.parts("edges")),
        reasons=tuple(map(_reason, root.parts("reasons"))) if root.has("reasons") else (),
        feature_sets=tuple(map(_feature_set, root.parts("feature_sets")))
        if root.has("feature_sets")
        else (),
        lens=_lens(TypedReader(root.get("lens"), "the lens")) if root.has("lens") else None,
    )
    check_whole(graph)
    return graph


def _segments(root: TypedReader) -> tuple[tuple[int, int], ...]:
    found = []
    for i, span in enumerate(root.items("segments", list)):
        if len(span) != 2 or any(type(x) is not int for x in span):
            raise GraphError(f"the file: 'segments[{i}]' is {span!r}, not two integers")
        found.append((span[0], span[1]))
    return tuple(found)


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
        **({} if node.id.site is None else {"site": node.id.site}),
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
        "gradient": None if node.gradient is None else _gradient_to_json(node.gradient),
        "reversed": None
        if node.reversed is None
        else {"norm": node.reversed.norm, "row": list(node.reversed.row)},
        **({"roles": list(node.roles)} if node.roles else {}),
        **({} if node.explanation is None else {"explanation": node.explanation}),
        **({} if node.id.expert is None else {"expert": node.id.expert}),
        **({} if node.unopened is None else {"unopened": node.unopened}),
    }


def _gradient_to_json(gradient: Gradient) -> dict[str, Any]:
    return {
        "norm": gradient.norm,
        "rank": gradient.rank,
        "top": [_slots(t) for t in gradient.top],
        "bottom": [_slots(t) for t in gradient.bottom],
    }


def _reason_to_json(reason: Reason) -> dict[str, Any]:
    return {
        "head": str(reason.head),
        "query": reason.query,
        "key": reason.key,
        "score": reason.score,
        "capped": reason.capped,
        "attention": reason.attention,
        "pairs": [_slots(pair) for pair in reason.pairs],
        "others": reason.others,
    }


def _lens_to_json(lens: LensRecord) -> dict[str, Any]:
    return {"name": lens.name, "blocks": list(lens.blocks), "digest": lens.digest}


def _by_layer(part: GraphData | Column) -> dict[str, Any]:
    return {
        "hidden": {str(layer): _hidden_to_json(one) for layer, one in part.hidden.items()},
        "residual_error": {str(layer): error for layer, error in part.residual_error.items()},
    }


def _hidden_to_json(hidden: Hidden) -> dict[str, Any]:
    """The counts; those that came later are left out where they are 0."""
    return {n: c for n, c in _slots(hidden).items() if c or n not in _LATER_COUNTS}


def _slots(record: TokenProb | Hidden | Effect | ScorePair | FeatureSet) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _pruning(root: TypedReader) -> dict[str, str | int | None]:
    value = root.get("pruning")
    if not isinstance(value, dict) or not all(
        isinstance(v, str | int) or v is None for v in value.values()
    ):
        raise GraphError("the file: 'pruning' is not an object of strings, integers and nulls")
    return value


def _hidden_by_layer(part: TypedReader) -> dict[int, Hidden]:
    return {
        layer: Hidden(
            **{
                name: hidden.integer(name)
                for name in Hidden.__slots__
                if name not in _LATER_COUNTS or hidden.has(name)
            }
        )
        for layer, hidden in part.by_layer("hidden")
    }


def _errors(part: TypedReader) -> dict[int, float]:
    return {layer: error.number("error") for layer, error in part.by_layer("residual_error")}


def _column(part: TypedReader) -> Column:
    return Column(
        position=part.integer("position"),
        hops=part.integer("hops"),
        layers=tuple(part.items("layers", int)),
        hidden=_hidden_by_layer(part),
        residual_error=_errors(part),
    )


def _effect(part: TypedReader) -> Effect | None:
    if not part.optional("effect"):
        return None
    inner = TypedReader(part.get("effect"), "effect")
    return Effect(inner.number("value"), inner.boolean("exact"))


def _gradient(part: TypedReader, where: NodeId) -> Gradient | None:
    if not part.optional("gradient"):
        return None
    inner = TypedReader(part.get("gradient"), f"the gradient of {where}")
    return Gradient(
        norm=inner.length("norm"),
        rank=inner.integer("rank") if inner.optional("rank") else None,
        top=tuple(_token(t) for t in inner.parts("top")),
        bottom=tuple(_token(t) for t in inner.parts("bottom")),
    )


def _reversed(part: TypedReader, where: NodeId) -> Reversed | None:
    if not part.optional("reversed"):
        return None
    name = f"the reversed attention of {where}"
    inner = TypedReader(part.get("reversed"), name)
    row = inner.items("row", object)
    numbers = (TypedReader({"row": value}, name).number("row") for value in row)
    return Reversed(inner.length("norm"), tuple(numbers))


def _lens(part: TypedReader) -> LensRecord:
    return LensRecord(part.text("name"), tuple(part.items("blocks", int)), part.text("digest"))


def _reason(part: TypedReader) -> Reason:
    head = NodeId.parse(part.text("head"))
    if head.kind != "head" or head.position is not None:
        raise GraphError(f"a reason is of {head}, which is no head without a position")
    pairs = (
        ScorePair(pair.text("query"), pair.text("key"), pair.number("value"))
        for pair in part.parts("pairs")
    )
    return Reason(
        head=head,
        query=part.integer("query"),
        key=part.integer("key"),
        score=part.number("score"),
        capped=part.number("capped") if part.optional("capped") else None,
        attention=part.prob("attention"),
        pairs=tuple(pairs),
        others=part.number("others"),
    )


def _feature_set(part: TypedReader) -> FeatureSet:
    site = part.text("site")
    if site not in FEATURE_SITES:
        raise GraphError(
            f"a set of features is at {site!r}; the sites are {', '.join(FEATURE_SITES)}"
        )
    return FeatureSet(
        name=part.text("name"),
        layer=part.integer("layer"),
        site=cast(Any, site),
        architecture=part.text("architecture"),
        hook=part.text("hook"),
        hook_out=part.text("hook_out"),
        n_features=part.integer("n_features"),
        active=part.integer("active"),
        error_share=part.length("error_share"),
        explained=part.number("explained"),
        neuronpedia=part.text("neuronpedia") if part.optional("neuronpedia") else None,
    )


def _node(part: TypedReader) -> Node:
    hook = None
    if part.optional("hook"):
        inner = TypedReader(part.get("hook"), "hook")
        hook = Hook(inner.text("name"), tuple(inner.items("index", int)))
    attention = None
    if part.optional("attention"):
        row = part.items("attention", object)
        attention = tuple(TypedReader({"attention": a}, "a node").prob("attention") for a in row)
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
        gradient=_gradient(part, node_id),
        reversed=_reversed(part, node_id),
        roles=tuple(part.items("roles", str)) if part.has("roles") else (),
        explanation=part.text("explanation") if part.has("explanation") else None,
        unopened=part.text("unopened") if part.has("unopened") else None,
    )


def _token(part: TypedReader) -> TokenProb:
    return TokenProb(part.text("token"), part.integer("id"), part.prob("prob"))


def _edge(part: TypedReader) -> Edge:
    kind = part.text("kind")
    if kind not in EDGE_KINDS:
        raise GraphError(f"an edge has the kind {kind!r}; the kinds are {', '.join(EDGE_KINDS)}")
    source, target = NodeId.parse(part.text("source")), NodeId.parse(part.text("target"))
    return Edge(source, target, cast(Any, kind), part.number("score"), _effect(part))
