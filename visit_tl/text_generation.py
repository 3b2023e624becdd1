"""Continue prompts under the mask of segments, with caches that prompts can share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from visit_tl.arguments.checked import checked
from visit_tl.arguments.kinds import Unchecked
from visit_tl.arguments.vocabulary import Count, Flag, Model, PromptLike, SegmentsLike
from visit_tl.errors import InputError
from visit_tl.graph.descriptions import readable
from visit_tl.model.cached_run import CachedRun, require_whole_segments
from visit_tl.model.view import ModelView
from visit_tl.segments.spans import Segments

if TYPE_CHECKING:
    import pandas as pd

Prefix = Annotated[Any, Unchecked("generate_text says whether the prompt begins with it")]


@dataclass(frozen=True)
class GeneratedText:
    """What a model added to a prompt, greedily.

    Attributes:
        model: Name of the model.
        prompt: The text that was given.
        text: What was added.
        token_ids: The tokens of the prompt.
        new_ids: The tokens that were added.
        tokens: Their texts.
        log_probs: Their log probabilities, in nats.
        reused: How many tokens of the prompt came from the cache of a prefix.
        cached: Whether earlier tokens were kept in a cache; False if each step ran all of them.
        segments: Ranges of tokens that saw each other, as in `FlowGraph.segments`.
    """

    model: str
    prompt: str
    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    new_ids: tuple[int, ...]
    tokens: tuple[str, ...] = field(repr=False)
    log_probs: tuple[float, ...] = field(repr=False)
    reused: int
    cached: bool
    segments: tuple[tuple[int, int], ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row an added token: token, id, log probability."""
        import pandas as pd

        return pd.DataFrame({"token": self.tokens, "id": self.new_ids, "log_prob": self.log_probs})

    def __str__(self) -> str:
        return f"{readable(self.prompt)}[{readable(self.text)}]"


@checked
def prefix_cache(
    model: Model,
    prompt: PromptLike,
    *,
    segments: SegmentsLike | None = None,
    prepend_bos: Flag | None = None,
) -> CachedRun:
    """Run the beginning that many prompts share, such as a system prompt, and keep it.

    A segment never sees the ones after it, so what a prefix computed is the same in every prompt
    that begins with it. Pass the result to `generate_text`; it is not changed there.

    Args:
        model: As for `flow_graph`.
        prompt: The beginning, as for `flow_graph`. It must end where a segment ends, or outside of
            all segments.
        segments: Its segments, as for `flow_graph`; `Segments` of a whole prompt may be given, and
            those that begin after the prefix are left out.
        prepend_bos: As for `flow_graph`.

    Raises:
        InputError: a prompt or segments that do not fit.
        ModelError: the model cannot run under their mask exactly.
    """
    view = ModelView(model)
    if isinstance(segments, Segments):
        n = len(view.tokens.encode(prompt, prepend_bos).ids)
        segments = [span for span in segments.spans if span[0] < n]
    tokens = view.encode(prompt, prepend_bos, segments)
    run = CachedRun(view, tokens.segments)
    run.feed(tokens.ids)
    return run


@checked
def generate_text(
    model: Model,
    prompt: PromptLike,
    n: Count,
    *,
    segments: SegmentsLike | None = None,
    prefix: Prefix | None = None,
    prepend_bos: Flag | None = None,
    verbose: Flag = True,
) -> GeneratedText:
    """Continue a prompt greedily: the prompt under the mask of its segments, the rest causal.

    Earlier tokens are kept in the model's own cache of keys and values. `generate` does the same
    with a graph of each step.

    Args:
        model: As for `flow_graph`.
        prompt: As for `flow_graph`.
        n: How many tokens to add; fewer come if the model ends the text or the context is full.
        segments: As for `flow_graph`.
        prefix: The `prefix_cache` of a beginning of this prompt, whose tokens are not run again.
        prepend_bos: As for `flow_graph`.
        verbose: Show a progress bar.

    Raises:
        InputError: as `flow_graph`, or the prompt does not begin with the prefix.
        ModelError: the model cannot run under the mask exactly.
    """
    from tqdm.auto import tqdm

    view = ModelView(model)
    tokens = view.encode(prompt, prepend_bos, segments)
    run = CachedRun(view, tokens.segments) if prefix is None else _continued(view, prefix, tokens)
    reused = len(run.ids)
    row = run.feed(tokens.ids[reused:])[-1].log_softmax(-1)
    new: list[int] = []
    log_probs: list[float] = []
    for _ in tqdm(range(n), desc="tokens", disable=not verbose):
        token = int(row.argmax())
        new.append(token)
        log_probs.append(float(row[token]))
        if token == view.tokens.eos or len(run.ids) == view.n_ctx or len(new) == n:
            break
        row = run.feed([token])[-1].log_softmax(-1)
    return GeneratedText(
        model=view.name,
        prompt=tokens.text,
        text="".join(view.tokens.text(i) for i in new),
        token_ids=tokens.ids,
        new_ids=tuple(new),
        tokens=tuple(view.tokens.text(i) for i in new),
        log_probs=tuple(log_probs),
        reused=reused,
        cached=run.cached,
        segments=tokens.spans,
    )


def _continued(view: ModelView, prefix: Any, tokens: Any) -> CachedRun:
    """A copy of a prefix, to be continued by a prompt that begins with it.

    Raises:
        InputError: the prompt does not, or is of another model.
    """
    if not isinstance(prefix, CachedRun):
        raise InputError(
            f"prefix is {type(prefix).__name__}, not what vt.prefix_cache(model, ...) gives"
        )
    if prefix.view.model is not view.model:
        raise InputError(
            f"the prefix was run by another model, {prefix.view.name}; run it by this one"
        )
    n = len(prefix.ids)
    if tokens.ids[:n] != prefix.ids or len(tokens.ids) <= n:
        raise InputError(
            f"the prompt does not begin with the {n} tokens of the prefix, or has no more than "
            f"these; a text may be split into other tokens when more follows, so pass token ids"
        )
    require_whole_segments(tokens.segments, n)
    within = tuple(span for span in tokens.spans if span[1] <= n)
    own = () if prefix.segments is None else prefix.segments.spans
    if within != own:
        raise InputError(
            f"the prefix was run with the segments {list(own)}, but there the prompt has "
            f"{list(within)}"
        )
    run = prefix.copy()
    run.segments = tokens.segments
    return run
