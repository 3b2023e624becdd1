"""Check whether a model can be X-rayed exactly: what it is, and how well each law holds.

If a model is refused, this is a result and not an error: the verdict gives the reason.
"""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from visit_tl import releases
from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Model
from visit_tl.causal.patching.batched_runs import Replay
from visit_tl.errors import VisitError
from visit_tl.lens.kernel_choice import kernel_for
from visit_tl.model import components
from visit_tl.model.facts import UNKNOWN, facts, facts_of_parts, unopened
from visit_tl.model.given_model import model_given
from visit_tl.model.replay.kept_run import KeptRun
from visit_tl.model.replay.own_cache import NEW_TOKENS, generation_error
from visit_tl.model.replay.patch import Write
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray import conservation as conserve

if TYPE_CHECKING:
    import pandas as pd

LENS_LAW: Final = "lens of the last resid_post = logits"
_TOKENS: Final = 8
# TransformerLens's names of the standard hooks of a block.
_STATES: Final = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_ATTENTION: Final = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
_ROTARY: Final = ("hook_rot_q", "hook_rot_k")


_NOT_TRIED: Final = "not tried"


@dataclass(frozen=True)
class LawError:
    """How well one conservation law holds.

    Attributes:
        law: Its name (docs/maths.md, "Conservation").
        hook: The hook that holds the whole, where the error is largest.
        error: The largest relative error over all blocks.
    """

    law: str
    hook: str
    error: float


