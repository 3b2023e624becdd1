"""The calls that do the whole job: model and prompt in, graph out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any, Final, TypeVar

from visit_tl.arguments.checked import checked
from visit_tl.arguments.shared import Unpack
from visit_tl.arguments.vocabulary import (
    Cached,
    Count,
    Flag,
    Hooks,
    Integer,
    Mask,
    Model,
    Position,
    Positions,
    PromptLike,
    PromptsLike,
    PromptStream,
    SegmentsLike,
    SegmentsOfEach,
    Token,
    Tokens,
    Whole,
)
from visit_tl.arguments.words import short
from visit_tl.errors import InputError
from visit_tl.features.several import modules_of
from visit_tl.flow import FlowGraph
from visit_tl.lenses.given_lens import lens_of
from visit_tl.model.batch import unpadded
from visit_tl.model.tokens import Prompt
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.segments.of_prompts import segments_of_each
from visit_tl.xray.build import Plan, prediction
from visit_tl.xray.graph_options import GRAPH_OPTIONS, GraphOptions
from visit_tl.xray.graph_request import GraphRequest, graphs_of
from visit_tl.xray.other_positions import MAX_NODES

_AHEAD: Final = 16
"""Graphs that `iter_flow_graphs` reads together."""
_NONE_LEFT: Final = object()

F = TypeVar("F", bound=Callable[..., Any])


@checked
def flow_graph(
    model: Model,
    prompt: PromptLike,
    *,
    target: Token | None = None,
    position: Position | None = -1,
    cache: Cached | None = None,
    batch: Integer | None = None,
    expand: Whole | None = None,
    positions: Positions | None = None,
    max_nodes: Whole = MAX_NODES,
    fwd_hooks: Hooks | None = (),
    segments: SegmentsLike | None = None,
    **options: Unpack[GraphOptions],
) -> FlowGraph:
    """X-ray one forward pass: each part that mattered is read as words (paper, section 4).

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives. It is run once
            and not changed. Of a wrapper that computes the same (`torch.compile(model)`,
            `DataParallel(model)`), the model inside is used. A name or path that `load_model`
            accepts is opened once and kept (see `visit_tl.release_models`).
        prompt: Text, or token ids of shape [pos] or [1, pos].
        target: The token to follow, as text (one token, with its space) or id; None is the model's
            own prediction.
        position: Query position; negative ones count from the end; None is the last.
        cache: Activations of this prompt that the caller already has, instead of a forward pass.
            If it has no logits (`hook_unembed`), the lens is not compared with the model's own
            prediction; the conservation laws of the blocks are still measured.
        batch: Row of the cache; needed if it holds several prompts.
        expand: How many steps to follow memory values back. Each step adds the blocks that computed
            the state from which a memory was read, at the position of that state (default 0, or 1
            if `positions` are given).
        positions: Key positions that may be followed, one or several; negative ones count from
            the end; None or `all` is all.
        max_nodes: The most nodes that `expand` may add. The memories that add the largest share to
            the stream are followed first; those left out are in `graph.unfollowed`.
        fwd_hooks: Hooks in the form that `run_with_hooks` takes. The graph shows the run that they
            patched; hooks left on the model act too. If a hook replaces a whole output, the law
            that its parts sum to it is not checked. `graph.patched` names the hooks.
        segments: Ranges of tokens that see each other in both directions, as `vt.Segments`, a list
            such as `[(0, 8), (8, 15)]`, or a function of the token ids that gives one of them. None
            is the model's own causal attention.
        options: `layers`, `prepend_bos`, `preset`, `heads`, `values`, `neurons`, `k`, `saes`,
            `features`, `labels` and `lens`; see `visit_tl.xray.graph_options.GraphOptions`.

    Returns:
        The graph; it draws itself in a notebook.

    Raises:
        ModelError: the model cannot be decomposed exactly.
        InputError: a prompt, target, layer, position, budget or lens that does not fit.
        DecompositionError: parts do not sum to their whole.
    """
    view = ModelView(model)
    asked = _asked(view, options)
    tokens = view.encode(prompt, asked["prepend_bos"], segments)
    job = GraphRequest(view, target, asked)
    job.follow(expand, positions, max_nodes)
    plans = [job.plan(tokens, position, cache, batch, fwd_hooks or ())]
    return _wrapped(view, asked, plans)[0]


@checked
def flow_graphs(
    model: Model,
    prompts: PromptsLike,
    *,
    attention_mask: Mask | None = None,
    target: Tokens | None = None,
    position: Position | None = -1,
    expand: Whole | None = None,
    positions: Positions | None = None,
    max_nodes: Whole = MAX_NODES,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
    **options: Unpack[GraphOptions],
) -> list[FlowGraph]:
    """Make the graphs of several prompts, each equal to that of `flow_graph` for the prompt alone.

    Padding never reaches the model: a padded batch is first split into prompts by its mask.

    Args:
        model: As for `flow_graph`; opened once.
        prompts: Texts, lists of token ids, or a batch of token ids of shape [batch, pos].
        attention_mask: For a batch, 1 where a token is and 0 where padding is, left or right.
        target: One token for all prompts, or one for each; None is the model's own prediction.
        position: As for `flow_graph`; counted within each prompt, without its padding.
        expand: As for `flow_graph`.
        positions: As for `flow_graph`; counted within each prompt, without its padding.
        max_nodes: As for `flow_graph`.
        segments: As for `flow_graph`, for all prompts; or a list with one entry for each.
        verbose: Show a progress bar.
        options: As for `flow_graph`.

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
    asked = _asked(view, options)
    each = segments_of_each(segments, len(rows))
    encoded = [
        view.encode(row, asked["prepend_bos"], own) for row, own in zip(rows, each, strict=True)
    ]
    jobs = [GraphRequest(view, one, asked) for one in targets]
    for job in jobs:
        job.follow(expand, positions, max_nodes)
    pairs = zip(jobs, encoded, strict=True)
    bar = tqdm(pairs, total=len(rows), desc="graphs", disable=not verbose)
    return _wrapped(view, asked, (job.plan(tokens, position) for job, tokens in bar))


