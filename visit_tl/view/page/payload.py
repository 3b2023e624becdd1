"""A graph as the page's data: columns of numbers, one table of texts, coordinates at each depth.

Rows of objects would take three times the space. Numbers are rounded to three digits, as the page
shows them. Tokens are made visible by `escaping.visible` and are never markup. A value that is not
a finite number is null.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

from visit_tl.escaping import visible
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import (
    COEFFICIENT_WORDS,
    KIND_WORDS,
    SCORE_WORDS,
    feature_set_words,
    readable,
)
from visit_tl.graph.ids import FEATURE_KINDS, KINDS, Kind, NodeId
from visit_tl.graph.node_descriptions import reading_words
from visit_tl.graph.records import EDGE_KINDS, Effect, Node, TokenProb, TokenProbs
from visit_tl.graph.subgraphs import to_position
from visit_tl.view.layout import layout
from visit_tl.view.page.block_depths import block_widths, blocks
from visit_tl.view.page.rounding import short, shorts
from visit_tl.view.page.route_layout import Route, route
from visit_tl.view.widths import strengths

_LINKS: Final = ("stream", "read", "write")
_ROLES: Final = ("state", "head", "memory")


class _Texts:
    """A table that holds every text once and numbers them in the order of first use."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self._tokens: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.index.setdefault(text, len(self.index))

    def token(self, token: str) -> int:
        """The number of a token, in the form in which it is shown."""
        found = self._tokens.get(token)
        if found is None:
            found = self._tokens[token] = self(visible(token))
        return found


def payload(graph: GraphData) -> dict[str, Any]:
    """The graph as plain JSON types for the page's script; see `assets/data.js` for the reader."""
    texts = _Texts()
    order = {node.id: i for i, node in enumerate(graph.nodes)}
    nodes = _nodes(graph.nodes, texts) | _reasons(graph, order, texts) | _features(graph, texts)
    nodes |= _readings(graph, texts)
    kinds: list[Kind] = [k for k in KINDS if graph.feature_sets or k not in FEATURE_KINDS]
    at = [graph.position, *(column.position for column in graph.columns if column.layers)]
    parts = [_Part(graph, position, order) for position in at]
    drawn = {
        "route": _route(route(graph), order),
        "blocks": _flow(parts, only_blocks=True),
        "everything": _flow(parts, only_blocks=False),
    }
    return {
        "graph": {
            "position": graph.position,
            "target": visible(graph.target),
            "vocabulary": graph.d_vocab,
            "blocks": graph.n_layers,
            "layers": [graph.layers[0], graph.layers[-1]],
            "tokens": [visible(token) for token in graph.tokens],
            **({"segments": [list(span) for span in graph.segments]} if graph.segments else {}),
        },
        "words": {
            "kinds": kinds,
            "titles": [KIND_WORDS[kind] for kind in kinds],
            "edges": list(EDGE_KINDS),
            "scores": [SCORE_WORDS[kind] for kind in EDGE_KINDS],
            "coefficients": {k: w for k, w in COEFFICIENT_WORDS.items() if k in kinds},
        },
        "nodes": nodes,
        "edges": {
            "source": list(graph.ends[0]),
            "target": list(graph.ends[1]),
            "kind": [EDGE_KINDS.index(edge.kind) for edge in graph.edges],
            "score": shorts([edge.score for edge in graph.edges]),
            "effect": _effects(edge.effect for edge in graph.edges),
        },
        "depths": drawn,
        # Last, because now the table of texts is complete.
        "texts": list(texts.index),
    }


def to_json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def _nodes(nodes: Sequence[Node], texts: _Texts) -> dict[str, Any]:
    hooks = _Texts()
    names = [-1 if node.hook is None else hooks(node.hook.name) for node in nodes]
    return {
        "kind": [KINDS.index(node.kind) for node in nodes],
        **{
            short: [_index(getattr(node.id, name)) for node in nodes]
            for short, name in (
                ("layer", "layer"),
                ("head", "head"),
                ("key", "key_position"),
                ("neuron", "neuron"),
                ("at", "position"),
            )
        },
        "top": _reads([node.top for node in nodes], texts, 3),
        "bottom": _reads([node.bottom for node in nodes], texts, 2),
        "rank": [node.rank for node in nodes],
        **{
            name: shorts([getattr(node, name) for node in nodes])
            for name in ("entropy", "norm", "prob", "coefficient")
        },
        "attribution": {
            i: short(node.attribution)
            for i, node in enumerate(nodes)
            if node.attribution is not None
        },
        "token": [-1 if node.token is None else texts.token(node.token) for node in nodes],
        "attention": {
            i: shorts(node.attention, 2)
            for i, node in enumerate(nodes)
            if node.attention is not None
        },
        "effect": _effects(node.effect for node in nodes),
        **_gradients(nodes, texts),
        **_roles(nodes),
        **_experts(nodes, texts),
        "hook": names,
        "index": [[] if node.hook is None else list(node.hook.index) for node in nodes],
        "hooks": list(hooks.index),
    }


