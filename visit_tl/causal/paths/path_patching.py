"""Path patching: what one edge of the computational graph does to a metric (docs/maths.md).

An edge joins a part that writes to the residual stream (the input, a head, an MLP) with a part that
reads it (a head's queries, keys or values, an MLP, the logits). Only this reader sees the writer's
replaced value; everything after the reader is recomputed from it (Wang et al., 2022, with direct
edges, as in Conmy et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none
from visit_tl.arguments.shared import Unpack
from visit_tl.arguments.vocabulary import (
    MetricFunction,
    Model,
    Parts,
    Positions,
    PromptLike,
)
from visit_tl.causal.metrics import Metric, bind, evaluate, metric_name
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.causal.patching.block_replay import BlockRows
from visit_tl.causal.patching_options import PATCHING_OPTIONS, PatchingOptions
from visit_tl.causal.paths.chosen_edges import choose, other_writes, positions_of, shape_of
from visit_tl.causal.paths.edge_effects_result import EdgeEffects
from visit_tl.causal.residual_writes import Writes, WrittenRun
from visit_tl.errors import ModelError
from visit_tl.graph.circuit_parts import Edge, Part
from visit_tl.graph.container import Edges, Graph, GraphData
from visit_tl.model.replay.kept_run import Write
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

SLOT: Final = {"q": "query", "k": "keys", "v": "values"}


@checked
def edge_effects(
    model: Model,
    prompt: PromptLike | Graph,
    metric: MetricFunction,
    *,
    edges: Edges | None = None,
    senders: Parts | None = None,
    receivers: Parts | None = None,
    positions: Positions | None = None,
    **options: Unpack[PatchingOptions],
) -> EdgeEffects:
    """Patch edges one at a time and measure what each does to a metric.

    The edge from `s` to `r` is cut by adding `w'_s - w_s` to the stream that `r` reads, before its
    norm, where `w_s` is what `s` writes in the clean run and `w'_s` what it writes in the corrupted
    one, in the mean, or zeros. The model's own modules then compute `r`'s queries, keys, values or
    MLP output. All other readers of `s` still see `w_s`; everything after `r` is recomputed. Where
    heads share keys and values, only `r` sees the new ones.

    The effect is the metric with the edge cut, minus the metric of the clean run.

    Args:
        model: As for `flow_graph`, or a ModelView.
        prompt: The clean prompt, as for `flow_graph`; or a graph, whose prompt is used.
        metric: A callable on logits `[1, pos, d_vocab]` of one run that gives a scalar.
        edges: Which edges, in any spelling of `visit_tl.circuits.Edge`; or a graph, which
            stands for the edges between its heads, all MLPs, the input and the logits. None is all.
        senders: Only edges from these parts.
        receivers: Only edges to these parts, or to these inputs of heads (`9.6<q>`).
        positions: Where the writer's value is changed, one or several; None or `all` is every one.
        options: `corrupted`, `how`, `mean_over`, `prepend_bos` and `verbose`; see
            `visit_tl.causal.patching_options.PatchingOptions`.
            A reader sees what replaces the writer's value.

    Returns:
        The effects, in the order in which the edges were given, or else by reader. Ctrl-C ends the
        sweep and returns what is done, with `complete=False`.

    Raises:
        ModelError: the model cannot be taken apart exactly, or new values at its hooks do not have
            the effect that they have when the model computes them.
        InputError: prompts of unequal length, an edge that the model does not have, a metric that
            is not scalar, or a `how` without what it needs.
        DecompositionError: the parts do not sum to the residual stream.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    given = {**PATCHING_OPTIONS, **options}
    how, prepend_bos = given["how"], given["prepend_bos"]
    segments = given["segments"]
    if isinstance(prompt, GraphData):
        segments = prompt.segments or None if segments is None else segments
        prompt, prepend_bos = list(prompt.token_ids), None
    first = view.encode(prompt, prepend_bos, segments)
    clean = WrittenRun(view, first)
    corrupted = given["corrupted"]
    other = None if corrupted is None else view.encode_beside(first, corrupted, prepend_bos)
    others = [view.encode_beside(first, p, prepend_bos) for p in given["mean_over"] or ()]
    base, ran = other_writes(view, clean, how, other, others)
    chosen = choose(shape_of(view), edges, senders, receivers)
    metric = bind(metric, view, clean.logits)
    at = positions_of(view, positions, clean.kept.n_tokens)
    found: dict[Edge, float] = {}
    complete = True
    try:
        for edge, value in _measure(clean, base, chosen, metric, at, given["verbose"]):
            found[edge] = value
    except KeyboardInterrupt:
        complete = False
    done = tuple(edge for edge in chosen if edge in found)
    before = evaluate(metric, clean.logits)
    return EdgeEffects(
        model=view.name,
        token_ids=tuple(clean.kept.tokens[0].tolist()),
        segments=first.spans,
        edges=done,
        values=tuple(found[edge] - before for edge in done),
        metric=metric_name(metric),
        how=how,
        clean=before,
        corrupted=None if ran is None else evaluate(metric, ran.logits),
        positions=None if integers_or_none(positions) is None else tuple(at),
        complete=complete,
    )


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
    """The logits where only the final norm sees each sender's replaced value."""
    last = clean.at(clean.view.n_layers - 1, "resid_post")
    with torch.no_grad():
        own = clean.kept.head(last[None].to(clean.view.W_U.dtype))
        if not relative(own, clean.logits) <= tolerance(clean.view):
            raise ModelError(
                f"the final norm and unembedding of {clean.view.name}, called by themselves, do "
                f"not give its logits; edges to the logits cannot be patched"
                f"{left_on(clean.view.model)}"
            )
        whole = clean.logits.clone()
        for i, row in enumerate(rows):
            at = delta[row].any(-1)  # norm and unembedding act on each position alone
            if not at.any():
                yield i, clean.logits
                continue
            seen = (last + delta[row])[at]
            whole[0, at] = clean.kept.head(seen[None].to(clean.view.W_U.dtype))[0].to(whole.dtype)
            yield i, whole
            whole[0, at] = clean.logits[0, at]