@dataclass(frozen=True)
class CheckReport:
    """What a model is, and whether its parts sum to the whole.

    Attributes:
        model: Its name.
        class_name: The class that holds it.
        transformer_lens: The installed release.
        n_layers: Number of blocks; None where it has none.
        norm: Kind of its norms, and where they are.
        positions: Kind of its position embedding.
        attention: Heads, K/V heads, and the window of local attention where it is known.
        mlp: Kind of its MLP and the activation.
        blocks: Whether attention and MLP are sequential or parallel.
        dtype: The dtype of its parameters.
        laws: Each law that could be measured, in the order of a block, the lens last.
        missing: Hooks of the first block that TransformerLens names but that are not there or did
            not fire; a graph may do without some of them. None if that could not be tried.
        tolerance: The relative error up to which a law holds, for this dtype; None if the model
            was refused before that was known.
        reason: Why the model is refused; None if it is exact.
        patching: Which way patched runs take, and why where it is not `rows`; see
            `visit_tl.causal.patching.batched_runs`.
        generation: Whether `model.generate`, with the model's own cache of keys and values, gives
            the logits of whole forward passes.
        tested: The releases that this package was tested with, and those that are installed.
        patched: Hooks left on the model that changed something. They acted during the check; the
            laws of activations that they replaced were not measured.
        adapters: The active adapters (LoRA and similar), merged or not.
        readout: How readouts are computed on this machine, and who chose it.
        quantised: How many linear layers are quantised, and their classes; empty if none is.
        unopened: The parts of blocks that were not taken apart, with their class, blocks and the
            reason; empty if all were.
        sinks: How much attention goes to no token, where the rows of patterns sum to less than 1;
            empty where they sum to 1.
    """

    model: str
    class_name: str
    transformer_lens: str
    n_layers: int | None
    norm: str
    positions: str
    attention: str
    mlp: str
    blocks: str
    dtype: str
    laws: tuple[LawError, ...]
    missing: tuple[str, ...] | None
    tolerance: float | None
    reason: str | None
    patching: str = _NOT_TRIED
    generation: str = _NOT_TRIED
    tested: str = ""
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    readout: str = _NOT_TRIED
    quantised: str = ""
    unopened: str = ""
    sinks: str = ""

    @property
    def exact(self) -> bool:
        """Whether a graph of this model can be trusted."""
        return self.reason is None

    @property
    def verdict(self) -> str:
        """`exact`, or `refused: ` and the reason.

        What was not opened is named, and so are hooks left on the model that acted.
        """
        if self.reason is not None:
            return f"refused: {self.reason}"
        hooks = ", ".join(self.patched)
        patched = f", as patched by hooks left on the model at {hooks}" if hooks else ""
        closed = f", except inside of what was not opened: {self.unopened}" if self.unopened else ""
        return f"exact{patched}{closed}"

    @property
    def max_error(self) -> float | None:
        """The largest error of all laws; None if none could be measured."""
        return max((law.error for law in self.laws), default=None)

    def facts(self) -> list[tuple[str, str]]:
        """What the model is: names and values."""
        return [
            ("model", self.model),
            ("class", self.class_name),
            ("TransformerLens", self.transformer_lens),
            ("layers", UNKNOWN if self.n_layers is None else str(self.n_layers)),
            ("norm", self.norm),
            ("positions", self.positions),
            ("attention", self.attention),
            ("MLP", self.mlp),
            ("blocks", self.blocks),
            *([("not opened", self.unopened)] if self.unopened else []),
            *([("attention sinks", self.sinks)] if self.sinks else []),
            ("dtype", self.dtype),
            *([("adapters", ", ".join(self.adapters))] if self.adapters else []),
            *([("quantised", self.quantised)] if self.quantised else []),
        ]

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the report, top to bottom: names and values."""
        laws = [(law.law, f"{law.error:.1e} at {law.hook}") for law in self.laws]
        tolerance = [] if self.tolerance is None else [("tolerance", f"{self.tolerance:.0e}")]
        hooks = "not tried" if self.missing is None else ", ".join(self.missing) or "none"
        ends = [
            ("hooks missing", hooks),
            ("patching", self.patching),
            ("generation", self.generation),
            ("readout", self.readout),
            ("tested with", self.tested),
            ("verdict", self.verdict),
        ]
        return [*self.facts(), *laws, *tolerance, *ends]

    def to_dataframe(self) -> pd.DataFrame:
        """One row, with the model as its index; combine several with `pandas.concat`."""
        import pandas as pd

        row: dict[str, Any] = dict(self.facts()) | {law.law: law.error for law in self.laws}
        row |= {"tolerance": self.tolerance, "max_error": self.max_error}
        row |= {"hooks missing": self.missing, "patching": self.patching}
        row |= {"generation": self.generation, "exact": self.exact, "verdict": self.verdict}
        return pd.DataFrame([row]).set_index("model")

    def __str__(self) -> str:
        rows = [(name, _one_line(value)) for name, value in self.rows()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(_one_line(value))}</td></tr>'
            for name, value in self.rows()
        )
        return f"<table>{cells}</table>"


@checked
def check(model: Model) -> CheckReport:
    """Take a model apart on a short prompt and measure how well its parts sum to its wholes.

    Every block is measured at the last of up to eight tokens, spread over the vocabulary. The model
    is not changed.

    Args:
        model: As for `flow_graph`.

    Returns:
        What was found. A model that cannot be taken apart is no error: the verdict says why.

    Raises:
        ModelError: a model name that cannot be opened.
    """
    model = model_given(model)
    laws: list[LawError] = []
    missing: tuple[str, ...] | None = None
    tolerance: float | None = None
    reason: str | None = None
    patching = generation = readout = _NOT_TRIED
    patched: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    told, closed, sinks, quantised = facts(model), "", "", ""
    try:
        view = ModelView(model)
        told, closed = facts_of_parts(told, view.parts), unopened(view.parts)
        adapters, quantised = view.adapters.names, view.adapters.quantised
        tolerance = conserve.tolerance(view)
        ids = _prompt(view)
        missing = _missing(view, ids)
        trace = Trace.run(view, view.tokens.encode(ids, None))
        patched = trace.patched
        sinks = _sinks(trace, tolerance)
        laws = _laws(view, trace)
        reason = _broken(view, trace, laws, tolerance)
        reason = None if reason is None else f"{reason}{left_on(model)}"
        patching = _patching(view, ids)
        generation = _generation(view, ids)
        readout = str(kernel_for(view))
    except VisitError as error:
        reason = _one_line(str(error))
    except Exception as error:
        # Any unexpected failure is a reason not to trust a graph of this model.
        reason = _one_line(f"{type(error).__name__}: {error}")
        if note := releases.newer():
            reason += f". {note}"
    return CheckReport(
        class_name=type(model).__name__,
        transformer_lens=releases.installed("transformer-lens") or UNKNOWN,
        laws=tuple(laws),
        missing=missing,
        tolerance=tolerance,
        reason=reason,
        patching=patching,
        generation=generation,
        tested=releases.tested(),
        patched=patched,
        adapters=adapters,
        readout=readout,
        quantised=quantised,
        unopened=_one_line(closed),
        sinks=sinks,
        **told,
    )


# --- measuring -----------------------------------------------------------------------------------


def _prompt(view: ModelView) -> list[int]:
    """Up to eight ids spread over the vocabulary, with a BOS first if the tokenizer has one."""
    size, n = int(view.model.cfg.d_vocab), min(_TOKENS, view.n_ctx)
    bos = getattr(getattr(view.model, "tokenizer", None), "bos_token_id", None)
    first = [bos] if isinstance(bos, int) and 0 <= bos < size else []
    return (first + [(2 * i + 1) * size // (2 * n) for i in range(n)])[:n]


def _laws(view: ModelView, trace: Trace) -> list[LawError]:
    """Each law with its largest error over the blocks, then the lens."""
    worst: dict[str, LawError] = {}
    for layer, t in trace.layers.items():
        weights = components.stream_weights(view, layer, t)
        for law, hook, error in conserve.laws(view, layer, t, weights):
            if hook in trace.replaced:
                continue
            if law not in worst or not error <= worst[law].error:
                worst[law] = LawError(law, hook, error)
    last = trace.layers[view.n_layers - 1]
    own = conserve.own_logits(trace)
    if own is not None:
        error = conserve.lens_error(view, last.resid_post, own)
        worst[LENS_LAW] = LawError(LENS_LAW, last.hooks["resid_post"], error)
    return list(worst.values())


def _sinks(trace: Trace, tolerance: float) -> str:
    """How much attention goes to no token: a sink is part of the softmax, but has no value."""
    rows = [t.pattern.sum(-1) for t in trace.layers.values() if len(t.pattern)]
    lost = 1 - torch.cat(rows).min() if rows else torch.zeros(())
    if not lost > tolerance:
        return ""
    blocks = sum(bool((1 - row > tolerance).any()) for row in rows)
    return (
        f"rows of attention sum to less than 1 in {blocks} of {len(rows)} blocks: up to "
        f"{float(lost):.0%} of a head's attention goes to no token"
    )


def _broken(view: ModelView, trace: Trace, laws: list[LawError], tolerance: float) -> str | None:
    """The message for the first law that does not hold; an error of NaN does not hold."""
    for law in laws:
        if not law.error <= tolerance:
            return (
                f"{law.law} is off by {law.error:.2g} of the whole at {law.hook} "
                f"(tolerance {tolerance:.0e}){_cause(view, trace, law)}"
            )
    return None


def _cause(view: ModelView, trace: Trace, law: LawError) -> str:
    """The likely cause of a law's failure, as the end of its message."""
    if law.law == LENS_LAW:
        own = conserve.own_logits(trace)
        assert own is not None
        return conserve.lens_cause(view, trace.layers[view.n_layers - 1].resid_post, own)
    layer = int(law.hook.split(".")[1])
    t = trace.layers[layer]
    return conserve.cause(view, layer, t, components.stream_weights(view, layer, t), law.law)