def _gradients(nodes: Sequence[Node], texts: _Texts) -> dict[str, Any]:
    """Gradients and reversed attention by node; a graph without any has neither key.

    A gradient is its norm, the target's rank in it (-1 if it is 0), its top and bottom tokens.
    """
    found = {i: node.gradient for i, node in enumerate(nodes) if node.gradient is not None}
    turned = {i: node.reversed for i, node in enumerate(nodes) if node.reversed is not None}
    if not found and not turned:
        return {}
    top = _reads([gradient.top for gradient in found.values()], texts, 3)
    bottom = _reads([gradient.bottom for gradient in found.values()], texts, 2)
    return {
        "gradient": {
            i: [short(gradient.norm), _index(gradient.rank), top[k], bottom[k]]
            for k, (i, gradient) in enumerate(found.items())
        },
        "reversed": {i: [short(r.norm), shorts(r.row, 2)] for i, r in turned.items()},
    }


def _reasons(graph: GraphData, order: Mapping[NodeId, int], texts: _Texts) -> dict[str, Any]:
    """Why heads looked, by node, the most attended key first; no key in a graph without any.

    A reason is its key, score, capped score or null, attention, the sum of the pairs that are not
    shown, and a flat list of part at the query, part at the key, value, ...
    """
    found: dict[int, list[Any]] = {}
    for reason in sorted(graph.reasons, key=lambda reason: -reason.attention):
        at = order.get(reason.head.at(None if reason.query == graph.position else reason.query))
        if at is None:
            continue
        pairs = [x for p in reason.pairs for x in (texts(p.query), texts(p.key), short(p.value))]
        capped = None if reason.capped is None else short(reason.capped)
        numbers = [short(reason.score), capped, short(reason.attention), short(reason.others)]
        found.setdefault(at, []).append([reason.key, *numbers, pairs])
    return {"reasons": found} if found else {}


def _features(graph: GraphData, texts: _Texts) -> dict[str, Any]:
    """Features, errors and biases of SAEs by node; a graph without any has no key.

    Each is its site, its part of the id, its explanation in the texts (-1 for none), and the words
    about its SAE: for an error, how large it is.
    """
    sets = {(one.layer, one.site): one for one in graph.feature_sets}
    found: dict[int, list[Any]] = {}
    for i, node in enumerate(graph.nodes):
        own = sets.get((node.layer, node.id.site)) if node.id.site is not None else None  # type: ignore[arg-type]
        if own is not None:
            said = -1 if node.explanation is None else texts(readable(node.explanation))
            part = str(node.id.at(None)).rpartition(".")[2]
            found[i] = [own.site, part, said, feature_set_words(own).partition(": ")[2]]
    return {"features": found} if found else {}


def _readings(graph: GraphData, texts: _Texts) -> dict[str, Any]:
    """What read each node, in the texts; a graph that the logit lens read has no key."""
    lens = graph.lens
    if lens is None:
        return {}
    return {"lens": [texts(reading_words(node, graph, lens)) for node in graph.nodes]}


def roles_of(nodes: Iterable[Node]) -> list[str]:
    """The roles of some nodes, each once, in the order of the graph."""
    return list(dict.fromkeys(role for node in nodes for role in node.roles))


def _roles(nodes: Sequence[Node]) -> dict[str, Any]:
    """Roles by node, as places in `roleNames`; a graph without any has neither key."""
    names = roles_of(nodes)
    if not names:
        return {}
    found = {i: [names.index(r) for r in node.roles] for i, node in enumerate(nodes) if node.roles}
    return {"roles": found, "roleNames": [visible(name) for name in names]}


def _experts(nodes: Sequence[Node], texts: _Texts) -> dict[str, Any]:
    """Experts by node, and what was not opened; a graph without any has neither key."""
    experts = {i: node.id.expert for i, node in enumerate(nodes) if node.id.expert is not None}
    closed = {
        i: texts(readable(node.unopened))
        for i, node in enumerate(nodes)
        if node.unopened is not None
    }
    return {name: of for name, of in (("expert", experts), ("unopened", closed)) if of}


class _Part:
    """The blocks of a graph at one position, and the index of each of their nodes in the graph."""

    def __init__(self, graph: GraphData, position: int, order: Mapping[NodeId, int]) -> None:
        self.position, self.graph, self._order = position, to_position(graph, position), order
        self._back = None if position == graph.position else position

    def number(self, name: NodeId) -> int:
        """The index of a node of this part in the whole graph."""
        elsewhere = self._back is not None and name.layer is not None
        return self._order[name.at(self._back) if elsewhere else name]


