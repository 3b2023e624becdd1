"""The calls that do the whole job: model and prompt in, graph out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from visit_tl.arguments.checked import checked
from visit_tl.arguments.several import integers_or_none, node_ids
from visit_tl.arguments.vocabulary import (
    Cached,
    Count,
    Flag,
    Hooks,
    Integer,
    Layers,
    Mask,
    Model,
    Neurons,
    NodeNames,
    Position,
    Positions,
    Preset,
    PromptLike,
    PromptsLike,
    Token,
    Tokens,
    Whole,
)
from visit_tl.atlas.atlas import open_atlas
from visit_tl.errors import InputError
from visit_tl.graph import prune
from visit_tl.graph.build import HalfGraph, Plan, finish, plan, prediction, read
from visit_tl.graph.columns import MAX_NODES, Follow
from visit_tl.graph.flow import FlowGraph
from visit_tl.graph.ids import NodeId
from visit_tl.graph.reader import Reader
from visit_tl.model.batch import unpadded
from visit_tl.model.cached import Cache
from visit_tl.model.hooks import FwdHooks
from visit_tl.model.standing import watched
from visit_tl.model.tokens import Prompt
from visit_tl.model.view import ModelView
from visit_tl.trace import Trace, patterns

if TYPE_CHECKING:
    from visit_tl.view.attention import AttentionView

_TOGETHER: Final = 24 * 2**20
"""Bytes of rows of weights that wait to be read together, each once for all prompts."""


@checked
def flow_graph(
    model: Model,
    prompt: PromptLike,
    *,
    target: Token | None = None,
    layers: Layers | None = None,
    position: Position | None = -1,
    prepend_bos: Flag | None = None,
    cache: Cached | None = None,
    batch: Integer | None = None,
    preset: Preset = "default",
    heads: Count | None = None,
    values: Count | None = None,
    neurons: Neurons | None = None,
    k: Count = 5,
    expand: Whole | None = None,
    positions: Positions | None = None,
    max_nodes: Whole = MAX_NODES,
    fwd_hooks: Hooks | None = (),
) -> FlowGraph:
    """X-ray one forward pass: every part that mattered, read as words (paper, section 4).

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives. It is run once
            and left exactly as it was. A wrapper that computes the same (`torch.compile(model)`,
            `DataParallel(model)`) stands for the model in it. A name or path that `load_model`
            takes is opened once and kept (see `visit_tl.release_models`).
        prompt: Text, or token ids of shape [pos] or [1, pos].
        target: The token to follow, as text (one token, with its space) or id; None is the model's
            own prediction.
        layers: Consecutive blocks, one or several; None or `all` is all.
        position: Query position; negative ones count from the end; None is the last.
        prepend_bos: Whether a BOS goes before a text; None is the model's own default, but no
            second one before a text that begins with BOS already (`graph.bos_in_prompt`).
        cache: Activations of this prompt that the caller already has, instead of a forward pass.
            Without logits in it (`hook_unembed`), the lens is not held against the model's own
            prediction; the laws of the blocks are measured all the same.
        batch: Row of the cache; needed if it holds several prompts.
        preset: `default`, or `paper` for all heads and neurons by absolute activation.
        heads: Heads per block, by norm of output (default 10).
        values: Memory values per head, by attention (default 2).
        neurons: Neurons per matrix: (high, low), default (18, 7), or their sum.
        k: How many top and bottom tokens each node keeps.
        expand: Through how many memories to follow the answer back, one after the other: the blocks
            that made the state which a memory was read from join the graph, at its position
            (default 0, or 1 if `positions` are given).
        positions: Key positions that may be followed, one or several; negative ones count from
            the end; None or `all` is all.
        max_nodes: How many nodes following may add. The memories that add the largest share to the
            stream come first; those that found no room are `graph.unfollowed`.
        fwd_hooks: As `run_with_hooks` takes them: the graph is of the run that they patched, as it
            is of hooks that were left on the model. The law of a whole that they replace is not
            checked; `graph.patched` names the hooks.

    Returns:
        The graph; it draws itself in a notebook.

    Raises:
        ModelError: the model cannot be taken apart exactly.
        InputError: a prompt, target, layer, position or budget that does not fit.
        DecompositionError: parts do not sum to their whole.
    """
    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    job = _Job(view, target, layers, prune.budget(preset, heads, values, neurons))
    job.follow(expand, positions, max_nodes)
    return _built(view, k, [job.plan(tokens, position, cache, batch, fwd_hooks or ())])[0]


@checked
def flow_graphs(
    model: Model,
    prompts: PromptsLike,
    *,
    attention_mask: Mask | None = None,
    target: Tokens | None = None,
    layers: Layers | None = None,
    position: Position | None = -1,
    prepend_bos: Flag | None = None,
    preset: Preset = "default",
    heads: Count | None = None,
    values: Count | None = None,
    neurons: Neurons | None = None,
    k: Count = 5,
    expand: Whole | None = None,
    positions: Positions | None = None,
    max_nodes: Whole = MAX_NODES,
    verbose: Flag = True,
) -> list[FlowGraph]:
    """The graph of each of several prompts, each exactly as `flow_graph` gives it alone.

    Padding never reaches the model: a padded batch is taken apart by its mask first.

    Args:
        model: As for `flow_graph`; opened once.
        prompts: Texts, lists of token ids, or a batch of token ids of shape [batch, pos].
        attention_mask: For a batch, 1 where a token is and 0 where padding is, left or right.
        target: One token for all prompts, or one for each; None is the model's own prediction.
        layers: As for `flow_graph`.
        position: As for `flow_graph`; counted within each prompt, without its padding.
        prepend_bos: As for `flow_graph`.
        preset: As for `flow_graph`.
        heads: As for `flow_graph`.
        values: As for `flow_graph`.
        neurons: As for `flow_graph`.
        k: As for `flow_graph`.
        expand: As for `flow_graph`.
        positions: As for `flow_graph`; counted within each prompt, without its padding.
        max_nodes: As for `flow_graph`.
        verbose: Show a progress bar.

    Returns:
        One graph a prompt, in their order.

    Raises:
        InputError: as `flow_graph`, or targets or a mask that do not fit the prompts.
    """
    from tqdm.auto import tqdm

    rows = unpadded(prompts, attention_mask)
    targets = [target] * len(rows) if target is None or isinstance(target, str | int) else target
    if len(targets) != len(rows):
        raise InputError(f"there are {len(rows)} prompts but {len(targets)} targets; give one each")
    view = ModelView(model)
    budget = prune.budget(preset, heads, values, neurons)
    encoded = [view.tokens.encode(row, prepend_bos) for row in rows]
    jobs = [_Job(view, one, layers, budget) for one in targets]
    for job in jobs:
        job.follow(expand, positions, max_nodes)
    pairs = zip(jobs, encoded, strict=True)
    bar = tqdm(pairs, total=len(rows), desc="graphs", disable=not verbose)
    return _built(view, k, (job.plan(tokens, position) for job, tokens in bar))


@checked
def generate(
    model: Model,
    prompt: PromptLike,
    n: Count,
    *,
    target: Token | None = None,
    layers: Layers | None = None,
    prepend_bos: Flag | None = None,
    preset: Preset = "default",
    heads: Count | None = None,
    values: Count | None = None,
    neurons: Neurons | None = None,
    k: Count = 5,
    verbose: Flag = True,
) -> list[FlowGraph]:
    """Continue a prompt greedily, with a graph of the step that made each new token.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        n: How many tokens to add; fewer come if the model ends the text or the context is full.
        target: As for `flow_graph`; None follows each step's own prediction.
        layers: As for `flow_graph`.
        prepend_bos: As for `flow_graph`.
        preset: As for `flow_graph`.
        heads: As for `flow_graph`.
        values: As for `flow_graph`.
        neurons: As for `flow_graph`.
        k: As for `flow_graph`.
        verbose: Show a progress bar.

    Returns:
        One graph a new token, each of the prompt and of what was added before it.

    Raises:
        InputError: as `flow_graph`, or `n` below 1.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    job = _Job(view, target, layers, prune.budget(preset, heads, values, neurons))

    def plans(tokens: Prompt) -> Iterator[Plan]:
        for _ in tqdm(range(n), desc="tokens", disable=not verbose):
            trace = Trace.run(view, tokens, layers=job.layers)
            yield job.chosen(trace)
            after = prediction(view, trace)
            if after == view.tokens.eos or len(tokens.ids) == view.n_ctx:
                return
            text = tokens.text + view.tokens.text(after)
            tokens = replace(tokens, text=text, ids=(*tokens.ids, after))

    return _built(view, k, plans(view.tokens.encode(prompt, prepend_bos)))