def _into_block(
    clean: WrittenRun,
    replay: Replay,
    layer: int,
    kind: str,
    delta: Tensor,
    edges: Sequence[Edge],
    row: dict[Part, int],
) -> Iterator[tuple[int, Tensor]]:
    """The logits where only a head's q, k or v, or the MLP, sees each sender's replaced value."""
    block = BlockRows(clean, layer)
    read = ("mlp_out",) if kind == "mlp" else (*SLOT.values(), "z", "attn_out")
    entry = "resid_mid" if kind == "mlp" and "resid_mid" in block.hooks else "resid_pre"
    own = clean.at(layer, entry)
    changed = block({entry: torch.cat([own[None], own + delta])}, read)
    check_put(block, changed, int(delta.flatten(1).norm(dim=1).argmax()) + 1)
    touched = delta.any(-1)
    runs: list[list[Write]] = []
    if kind == "mlp":
        out = changed["mlp_out"]
        hook = block.hooks["mlp_out"]
        for edge in edges:
            i = row[edge.source]
            runs.append(_writes(hook, (), out[0], out[i + 1], touched[i]))
    else:
        z = {read: _attend(block, changed, SLOT[read]) for read in {e.input or "" for e in edges}}
        hook = block.hooks["z"]
        for edge in edges:
            assert edge.target.head is not None and edge.input is not None
            inner = clean.view.by_head(layer, z[edge.input])
            mixed, i = inner[:, :, edge.target.head], row[edge.source]
            where = touched[i]
            if edge.input != "q":  # other keys and values are read from other positions
                where = clean.kept.readers_of(where)
            at = clean.view.head_index(layer, edge.target.head)
            runs.append(_writes(hook, at, mixed[0], mixed[i + 1], where))
    # An edge that changes nothing is not run; this is common, as few tokens differ between prompts.
    yield from ((i, clean.logits) for i, writes in enumerate(runs) if not writes)
    moved = [i for i, writes in enumerate(runs) if writes]
    for j, logits in replay.run([runs[i] for i in moved]):
        yield moved[j], logits


def _attend(block: BlockRows, changed: dict[str, Tensor], slot: str) -> Tensor:
    """The heads' z with one input (q, k or v) of each row, and the other two inputs of row 0.

    The input is changed in all heads at once, since a norm may span all heads. The caller then uses
    the z of a single head only.
    """
    put = {name: changed[name][:1].expand_as(changed[name]) for name in SLOT.values()}
    return block(put | {slot: changed[slot]}, ["z"])["z"]


def _writes(
    hook: str, head: tuple[Any, ...], before: Tensor, after: Tensor, where: Tensor
) -> list[Write]:
    """The writes of a reader's new output, at the positions that its new input can reach.

    Elsewhere the outputs may differ too, but only by rounding, as they are rows of one batch.
    """
    moved = ((after != before).any(-1) & where.to(after.device)).nonzero().flatten().tolist()
    return [Write(hook, (p, *head), after[p]) for p in moved]


def check_put(block: BlockRows, changed: dict[str, Tensor], row: int) -> None:
    """Check that setting inner values of a block has the effect that they have when computed.

    The block computed `changed` from changed streams. Some of these values are set at their hooks,
    with the clean stream as input; the hooks after them must then hold what `changed` holds. If
    not, the model does not go on with the values at these hooks.

    Args:
        block: The block.
        changed: By slot, what its hooks held, one row per stream.
        row: The row to check.

    Raises:
        ModelError: a hook holds other values.
    """
    run, layer = block.run, block.layer
    steps = []
    if "mlp_out" in changed:
        new = changed["mlp_out"][row]
        base = run.at(layer, "resid_post") - run.at(layer, "mlp_out")
        steps.append(({"mlp_out": new[None]}, "resid_post", base + new))
    if "z" in changed:
        three = {slot: changed[slot][row][None] for slot in SLOT.values()}
        z = changed["z"][row]
        steps += [(three, "z", z), ({"z": z[None]}, "attn_out", changed["attn_out"][row])]
    for put, got, expected in steps:
        error = relative(block(put, [got])[got][0], expected)
        if not error <= tolerance(run.view):
            names = ", ".join(block.hooks[slot] for slot in put)
            raise ModelError(
                f"new values at {names} of {run.view.name} do not give at {block.hooks[got]} "
                f"what they give when the model computes them itself (off by {error:.2g}); edges "
                f"into this block cannot be patched{left_on(run.view.model)}"
            )