def _flow(parts: Iterable[_Part], *, only_blocks: bool) -> dict[str, Any]:
    """Coordinates of one depth, position by position, each with its own origin."""
    drawn: dict[str, Any] = defaultdict(list)
    edges: dict[str, list[Any]] = defaultdict(list)
    for one in parts:
        part = blocks(one.graph) if only_blocks else one.graph
        place = layout(part, block_widths(part) if only_blocks else None)
        strong = strengths(part)
        numbers = [one.number(node.id) for node in part.nodes]
        worth = _strengths(part, strong)
        boxes = place.boxes.values()
        drawn["node"] += [numbers[i] for i in place.placed]
        drawn["x"] += [_tenth(box.left) for box in boxes]
        drawn["y"] += [_tenth(box.top) for box in boxes]
        drawn["height"] += [_tenth(box.height) for box in boxes]
        drawn["strength"] += shorts([worth[i] for i in place.placed], 2)
        edges["source"] += [numbers[i] for i in part.ends[0]]
        edges["target"] += [numbers[i] for i in part.ends[1]]
        edges["kind"] += [EDGE_KINDS.index(edge.kind) for edge in part.edges]
        edges["score"] += shorts([edge.score for edge in part.edges])
        edges["width"] += [_tenth(width) for width in place.edge_widths]
        edges["strength"] += shorts(strong, 2)
        drawn["pictures"].append(
            {
                "position": one.position,
                "width": place.width,
                "height": place.height,
                "layers": [part.layers[0], part.layers[-1]],
                "columns": [[_tenth(c.left), c.words, _index(c.layer)] for c in place.columns],
            }
        )
    return {**drawn, "edges": dict(edges)}


def _strengths(graph: GraphData, of_edges: Sequence[float]) -> list[float]:
    """The priority of every node when not all can be shown; 1 for those that every block has.

    A key and its value have the same priority, and so have a neuron's column and row, so that both
    are kept or both are hidden.
    """
    kinds = [node.kind for node in graph.nodes]
    found: dict[tuple[Any, ...], float] = {}
    pairs = [_pair(node.id) for node in graph.nodes]
    best = [0.0] * len(pairs)
    for edge, source, target, strength in zip(graph.edges, *graph.ends, of_edges, strict=True):
        # The score of an edge into a head's query is the norm of its source: equal for all heads.
        if edge.kind != "flow" and not {kinds[source], kinds[target]} <= {"head_query", "key"}:
            if strength > best[source]:
                best[source] = strength
            if strength > best[target]:
                best[target] = strength
    for pair, strength in zip(pairs, best, strict=True):
        found[pair] = max(found.get(pair, 0.0), strength)
    return [
        1.0 if _fixed(node.id) else found[pair]
        for node, pair in zip(graph.nodes, pairs, strict=True)
    ]


def _fixed(name: NodeId) -> bool:
    if name.expert is not None or name.kind == "feature_bias":
        return False
    return name.head is None and name.neuron is None


def _pair(name: NodeId) -> tuple[Any, ...]:
    kind = {"key": "value", "neuron_key": "neuron", "head_query": "head"}.get(name.kind, name.kind)
    return (
        kind,
        *(getattr(name, i) for i in ("layer", "head", "key_position", "neuron")),
        name.expert,
        name.site,
    )


def _route(made: Route, order: Mapping[NodeId, int]) -> dict[str, Any]:
    return {
        "node": [order[stop.id] for stop in made.stops],
        "x": [_tenth(stop.x) for stop in made.stops],
        "y": [_tenth(stop.y) for stop in made.stops],
        "role": [_ROLES.index(stop.role) for stop in made.stops],
        "strength": shorts([stop.strength for stop in made.stops], 2),
        "rows": [[position, _tenth(y)] for position, y in made.rows],
        "columns": [[_index(layer), _tenth(x)] for layer, x in made.columns],
        "width": made.width,
        "height": made.height,
        "edges": {
            "source": [order[link.source] for link in made.links],
            "target": [order[link.target] for link in made.links],
            "kind": [_LINKS.index(link.kind) for link in made.links],
            "score": shorts([link.score for link in made.links]),
            "via": [-1 if link.via is None else order[link.via] for link in made.links],
        },
    }


def _reads(all_reads: list[Sequence[TokenProb]], texts: _Texts, digits: int) -> list[list[Any]]:
    """For each readout, a flat list of text, probability, text, probability, ..."""
    told: list[int] = []
    probs: list[float] = []
    sizes = []
    for reads in all_reads:
        if isinstance(reads, TokenProbs):
            tokens, chances = reads.unpacked()
        else:
            tokens, chances = [r.token for r in reads], [r.prob for r in reads]
        told += map(texts.token, tokens)
        probs += chances
        sizes.append(len(reads))
    in_turn: list[Any] = [None] * (2 * len(told))
    in_turn[::2], in_turn[1::2] = told, shorts(probs, digits)
    ends = list(accumulate(sizes, initial=0))
    return [in_turn[2 * start : 2 * end] for start, end in pairwise(ends)]


def _effects(effects: Iterable[Effect | None]) -> dict[int, list[Any]]:
    """The effects that are known, by index: the value, and 1 if it is exact."""
    return {
        i: [short(effect.value), int(effect.exact)]
        for i, effect in enumerate(effects)
        if effect is not None
    }


def _index(value: int | None) -> int:
    return -1 if value is None else value


def _tenth(value: float) -> float | int:
    rounded = round(value, 1)
    return int(rounded) if rounded.is_integer() else rounded
