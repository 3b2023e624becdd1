"""What one asks about a run: why a head looked, what lowers the loss, where it came from.

Each answer is a few sentences and a table, with the Python that gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from visit_tl.causal.qk.score_parts import attention_attribution
from visit_tl.circuits.compare_scores import compare
from visit_tl.circuits.known_circuits import load
from visit_tl.errors import InputError
from visit_tl.escaping import visible
from visit_tl.explorer.jobs import Event
from visit_tl.explorer.requests import Question
from visit_tl.explorer.stages import Run
from visit_tl.flow import FlowGraph
from visit_tl.gradients.attention_gradients import reversed_attention
from visit_tl.gradients.lens_of_gradients import backward_lens
from visit_tl.graph.circuit_parts import Part
from visit_tl.graph.descriptions import number
from visit_tl.graph.ids import NodeId
from visit_tl.graph.records import Edge
from visit_tl.graph.routes import shares, strongest
from visit_tl.model.view import ModelView

_ROWS: Final = 12
_LAST: Final = 4
"""Blocks whose gradients are read as words; the last ones."""


def answer(view: ModelView, question: Question, graph: FlowGraph | None) -> Iterator[Event]:
    """Answer a question about the run without its changes.

    Args:
        view: The model.
        question: The question.
        graph: The graph of the run, if it is kept.

    Yields:
        One event, `answer`: title, sentences, table (columns and rows), code.

    Raises:
        InputError: the question does not fit the run.
    """
    run = Run.of(view, question.run.model_copy(update={"changes": []}))
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "why": lambda: _why(run, question),
        "lower": lambda: _lower(run, question),
        "origin": lambda: _origin(run, question),
        "circuit": lambda: _circuit(question, run.graph() if graph is None else graph),
    }
    yield _answered(question, answers[question.what]())


def of_file(question: Question, graph: FlowGraph) -> Iterator[Event]:
    """Answer a question about a graph from a file; nothing is run, its model may be another one.

    Raises:
        InputError: the question needs a run.
    """
    if question.what != "circuit":
        raise InputError("the picture is a graph from a file; run its prompt to ask this")
    yield _answered(question, _circuit(question, graph))


def _answered(question: Question, found: dict[str, Any]) -> Event:
    return {"stage": "answer", "what": question.what, "node": question.node, **found}


def _node(text: str) -> NodeId:
    if not text:
        raise InputError("choose a node in the picture first")
    return NodeId.parse(text)


def _head(question: Question) -> NodeId:
    node = _node(question.node)
    if node.head is None or node.layer is None:
        raise InputError(f"{node} is no head; choose a head, or one of its memories")
    return NodeId("head", node.layer, node.head)


def _token(run: Run, position: int) -> str:
    return f"{visible(run.view.tokens.text(run.prompt.ids[position]))}@{position}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [[str(cell) for cell in row] for row in rows]}


def _why(run: Run, question: Question) -> dict[str, Any]:
    head = _head(question)
    query = run.position if question.query is None else question.query
    found = attention_attribution(
        run.view.model,
        list(run.prompt.ids),
        str(head),
        query,
        question.key,
        top=_ROWS,
        segments=run.prompt.segments,
    )
    rows = [(pair.query, pair.key, number(pair.value)) for pair in found.parts]
    said = [
        f"{head} gives {_token(run, question.key)} the attention {number(found.attention)} from "
        f"{_token(run, query)}: its score {number(found.score)} is a sum over pairs of what was "
        f"written at the two.",
    ]
    code = f'g.why("{head}", key={question.key}, query={query}, top={_ROWS})'
    return {
        "title": f"Why did {head} look at {_token(run, question.key)}?",
        "said": said,
        "table": _table(("wrote at the query", "wrote at the key", "adds"), rows),
        "code": code,
    }


def _lower(run: Run, question: Question) -> dict[str, Any]:
    ids, layers = list(run.prompt.ids), run.layers[-_LAST:]
    options: dict[str, Any] = {"position": run.position, "segments": run.prompt.segments}
    found = reversed_attention(run.view.model, ids, run.target, **options)
    rows: list[tuple[str, str, str, str]] = []
    for layer, head in found.strongest(_ROWS):
        row = found.map(layer, head)[run.position]
        more, less = int(row.argmin()), int(row.argmax())
        name = str(NodeId("head", layer, head))
        norm = found.norms[found.layers.index(layer), head]
        rows.append((name, number(float(norm)), _token(run, more), _token(run, less)))
    lens = backward_lens(run.view.model, ids, run.target, layers=list(layers), **options)
    place = lens.positions.index(run.position)
    said = [f"The loss is {number(found.loss)} nats: -log p({visible(found.target)})."]
    for name in lens.matrices:
        if name == "W_out":
            for i, layer in enumerate(lens.layers):
                words = " ".join(visible(t) for t in lens.bottom[name][i][place][:5])
                said.append(
                    f"A step down the gradient would make the MLP of block {layer} say: {words}"
                )
    return {
        "title": f"What would lower the loss of {visible(found.target)}?",
        "said": said,
        "table": _table(
            ("head", "norm of its reversed attention", "should look more at", "less at"), rows
        ),
        "code": "vt.reversed_attention(model, prompt, target)\n"
        "vt.backward_lens(model, prompt, target)",
    }


def _origin(run: Run, question: Question) -> dict[str, Any]:
    node = _node(question.node or "logits")
    followed = Run(**{**vars(run), "expand": max(run.expand, 2)})
    graph = followed.graph()
    if node not in graph:
        raise InputError(f"{node} is not in the graph that follows memories back; choose another")
    share = shares(graph)
    ways: list[tuple[float, NodeId, tuple[Edge, ...]]] = []
    for start in (n.id for n in graph.of_kind("resid_pre") if n.layer == graph.layers[0]):
        way = strongest(graph, start, node)
        if way or start == node:
            weight = sum(math.log(share[e]) if share[e] > 0 else -math.inf for e in way)
            ways.append((weight, start, way))
    ways.sort(key=lambda one: -one[0])
    rows = []
    for weight, start, way in ways[:_ROWS]:
        through = [str(e.source) for e in way if e.source.kind in ("head", "mlp_out")]
        at = graph.position if start.position is None else start.position
        rows.append((_token(run, at), f"{weight:.1f}", " → ".join([*through, str(node)])))
    return {
        "title": f"Where did {node} come from?",
        "said": ["The strongest way from each token: the product of the shares of its edges, as a "
                 "logarithm. Memories are followed back two steps."],
        "table": _table(("from", "log strength", "through"), rows),
        "code": f'g = vt.flow_graph(model, prompt, expand=2)\ng.route("L0.resid_pre@0", "{node}")',
    }  # fmt: skip


def _circuit(question: Question, graph: FlowGraph) -> dict[str, Any]:
    reference = load(question.reference)
    found = compare(graph, reference)
    rows = [(one.label, f"{one.hits:g}", one.members, number(one.recall)) for one in found.recalls]
    said = [
        f"Of the {found.at_k.selected} strongest heads by {found.what}, "
        f"{number(found.at_k.precision)} are in {reference.name}; "
        + ("" if found.auroc is None else f"AUROC {number(found.auroc)}."),
    ]
    if question.node:
        node = _node(question.node)
        if node.head is not None and node.layer is not None:
            label = reference.class_of.get(Part("head", node.layer, node.head), "")
            said.append(f"L{node.layer}H{node.head}: {label or 'not in it'}")
    return {
        "title": f"Is it {reference.name}?",
        "said": said,
        "table": _table(("class", "found", "members", "recall"), rows),
        "code": f'vt.circuits.compare(g, "{reference.name}")',
    }
