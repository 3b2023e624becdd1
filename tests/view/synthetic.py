"""Graphs made up for the views: one that looks like a real one, one that is out to do harm."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from visit_tl.flow import FlowGraph
from visit_tl.graph.ids import KINDS, NodeId
from visit_tl.graph.records import Edge, Gradient, Hidden, Hook, Node, Reversed, TokenProb

D_VOCAB = 1000
HEADS, VALUES, ROWS = 10, 2, 25
WORDS = (
    *(" the", " Mary", " John", "ing", " store", "s", " Tokyo", " capital"),
    *("ulumi", ",", "\n", " of", "日本", "µ", " שלום"),
)
PROMPT = ("<bos>", "When", " Mary", " and", " John", " gave", " a", " drink", " to")

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<b>",
    "</b>",
    '"',
    "'",
    "%{x}",
    "%{customdata[0]}",
    "\u202egnp",
    "\u200b",
    "\x00",
    "\n",
    "\r\n\t",
    "🙂",
    "\ufffd",
    "&lt;",
    "&amp;lt;",
    "&#60;script&#62;",
    "$\\frac{1}{2}$",
    '<a href="javascript:alert(1)">x</a>',
    "<br>",
    "@@DATA@@",
    "\ue000",
    "\ud800",
    "\u0301",
    "`${alert(1)}`",
    "<extra>x</extra>",
    "]]>",
    "<!--",
    "",
    "שלום",
    "\u2028",
)


def realistic(
    layers: tuple[int, ...] = (0, 1, 2),
    n_layers: int = 3,
    words: tuple[str, ...] = WORDS,
) -> FlowGraph:
    """Whole blocks of the usual budget, the same at each call."""
    maker = _Maker(random.Random(7), words)
    for layer in layers:
        maker.block(layer)
        if layer > layers[0]:
            maker.link(NodeId("resid_post", layer - 1), NodeId("resid_pre", layer), "flow", 30.0)
    if layers[-1] == n_layers - 1:
        maker.end(layers[-1])
    return maker.graph(layers, n_layers)


def hostile() -> FlowGraph:
    """Every token of it would run, hide, or break the page if it were not escaped."""
    return realistic((0, 1), 2, HOSTILE)


GRADIENTS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "head")


def with_gradients(graph: FlowGraph) -> FlowGraph:
    """The graph with gradients on states and heads and reversed attention on heads.

    The gradient of its first state is 0.
    """
    chance = random.Random(8)
    words = sorted({read.token for node in graph for read in node.top})
    first = graph.of_kind(*GRADIENTS)[0]

    def reads() -> tuple[TokenProb, ...]:
        return tuple(
            TokenProb(w, i, chance.random()) for i, w in enumerate(chance.sample(words, 3))
        )

    def gradient(node: Node) -> Gradient | None:
        if node.kind not in GRADIENTS:
            return None
        if node is first:
            return Gradient(0.0, None)
        return Gradient(chance.random(), chance.randrange(D_VOCAB), reads(), reads())

    def back(node: Node) -> Reversed | None:
        if node.kind != "head":
            return None
        row = tuple(chance.uniform(-1e-3, 1e-3) for _ in graph.tokens)
        return Reversed(chance.random(), row)

    nodes = tuple(replace(n, gradient=gradient(n), reversed=back(n)) for n in graph)
    return replace(graph, nodes=nodes)


class _Maker:
    def __init__(self, chance: random.Random, words: tuple[str, ...]) -> None:
        self.chance, self.words = chance, words
        self.tokens = PROMPT if words != HOSTILE else HOSTILE
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.next: Iterator[str] = iter(())

    def word(self) -> str:
        # In turn, so that every word is the label of some node.
        for word in self.next:
            return word
        self.next = iter(self.words)
        return next(self.next)

    def reads(self) -> tuple[TokenProb, ...]:
        chosen = [self.word(), *self.chance.sample(self.words, 2)]
        return tuple(TokenProb(w, i, 0.5**i / 4) for i, w in enumerate(chosen, 1))

    def add(self, node: NodeId, **facts: object) -> NodeId:
        draw = self.chance.random
        made = Node(
            id=node,
            top=self.reads(),
            bottom=self.reads(),
            entropy=6.9 * draw(),
            norm=30 * draw(),
            rank=min(D_VOCAB - 1, int(D_VOCAB ** draw()) - 1),
            prob=draw(),
            hook=Hook("blocks.0.hook_resid_pre", (0, 3)),
            **facts,  # type: ignore[arg-type]
        )
        self.nodes.append(made)
        return node

    def link(self, source: NodeId, target: NodeId, kind: str, score: float) -> None:
        self.edges.append(Edge(source, target, kind, score))  # type: ignore[arg-type]

    def block(self, layer: int) -> None:
        def state(kind: str) -> NodeId:
            return NodeId(kind, layer)  # type: ignore[arg-type]

        draw = self.chance.random
        for kind in ("resid_pre", "attn_in", "query"):
            self.add(state(kind))
        self.link(state("resid_pre"), state("attn_in"), "flow", 30.0)
        self.link(state("attn_in"), state("query"), "flow", 9.0)
        self.heads(layer, state)
        self.rows(layer, "attn_neuron", state("z"), state("attn_out"), state("b_O"))
        self.add(state("resid_mid"))
        self.link(state("resid_pre"), state("resid_mid"), "sum", 30.0)
        self.link(state("attn_out"), state("resid_mid"), "sum", 12 * draw())
        self.add(state("mlp_in"))
        self.link(state("resid_mid"), state("mlp_in"), "flow", 31.0)
        self.rows(layer, "neuron", state("mlp_in"), state("mlp_out"), state("b_out"))
        self.add(state("resid_post"))
        self.link(state("resid_mid"), state("resid_post"), "sum", 31.0)
        self.link(state("mlp_out"), state("resid_post"), "sum", 20 * draw())

    def heads(self, layer: int, state: Callable[[str], NodeId]) -> None:
        draw = self.chance.random
        pending = []
        for head in range(HEADS):
            query = self.add(NodeId("head_query", layer, head))
            self.link(state("query"), query, "flow", 5 * draw())
            spread = [draw() ** 6 for _ in self.tokens]
            attention = tuple(a / sum(spread) for a in spread)
            order = sorted(range(len(attention)), key=lambda i: -attention[i])[:VALUES]
            memories = []
            for j in order:
                facts = {"token": self.tokens[j], "coefficient": attention[j]}
                key = self.add(NodeId("key", layer, head, j), **facts)
                value = self.add(NodeId("value", layer, head, j), **facts)
                self.link(query, key, "coefficient", attention[j])
                self.link(key, value, "coefficient", attention[j])
                memories.append((value, attention[j]))
            out = self.add(NodeId("head", layer, head), attention=attention)
            for value, a in memories:
                self.link(value, out, "coefficient", a)
            pending.append(out)
        self.add(state("z"))
        for out in pending:
            self.link(out, state("z"), "sum", 8 * draw())

    def rows(self, layer: int, kind: str, source: NodeId, out: NodeId, bias: NodeId) -> None:
        rows = []
        for i in range(ROWS):
            coefficient = (4.0 if i < 18 else -3.0) * self.chance.random()
            if kind == "neuron":
                key = self.add(NodeId("neuron_key", layer, neuron=i), coefficient=coefficient)
                self.link(source, key, "coefficient", coefficient)
            row = self.add(NodeId(kind, layer, neuron=i), coefficient=coefficient)  # type: ignore[arg-type]
            self.link(key if kind == "neuron" else source, row, "coefficient", coefficient)
            rows.append((row, abs(coefficient)))
        rows.append((self.add(bias), 1.5))
        self.add(out)
        for row, score in rows:
            self.link(row, out, "sum", score)

    def end(self, last: int) -> None:
        ends = [NodeId("resid_post", last), NodeId("final_norm"), NodeId("logits")]
        for source, target in pairwise(ends):
            self.add(target)
            self.link(source, target, "flow", 40.0)

    def graph(self, layers: tuple[int, ...], n_layers: int) -> FlowGraph:
        def place(node: NodeId) -> tuple[int, ...]:
            indices = (node.head, node.key_position, node.neuron)
            layer = n_layers if node.layer is None else node.layer
            return (layer, KINDS.index(node.kind), *(-1 if i is None else i for i in indices))

        return FlowGraph(
            model="made-up",
            prompt="".join(self.tokens[1:]),
            tokens=self.tokens,
            token_ids=tuple(range(len(self.tokens))),
            prepend_bos=True,
            position=len(self.tokens) - 1,
            target=self.words[0],
            target_id=1,
            target_given=True,
            layers=layers,
            n_layers=n_layers,
            d_vocab=D_VOCAB,
            pruning={"heads": HEADS},
            hidden={
                layer: Hidden(heads=2, values=40, attn_neurons=7, neurons=9) for layer in layers
            },
            residual_error=dict.fromkeys(layers, 1e-6),
            nodes=tuple(sorted(self.nodes, key=lambda node: place(node.id))),
            edges=tuple(self.edges),
        )