@checked
def iter_flow_graphs(
    model: Model,
    prompts: PromptStream,
    *,
    attention_mask: Mask | None = None,
    target: Tokens | None = None,
    position: Position | None = -1,
    expand: Whole | None = None,
    positions: Positions | None = None,
    max_nodes: Whole = MAX_NODES,
    segments: SegmentsOfEach | None = None,
    verbose: Flag = True,
    **options: Unpack[GraphOptions],
) -> Iterator[FlowGraph]:
    """Make the graphs of `flow_graphs` one at a time, in memory that does not grow with prompts.

    Prompts may come from a generator, which is read a few prompts ahead. What is wrong with a
    prompt is raised when its turn comes; graphs of those before it have been given by then, but
    for the few that were read with it.

    Args:
        model: As for `flow_graph`; opened once.
        prompts: As for `flow_graphs`, or any iterable of texts and lists of token ids.
        attention_mask: As for `flow_graphs`.
        target: As for `flow_graphs`.
        position: As for `flow_graph`; counted within each prompt, without its padding.
        expand: As for `flow_graph`.
        positions: As for `flow_graph`; counted within each prompt, without its padding.
        max_nodes: As for `flow_graph`.
        segments: As for `flow_graphs`. If it cannot be told how many prompts there are, a list with
            one entry for each is not taken; a function of the token ids is.
        verbose: Show a progress bar.
        options: As for `flow_graph`.

    Returns:
        An iterator over the graphs, in the order of the prompts.

    Raises:
        InputError: as `flow_graphs`.
    """
    view = ModelView(model)
    asked = _asked(view, options)
    rows, n = _stream(prompts, attention_mask)
    several = None if target is None or isinstance(target, str | int) else list(target)
    if several is not None and n not in (None, len(several)):
        raise InputError(f"there are {n} prompts but {len(several)} targets; give one each")
    each: Iterable[Any] = repeat(segments_of_each(segments, 1)[0]) if n is None else (
        segments_of_each(segments, n)
    )  # fmt: skip
    GraphRequest(view, None, asked)  # options that do not fit are refused now

    def plans() -> Iterator[Plan]:
        from tqdm.auto import tqdm

        targets = iter(repeat(target) if several is None else several)
        bar = tqdm(zip(rows, each, strict=False), total=n, desc="graphs", disable=not verbose)
        for i, (row, own) in enumerate(bar):
            if (one := next(targets, _NONE_LEFT)) is _NONE_LEFT:
                raise InputError(f"there are {i} targets and more prompts; give one each")
            job = GraphRequest(view, one, asked)  # type: ignore[arg-type]
            job.follow(expand, positions, max_nodes)
            prompt = row if n is not None else _one_prompt(row)
            yield job.plan(view.encode(prompt, asked["prepend_bos"], own), position)

    found = graphs_of(view, asked["k"], plans(), _AHEAD, asked["lens"])
    return map(FlowGraph.of, found)


