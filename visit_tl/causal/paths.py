"""Path patching: what one edge of the computational graph does to a metric (docs/maths.md).

An edge joins a part that writes to the residual stream (the input, a head, an MLP) with a part that
reads it (a head's queries, keys or values, an MLP, the logits). The reader alone sees the writer's
other value, and everything after the reader follows from that (Wang et al., 2022, with direct
edges, as in Conmy et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from visit_tl.causal.blocks import BlockRows
from visit_tl.causal.edge_effects import EdgeEffects
from visit_tl.causal.metrics import Metric, bind, evaluate, metric_name
from visit_tl.causal.replay import Replay
from visit_tl.causal.writes import Writes, WrittenRun
from visit_tl.circuits.edges import Shape, model_edges
from visit_tl.circuits.names import Edge, Part, parse_end
from visit_tl.errors import InputError, ModelError
from visit_tl.graph.conserve import relative, tolerance
from visit_tl.graph.flow import FlowGraph
from visit_tl.model.replay import Write
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView

How = Literal["resample", "mean", "zero"]
HOWS: Final[tuple[How, ...]] = get_args(How)

_SLOT: Final = {"q": "query", "k": "keys", "v": "values"}


def edge_effects(
    model: Any,
    prompt: str | Sequence[int] | Tensor | FlowGraph,
    metric: Metric,
    *,
    corrupted: str | Sequence[int] | Tensor | None = None,
    edges: FlowGraph | Iterable[Any] | None = None,
    senders: Iterable[Any] | None = None,
    receivers: Iterable[Any] | None = None,
    how: str = "resample",
    mean_over: Sequence[Any] | None = None,
    positions: Iterable[int] | None = None,
    prepend_bos: bool | None = None,
    verbose: bool = True,
) -> EdgeEffects:
    """Patch edges one at a time and measure what each does to a metric.

    The edge from `s` to `r` is cut by adding `w'_s - w_s` to the stream that `r` reads, before its
    norm, where `w_s` is what `s` writes in the clean run and `w'_s` what it writes in the corrupted
    one, in the mean, or nothing. `r`'s queries, keys, values or MLP output are computed from it by
    the model's own modules; whatever else reads `s` still sees `w_s`; and all that comes after `r`
    is computed anew. Heads that share keys and values are told apart: only `r` sees new ones.

    The effect is the metric with the edge cut, less the metric of the clean run.

    Args:
        model: As for `flow_graph`, or a ModelView.
        prompt: The clean prompt, as for `flow_graph`; or a graph, whose prompt is taken.
        metric: A callable on logits `[1, pos, d_vocab]` of one run that gives a scalar.
        corrupted: The other prompt, of the same number of tokens; needed to resample.
        edges: Which edges, in any spelling of `visit_tl.circuits.Edge`; or a graph, for the edges
            between the heads that it shows, all MLPs, the input and the logits. None is all.
        senders: Only edges from these parts.
        receivers: Only edges to these parts, or to these inputs of heads (`9.6<q>`).
        how: `resample` takes the corrupted run's value, `mean` that of `mean_over`, `zero` none.
        mean_over: Prompts of the same number of tokens, over which writes are averaged.
        positions: Where the writer's value is changed; None is everywhere.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Returns:
        The effects, in the order of the edges. Interrupted by Ctrl-C, those that are done.

    Raises:
        ModelError: the model cannot be taken apart exactly, or does not do with a part's new value
            what it did with the old.
        InputError: prompts of unequal length, an edge that the model does not have, a metric that
            is not scalar, or a `how` without what it needs.
        DecompositionError: the parts do not sum to the residual stream.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    if isinstance(prompt, FlowGraph):
        prompt, prepend_bos = list(prompt.token_ids), None
    clean = WrittenRun(view, view.tokens.encode(prompt, prepend_bos))
    read = [view.tokens.encode(p, prepend_bos) for p in (corrupted,) if p is not None]
    others = [view.tokens.encode(p, prepend_bos) for p in mean_over or ()]
    base, ran = other_writes(view, clean, how, read[0] if read else None, others)
    chosen = choose(shape_of(view), edges, senders, receivers)
    metric = bind(metric, view, clean.logits)
    at = _positions(view, positions, clean.kept.n_tokens)
    found: dict[Edge, float] = {}
    complete = True
    try:
        for edge, value in _measure(clean, base, chosen, metric, at, verbose):
            found[edge] = value
    except KeyboardInterrupt:
        complete = False
    done = tuple(edge for edge in chosen if edge in found)
    before = evaluate(metric, clean.logits)
    return EdgeEffects(
        model=view.name,
        token_ids=tuple(clean.kept.tokens[0].tolist()),
        edges=done,
        values=tuple(found[edge] - before for edge in done),
        metric=metric_name(metric),
        how=how,
        clean=before,
        corrupted=None if ran is None else evaluate(metric, ran.logits),
        positions=tuple(at) if positions is not None else None,
        complete=complete,
    )