@checked
def attention(
    model: Model,
    prompt: PromptLike,
    heads: NodeNames,
    *,
    prepend_bos: Flag | None = None,
) -> AttentionView:
    """Where some heads look, from every position, drawn by CircuitsVis.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        heads: Their ids, such as `L29H1` or `29.1`.
        prepend_bos: As for `flow_graph`.

    Returns:
        A view that draws itself in a notebook, and saves as one `.html` file.

    Raises:
        InputError: no heads, or one that the model does not have.
        GraphError: an id that cannot be read.
    """
    from visit_tl.view.attention import attention as draw

    view = ModelView(model)
    tokens = view.tokens.encode(prompt, prepend_bos)
    chosen: list[tuple[int, int]] = []
    for node in (NodeId.parse(head) for head in node_ids(heads)):
        layer, head = node.layer, node.head
        if layer is None or head is None or layer >= view.n_layers or head >= view.n_heads:
            raise InputError(
                f"{node} is no head of {view.name}, which has L0H0..L{view.n_layers - 1}"
                f"H{view.n_heads - 1}"
            )
        chosen.append((layer, head))
    if not chosen:
        raise InputError("no heads were given; name some, such as ['L9H6', 'L10H0']")
    with watched(view.model) as changes:
        found = patterns(view, tokens, chosen)
    patched = f" (patched at {', '.join(changes.standing)})" if changes.standing else ""
    return draw(
        found.numpy(),
        [view.tokens.text(i) for i in tokens.ids],
        [str(NodeId("head", *pair)) for pair in chosen],
        title=f"{view.name}: {tokens.text}{patched}",
    )


