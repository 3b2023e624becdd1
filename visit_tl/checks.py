"""Whether a model can be X-rayed exactly: what it is, and how well each law holds on it.

A model that is refused is a result here and not an error: the reason is the verdict.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import torch

from visit_tl import components
from visit_tl.errors import VisitError
from visit_tl.graph import conserve
from visit_tl.model.norm import read_norm
from visit_tl.model.view import ModelView
from visit_tl.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

LENS_LAW: Final = "lens of the last resid_post = logits"
_TOKENS: Final = 8
# TransformerLens's own names for what a block shows of itself.
_STATES: Final = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_ATTENTION: Final = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
_ROTARY: Final = ("hook_rot_q", "hook_rot_k")
_UNKNOWN: Final = "unknown"


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
    """What a model is, and whether its parts sum to its wholes.

    Attributes:
        model: Its name.
        class_name: The class that holds it.
        transformer_lens: The installed release.
        n_layers: Number of blocks; None where it has none.
        norm: Kind of its norms, and where they stand.
        positions: How it knows the order of tokens.
        attention: Heads, K/V heads, and the window of local blocks where it is known.
        mlp: Kind of its MLP and the activation.
        blocks: Whether attention and MLP follow each other or stand side by side.
        dtype: Of its parameters.
        laws: Each law that could be measured, in the order of a block, the lens last.
        missing: Hooks of the first block that TransformerLens names but that are not there or did
            not fire; a graph may do without some of them. None if that could not be tried.
        tolerance: The relative error up to which a law holds, for this dtype; None if refused
            before any number was known.
        reason: Why the model is refused; None if it is not.
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

    @property
    def exact(self) -> bool:
        """Whether a graph of this model can be trusted."""
        return self.reason is None

    @property
    def verdict(self) -> str:
        """`exact`, or `refused: ` and the reason."""
        return "exact" if self.reason is None else f"refused: {self.reason}"

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
            ("layers", _UNKNOWN if self.n_layers is None else str(self.n_layers)),
            ("norm", self.norm),
            ("positions", self.positions),
            ("attention", self.attention),
            ("MLP", self.mlp),
            ("blocks", self.blocks),
            ("dtype", self.dtype),
        ]

    def rows(self) -> list[tuple[str, str]]:
        """What is shown: names and values, top to bottom."""
        laws = [(law.law, f"{law.error:.1e} at {law.hook}") for law in self.laws]
        tolerance = [] if self.tolerance is None else [("tolerance", f"{self.tolerance:.0e}")]
        hooks = "not tried" if self.missing is None else ", ".join(self.missing) or "none"
        ends = [("hooks missing", hooks), ("verdict", self.verdict)]
        return [*self.facts(), *laws, *tolerance, *ends]

    def to_dataframe(self) -> pd.DataFrame:
        """One row, with the model as its index: put several together with `pandas.concat`."""
        import pandas as pd

        row: dict[str, Any] = dict(self.facts()) | {law.law: law.error for law in self.laws}
        row |= {"tolerance": self.tolerance, "max_error": self.max_error}
        row |= {"hooks missing": self.missing, "exact": self.exact, "verdict": self.verdict}
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


def check(model: Any) -> CheckReport:
    """Take a model apart on a short prompt and measure how well its parts sum to its wholes.

    Every block is measured at the last of up to eight tokens, spread over the vocabulary. The model
    is left as it was.

    Args:
        model: A HookedTransformer or TransformerBridge, or what `load_model` gives.

    Returns:
        What was found. A model that cannot be taken apart is no error: the verdict says why.
    """
    laws: list[LawError] = []
    missing: tuple[str, ...] | None = None
    tolerance: float | None = None
    reason: str | None = None
    try:
        view = ModelView(model)
        tolerance = conserve.tolerance(view)
        ids = _prompt(view)
        missing = _missing(view, ids)
        trace = Trace.run(view, view.tokens.encode(ids, None))
        laws = _laws(view, trace)
        reason = _broken(laws, tolerance)
    except VisitError as error:
        reason = _one_line(str(error))
    except Exception as error:
        # Whatever a model does that it should not is a reason not to trust its graph.
        reason = _one_line(f"{type(error).__name__}: {error}")
    return CheckReport(
        class_name=type(model).__name__,
        transformer_lens=_release(),
        laws=tuple(laws),
        missing=missing,
        tolerance=tolerance,
        reason=reason,
        **_facts(model),
    )