def shape_of(view: ModelView) -> Shape:
    """The heads and MLPs of a model."""
    return Shape(view.n_layers, view.n_heads, mlps=not view.attn_only, parallel=_parallel(view))


def _parallel(view: ModelView) -> bool:
    return view.parallel and not view.attn_only


def other_writes(
    view: ModelView, clean: WrittenRun, how: str, corrupted: Prompt | None, others: Sequence[Prompt]
) -> tuple[Writes, WrittenRun | None]:
    """What parts write instead, and the corrupted run where there is one.

    Raises:
        InputError: what `how` needs is missing, or a prompt is of another length.
    """
    if how not in HOWS:
        raise InputError(f"how is {how!r}; it must be one of {', '.join(HOWS)}")
    n = clean.kept.n_tokens
    for name, prompts in (
        ("the corrupted prompt", (corrupted,)),
        ("a prompt of mean_over", others),
    ):
        for other in prompts:
            if other is not None and len(other.ids) != n:
                raise InputError(
                    f"{name} has {len(other.ids)} tokens, the clean one {n}; they must have the "
                    f"same number, so that every position has its counterpart"
                )
    if how == "resample" and corrupted is None:
        raise InputError("how='resample' needs corrupted=, a prompt of the same number of tokens")
    if how == "mean" and not others:
        raise InputError("how='mean' needs mean_over=, prompts of the same number of tokens")
    ran = None if corrupted is None else WrittenRun(view, corrupted)
    if how == "zero":
        return clean.writes.zero(), ran
    if how == "mean":
        return Writes.mean([WrittenRun(view, other).writes for other in others]), ran
    assert ran is not None
    return ran.writes, ran


def choose(
    shape: Shape,
    edges: FlowGraph | Iterable[Any] | None,
    senders: Iterable[Any] | None = None,
    receivers: Iterable[Any] | None = None,
) -> tuple[Edge, ...]:
    """The edges that are asked for, in the order of their readers.

    Raises:
        InputError: the model has no such edge, or none is left.
        GraphError: a spelling that is none.
    """
    there = model_edges(shape)
    if isinstance(edges, FlowGraph):
        shown = {Part("head", n.layer, n.id.head) for n in edges.of_kind("head")}
        keep = {p for e in there for p in (e.source, e.target) if p.kind != "head"} | shown
        chosen = [e for e in there if e.source in keep and e.target in keep]
    elif edges is None:
        chosen = list(there)
    else:
        chosen = list(dict.fromkeys(Edge.parse(edge) for edge in edges))
        known = set(there)
        if unknown := [edge for edge in chosen if edge not in known]:
            raise InputError(
                f"{unknown[0]} is no edge between parts of a model of {shape}"
                f"{' whose attention and MLPs are parallel' if shape.parallel else ''}"
                f"{'' if shape.mlps else ' without MLPs'}"
                f"{'; edges inside a head are not patched' if unknown[0].internal else ''}"
            )
    if senders is not None:
        from_these = {Part.parse(part) for part in senders}
        chosen = [edge for edge in chosen if edge.source in from_these]
    if receivers is not None:
        ends = {parse_end(part) for part in receivers}
        chosen = [e for e in chosen if (e.target, e.input) in ends or (e.target, None) in ends]
    if not chosen:
        raise InputError("no edge is left to measure: senders and receivers share none")
    return tuple(sorted(chosen, key=lambda e: (e.target.order, e.source.order, e.input or "")))


def _positions(view: ModelView, positions: Iterable[int] | None, n: int) -> list[int]:
    if positions is None:
        return list(range(n))
    found = sorted({view.check_position(position, n) for position in positions})
    if not found:
        raise InputError("positions is empty; None is all of them")
    return found


# --- measuring -----------------------------------------------------------------------------------


def _measure(
    clean: WrittenRun,
    base: Writes,
    edges: Sequence[Edge],
    metric: Metric,
    positions: list[int],
    verbose: bool,
) -> Iterator[tuple[Edge, float]]:
    """The metric with each edge cut; edges in the order of their readers."""
    from tqdm.auto import tqdm

    where = torch.zeros(clean.kept.n_tokens, 1)
    where[positions] = 1.0
    replay = Replay(clean.kept)
    by_reader: dict[tuple[str, int | None], list[Edge]] = {}
    for edge in edges:
        by_reader.setdefault((edge.target.kind, edge.target.layer), []).append(edge)
    with tqdm(total=len(edges), desc="edges", disable=not verbose) as bar:
        for (kind, layer), group in by_reader.items():
            senders = list(dict.fromkeys(edge.source for edge in group))
            writes = clean.writes.parts
            delta = torch.stack([base.parts[s] - writes[s] for s in senders]) * where.to(
                clean.logits.device
            )
            row = {sender: i for i, sender in enumerate(senders)}
            if kind == "logits":
                results = _into_logits(clean, delta, [row[e.source] for e in group])
            else:
                assert layer is not None
                results = _into_block(clean, replay, layer, kind, delta, group, row)
            for i, logits in results:
                bar.update()
                yield group[i], evaluate(metric, logits)