def _missing(view: ModelView, ids: list[int]) -> tuple[str, ...]:
    """Standard hooks of the first block that are not there or do not fire."""
    wanted = [f"blocks.0.{name}" for name in _standard_hooks(view)]
    fired: set[str] = set()

    def note(name: str) -> Any:
        return lambda tensor, hook: fired.add(name)

    present = [(name, note(name)) for name in wanted if view.has_hook(name)]
    view.run(torch.tensor([ids], device=view.W_U.device), present)
    return tuple(name for name in wanted if name not in fired)


def _standard_hooks(view: ModelView) -> Iterator[str]:
    """The hooks that TransformerLens documents for a block of this kind."""
    parts = view.parts[0]
    yield from (name for name in _STATES if parts.between or name != "hook_resid_mid")
    if parts.attention:
        yield "hook_attn_out"
        yield from (f"attn.{name}" for name in _ATTENTION)
        if view.rotary:
            yield from (f"attn.{name}" for name in _ROTARY)
    if parts.mlp == "neurons":
        yield from ("mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")
        if view.gated_at(0):
            yield "mlp.hook_pre_linear"
    elif parts.mlp_out not in (None, "difference"):
        yield str(parts.mlp_out)


def _patching(view: ModelView, ids: list[int]) -> str:
    """The way in which patched runs are run, tried by patching block 0 at the last position."""
    kept = KeptRun(view, view.tokens.encode(ids, None))
    change = Write("blocks.0.hook_resid_pre", (len(ids) - 1,), torch.zeros(view.d_model))
    replay = Replay(kept, quiet=True)
    for _ in replay.run([[change]]):
        pass
    way = {
        "rows": "rows: only the positions and blocks that a change can reach are run",
        "blocks": "blocks (slow): all positions are run",
        "model": "model (slow): the whole model is run for each change",
    }[replay.way]
    return way if replay.reason is None else f"{way}, because {replay.reason}"


def _generation(view: ModelView, ids: list[int]) -> str:
    """Compare `model.generate` with whole forward passes, and describe the result."""
    prompt, allowed = ids[: max(1, view.n_ctx - NEW_TOKENS)], conserve.tolerance(view)
    try:
        error = generation_error(view, prompt)
    except Exception as failed:  # not every model can generate, and each fails in its own way
        return f"not tried: model.generate failed with {type(failed).__name__}: {failed}"
    if error <= allowed:
        return f"model.generate says what the model says (off by {error:.1e})"
    remedy = "visit_tl.generate is right"
    with contextlib.suppress(Exception):
        if generation_error(view, prompt, use_past_kv_cache=False) <= allowed:
            remedy += ", and so is model.generate(..., use_past_kv_cache=False)"
    return (
        f"WRONG: model.generate is off by {error:.1e} of the largest logit, because the model's "
        f"own cache of keys and values loses earlier tokens; {remedy}"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