# --- measuring -----------------------------------------------------------------------------------


def _prompt(view: ModelView) -> list[int]:
    """Up to eight ids from all over the vocabulary, behind a BOS where the tokenizer has one."""
    size, n = int(view.model.cfg.d_vocab), min(_TOKENS, view.n_ctx)
    bos = getattr(getattr(view.model, "tokenizer", None), "bos_token_id", None)
    first = [bos] if isinstance(bos, int) and 0 <= bos < size else []
    return (first + [(2 * i + 1) * size // (2 * n) for i in range(n)])[:n]


def _laws(view: ModelView, trace: Trace) -> list[LawError]:
    """Each law with its largest error over the blocks, then the lens."""
    worst: dict[str, LawError] = {}
    for layer, t in trace.layers.items():
        weights = components.stream_weights(view, layer, t)
        for law, hook, error in conserve.laws(view, t, weights):
            if law not in worst or not error <= worst[law].error:
                worst[law] = LawError(law, hook, error)
    last = trace.layers[view.n_layers - 1]
    if trace.logits is not None:
        error = conserve.lens_error(view, last.resid_post, trace.logits)
        worst[LENS_LAW] = LawError(LENS_LAW, last.hooks["resid_post"], error)
    return list(worst.values())


def _broken(laws: list[LawError], tolerance: float) -> str | None:
    """What the first law that does not hold has to say; NaN holds nowhere."""
    for law in laws:
        if not law.error <= tolerance:
            return (
                f"{law.law} is off by {law.error:.2g} of the whole at {law.hook} "
                f"(tolerance {tolerance:.0e})"
            )
    return None


def _missing(view: ModelView, ids: list[int]) -> tuple[str, ...]:
    """Standard hooks of the first block that are not there or stay silent."""
    wanted = [f"blocks.0.{name}" for name in _standard_hooks(view)]
    fired: set[str] = set()

    def note(name: str) -> Any:
        return lambda tensor, hook: fired.add(name)

    present = [(name, note(name)) for name in wanted if view.has_hook(name)]
    with torch.no_grad():
        view.model.run_with_hooks(torch.tensor([ids], device=view.W_U.device), fwd_hooks=present)
    return tuple(name for name in wanted if name not in fired)


def _standard_hooks(view: ModelView) -> Iterator[str]:
    """What TransformerLens's documentation promises of a block of this kind."""
    between = not (view.parallel or view.attn_only)
    yield from (name for name in _STATES if between or name != "hook_resid_mid")
    yield "hook_attn_out"
    yield from (f"attn.{name}" for name in _ATTENTION)
    if view.rotary:
        yield from (f"attn.{name}" for name in _ROTARY)
    if not view.attn_only:
        yield from ("mlp.hook_pre", "mlp.hook_post", "hook_mlp_out")
        if view.gated:
            yield "mlp.hook_pre_linear"


# --- what the model is ---------------------------------------------------------------------------


def _facts(model: Any) -> dict[str, Any]:
    """What can be said of a model, refused or not, from its configuration and its modules."""
    cfg = getattr(model, "cfg", None)
    blocks = list(getattr(model, "blocks", None) or ())
    parallel = getattr(cfg, "parallel_attn_mlp", None)
    order = _UNKNOWN if parallel is None else "parallel" if parallel else "sequential"
    attn_only = bool(getattr(cfg, "attn_only", False))
    return {
        "model": str(getattr(cfg, "model_name", None) or type(model).__name__),
        "n_layers": len(blocks) or None,
        "norm": _norms(cfg, blocks),
        "positions": _positions(cfg),
        "attention": _attention(cfg, blocks),
        "mlp": "none" if attn_only else _mlp(cfg, blocks),
        "blocks": "attention only" if attn_only else order,
        "dtype": _dtype(model),
    }


def _norms(cfg: Any, blocks: list[Any]) -> str:
    """Such as `RMS before and after each sub-block, query and key norms`."""
    if not blocks:
        return str(getattr(cfg, "normalization_type", None) or _UNKNOWN)
    before, after = _norm(blocks[0], "ln1"), _norm(blocks[0], "ln1_post")
    kind = before if before != "none" else after
    where = [
        word
        for word, found in (("before", before), ("after", after))
        if found not in ("none", _UNKNOWN)
    ]
    text = f"{kind} {' and '.join(where)} each sub-block" if where else kind
    queries = getattr(getattr(blocks[0], "attn", None), "q_norm", None)
    return text if queries is None else f"{text}; query and key norms"


def _norm(block: Any, name: str) -> str:
    try:
        return read_norm(getattr(block, name, None), 0.0).kind
    except VisitError:
        return _UNKNOWN


def _positions(cfg: Any) -> str:
    kind = getattr(cfg, "positional_embedding_type", None)
    return {"standard": "learned", None: _UNKNOWN}.get(kind, str(kind))


def _attention(cfg: Any, blocks: list[Any]) -> str:
    """Such as `32 heads, 8 K/V heads, 13 of 26 blocks local (window 4096)`."""
    heads = getattr(cfg, "n_heads", None)
    if heads is None:
        return _UNKNOWN
    shared = getattr(cfg, "n_key_value_heads", None) or heads
    text = f"{heads} heads, {shared} K/V heads"
    windows = [_window(cfg, block, layer) for layer, block in enumerate(blocks)]
    local = [window for window in windows if window is not None]
    if not local:
        return text
    sizes = "/".join(str(size) for size in sorted(set(local)))
    return f"{text}, {len(local)} of {len(blocks)} blocks local (window {sizes})"


def _window(cfg: Any, block: Any, layer: int) -> int | None:
    """How far a block looks back; None where it sees everything, or where no one says."""
    attn = getattr(block, "attn", None)
    if getattr(attn, "attn_type", None) == "local":
        return getattr(cfg, "window_size", None)
    inner = getattr(attn, "original_component", None)
    own = getattr(inner, "sliding_window", None)
    if isinstance(own, int):
        return own
    theirs = getattr(inner, "config", None)
    kinds = getattr(theirs, "layer_types", None) or getattr(theirs, "attention_layers", None)
    size = getattr(theirs, "sliding_window", None) or getattr(theirs, "window_size", None)
    if not isinstance(size, int):
        return None
    if kinds is None:
        return size if getattr(theirs, "use_sliding_window", True) else None
    return size if layer < len(kinds) and kinds[layer] in ("sliding_attention", "local") else None


def _mlp(cfg: Any, blocks: list[Any]) -> str:
    """Such as `gated, silu`; the module knows the activation better than the configuration."""
    experts = getattr(cfg, "num_experts", None)
    if experts:
        return f"mixture of {experts} experts"
    gated = getattr(cfg, "gated_mlp", None)
    if gated is None:
        return _UNKNOWN
    kind = "gated" if gated else "plain"
    activation = _activation(cfg, getattr(blocks[0], "mlp", None) if blocks else None)
    return kind if activation is None else f"{kind}, {activation}"


def _activation(cfg: Any, mlp: Any) -> str | None:
    """The activation's name; `cfg.act_fn` says relu for BLOOM and Falcon, which have GELU."""
    inner = getattr(mlp, "original_component", None)
    for name in ("act_fn", "activation_fn", "act", "gelu_impl", "activation"):
        found = getattr(inner, name, None)
        if callable(found):
            plain = getattr(found, "__name__", None) or type(found).__name__
            return plain.removesuffix("Activation").removesuffix("Bridge") or None
    named = getattr(cfg, "act_fn", None)
    return named if isinstance(named, str) else None


def _dtype(model: Any) -> str:
    parameters = getattr(model, "parameters", None)
    if not callable(parameters):
        return _UNKNOWN
    found = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    return ", ".join(sorted(found)) or _UNKNOWN


def _release() -> str:
    try:
        return version("transformer-lens")
    except PackageNotFoundError:
        return _UNKNOWN


def _one_line(text: str) -> str:
    return " ".join(text.split())