def _into_logits(
    clean: WrittenRun, delta: Tensor, rows: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """The logits where the final norm alone sees each sender's other value."""
    last = clean.at(clean.view.n_layers - 1, "resid_post")
    with torch.no_grad():
        own = clean.kept.head(last[None].to(clean.view.W_U.dtype))
        if not relative(own, clean.logits) <= tolerance(clean.view):
            raise ModelError(
                f"the final norm and unembedding of {clean.view.name}, called by themselves, do "
                f"not give its logits; edges to the logits cannot be patched"
            )
        for i, row in enumerate(rows):
            yield i, clean.kept.head((last + delta[row])[None].to(clean.view.W_U.dtype))


def _into_block(
    clean: WrittenRun,
    replay: Replay,
    layer: int,
    kind: str,
    delta: Tensor,
    edges: Sequence[Edge],
    row: dict[Part, int],
) -> Iterator[tuple[int, Tensor]]:
    """The logits where a head's q, k or v, or the MLP, alone sees each sender's other value."""
    block = BlockRows(clean, layer)
    read = ("mlp_out",) if kind == "mlp" else (*_SLOT.values(), "z", "attn_out")
    entry = "resid_mid" if kind == "mlp" and "resid_mid" in block.hooks else "resid_pre"
    own = clean.at(layer, entry)
    changed = block({entry: torch.cat([own[None], own + delta])}, read)
    check_put(block, changed, int(delta.flatten(1).norm(dim=1).argmax()) + 1)
    runs: list[list[Write]] = []
    if kind == "mlp":
        out = changed["mlp_out"]
        hook = block.hooks["mlp_out"]
        for edge in edges:
            runs.append(_writes(hook, (), out[0], out[row[edge.source] + 1]))
    else:
        z = {read: _attend(block, changed, _SLOT[read]) for read in {e.input or "" for e in edges}}
        hook = block.hooks["z"]
        for edge in edges:
            assert edge.target.head is not None
            mixed, head = z[edge.input or ""][:, :, edge.target.head], (edge.target.head,)
            runs.append(_writes(hook, head, mixed[0], mixed[row[edge.source] + 1]))
    # What changes nothing need not run: most corrupted tokens leave most positions as they were.
    yield from ((i, clean.logits) for i, writes in enumerate(runs) if not writes)
    moved = [i for i, writes in enumerate(runs) if writes]
    for j, logits in replay.run([runs[i] for i in moved]):
        yield moved[j], logits


def _attend(block: BlockRows, changed: dict[str, Tensor], slot: str) -> Tensor:
    """What heads mix with the queries, keys or values of each row, the other two of the first.

    Every head is read beside the others' changed ones, since a norm may span all heads; which of
    them goes on is chosen later, and then alone.
    """
    put = {name: changed[name][:1].expand_as(changed[name]) for name in _SLOT.values()}
    return block(put | {slot: changed[slot]}, ["z"])["z"]


def _writes(hook: str, head: tuple[int, ...], before: Tensor, after: Tensor) -> list[Write]:
    """The changes, at the positions that differ, of what a reader gives."""
    moved = (after != before).any(-1).nonzero().flatten().tolist()
    return [Write(hook, (p, *head), after[p]) for p in moved]


def check_put(block: BlockRows, changed: dict[str, Tensor], row: int) -> None:
    """What a changed stream gave must come of putting in what lies between; else hooks mislead.

    Args:
        block: The block.
        changed: What its hooks held for several streams.
        row: The stream that is tried.

    Raises:
        ModelError: it does not.
    """
    run, layer = block.run, block.layer
    steps = []
    if "mlp_out" in changed:
        new = changed["mlp_out"][row]
        base = run.at(layer, "resid_post") - run.at(layer, "mlp_out")
        steps.append(({"mlp_out": new[None]}, "resid_post", base + new))
    if "z" in changed:
        three = {slot: changed[slot][row][None] for slot in _SLOT.values()}
        z = changed["z"][row]
        steps += [(three, "z", z), ({"z": z[None]}, "attn_out", changed["attn_out"][row])]
    for put, got, expected in steps:
        error = relative(block(put, [got])[got][0], expected)
        if not error <= tolerance(run.view):
            names = ", ".join(block.hooks[slot] for slot in put)
            raise ModelError(
                f"new values at {names} of {run.view.name} do not give at {block.hooks[got]} "
                f"what they give when the model computes them itself (off by {error:.2g}); edges "
                f"into this block cannot be patched"
            )