class _Job:
    """What is asked of every prompt alike, checked once."""

    def __init__(
        self,
        view: ModelView,
        target: str | int | None,
        layers: Layers | None,
        budget: prune.Budget,
    ) -> None:
        self.view, self.budget = view, budget
        self.layers = view.check_layers(layers)
        self.target = None if target is None else view.tokens.single(target)

    def follow(self, expand: int | None, positions: Positions | None, max_nodes: int) -> None:
        """Whether and how far to follow memories back."""
        self.positions = integers_or_none(positions)
        self.expand = (0 if positions is None else 1) if expand is None else expand
        self.max_nodes = max_nodes

    def plan(
        self,
        tokens: Prompt,
        position: int | None,
        cache: Cache | None = None,
        batch: int | None = None,
        fwd_hooks: FwdHooks = (),
    ) -> Plan:
        if cache is not None and fwd_hooks:
            raise InputError("fwd_hooks patch a run, and a cache is of a run that is over; run it")
        if cache is None and batch is not None:
            raise InputError("batch is a row of a cache; pass the cache, or call flow_graphs")

        def traces(at: Sequence[int], layers: Sequence[int]) -> dict[int, Trace]:
            if cache is None:
                return Trace.run_at(self.view, tokens, at, layers=layers, fwd_hooks=fwd_hooks)
            return Trace.from_cache_at(self.view, cache, tokens, at, layers=layers, batch=batch)

        position = self.view.check_position(-1 if position is None else position, len(tokens.ids))
        trace = traces([position], self.layers)[position]
        if not self.expand:
            return self.chosen(trace)
        n = len(tokens.ids)
        chosen = self.positions
        chosen = None if chosen is None else {self.view.check_position(j, n) for j in chosen}
        if chosen is not None and (ahead := [j for j in sorted(chosen) if j > position]):
            raise InputError(
                f"position {ahead[0]} comes after the graph's own, {position}, which cannot see it"
            )
        return self.chosen(trace, Follow(self.expand, self.max_nodes, chosen, traces))

    def chosen(self, trace: Trace, follow: Follow | None = None) -> Plan:
        return plan(self.view, trace, target=self.target, budget=self.budget, follow=follow)


def _built(view: ModelView, k: int, plans: Iterable[Plan]) -> list[FlowGraph]:
    """The graphs of plans; their rows of weights are read together, as many as fit into memory."""
    atlas = open_atlas(view, min(k, view.d_vocab))
    reader = Reader(view, k, atlas)
    graphs: list[FlowGraph] = []
    waiting: list[HalfGraph] = []

    def whole() -> None:
        graphs.extend(finish(reader, waiting))
        waiting.clear()
        if atlas is not None:
            atlas.save()

    for one in plans:
        waiting.append(read(reader, one))
        if reader.nbytes > _TOGETHER:
            whole()
    whole()
    return graphs