@checked
def generate(
    model: Model,
    prompt: PromptLike,
    n: Count,
    *,
    target: Token | None = None,
    segments: SegmentsLike | None = None,
    verbose: Flag = True,
    **options: Unpack[GraphOptions],
) -> list[FlowGraph]:
    """Continue a prompt greedily, with a graph of the step that made each new token.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        n: How many tokens to add; fewer come if the model ends the text or the context is full.
        target: As for `flow_graph`; None follows each step's own prediction.
        segments: As for `flow_graph`; what is added is causal.
        verbose: Show a progress bar.
        options: As for `flow_graph`.

    Returns:
        One graph a new token, each of the prompt and of what was added before it.

    Raises:
        InputError: as `flow_graph`, or `n` below 1.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    asked = _asked(view, options)
    job = GraphRequest(view, target, asked)

    def plans(tokens: Prompt) -> Iterator[Plan]:
        for _ in tqdm(range(n), desc="tokens", disable=not verbose):
            trace = Trace.run(view, tokens, layers=job.layers, extra=job.extra)
            yield job.chosen(trace)
            after = prediction(view, trace)
            if after == view.tokens.eos or len(tokens.ids) == view.n_ctx:
                return
            text = tokens.text + view.tokens.text(after)
            tokens = replace(tokens, text=text, ids=(*tokens.ids, after))

    start = view.encode(prompt, asked["prepend_bos"], segments)
    return _wrapped(view, asked, plans(start))


def _asked(view: ModelView, options: GraphOptions) -> dict[str, Any]:
    """All options of graphs; SAEs and the lens are opened here, once for all prompts."""
    asked: dict[str, Any] = {**GRAPH_OPTIONS, **options}
    if asked["saes"] is not None:
        asked["saes"] = modules_of(asked["saes"])
    return {**asked, "lens": lens_of(view, asked["lens"])}


def _wrapped(view: ModelView, asked: Mapping[str, Any], plans: Iterable[Plan]) -> list[FlowGraph]:
    found = graphs_of(view, asked["k"], plans, lens=asked["lens"])
    return [FlowGraph.of(records) for records in found]


def _stream(prompts: Any, mask: Any) -> tuple[Iterator[Any], int | None]:
    """Prompts one by one, and how many there are, if that is known.

    Raises:
        InputError: they are not several prompts.
    """
    if isinstance(prompts, list | tuple) or hasattr(prompts, "tolist"):
        rows = _several_prompts(prompts, mask)
        return iter(rows), len(rows)
    try:
        if isinstance(prompts, str | bytes | Mapping):
            raise TypeError
        found = iter(prompts)
    except Exception as error:
        raise InputError(
            f"iter_flow_graphs: prompts must be prompts one after the other, each a text or token "
            f"ids, got {short(prompts)}"
        ) from error
    if mask is not None:
        raise InputError("an attention_mask needs a batch of token ids as a tensor")
    return found, None


def _refused_by(call: str) -> Callable[[F], F]:
    """Have the refusals of a function name another call: the one that it reads arguments of."""

    def named(function: F) -> F:
        function.__qualname__ = call
        return function

    return named


@checked
@_refused_by("iter_flow_graphs")
def _several_prompts(prompts: PromptsLike, mask: Mask | None) -> list[Any]:
    return unpadded(prompts, mask)


@checked
@_refused_by("iter_flow_graphs")
def _one_prompt(prompt: PromptLike) -> Any:
    return prompt
