"""From the product of a query and a key to the attention score: scale, softcap, linear biases.

None of these is taken from the configuration on trust: of all that a model may do, what reproduces
its own attention is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.attention_scores import softcaps
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import tolerance


@dataclass(frozen=True)
class ScoreFormula:
    """How a block makes scores: `scale q . k + slope (key - origin)`, then a cap, if there is one.

    Attributes:
        scale: The factor of `q . k`.
        cap: The limit c of `c tanh(score / c)`; None where there is none.
        slopes: By head, the slope of the linear bias (ALiBi), its own scale included; None where
            there is none.
        relative: Whether the origin of that bias is the query's position; else it is position 0.
    """

    scale: float
    cap: float | None = None
    slopes: tuple[float, ...] | None = None
    relative: bool = False

    def bias(self, head: int, query: int, key: int) -> float | None:
        """What the position alone adds to a score; None where there is no linear bias."""
        if self.slopes is None:
            return None
        return self.slopes[head] * (key - (query if self.relative else 0))

    def capped(self, score: float) -> float | None:
        """The score after the cap; None where there is none."""
        return None if self.cap is None else self.cap * math.tanh(score / self.cap)

    def scores(self, products: Float[Tensor, "head key"], query: int) -> Float[Tensor, "head key"]:
        """The scores before the softmax, from the products of queries and keys."""
        scores = self.scale * products
        if self.slopes is not None:
            places = torch.arange(products.shape[1], device=products.device).double()
            places = places - (query if self.relative else 0)
            scores = scores + torch.tensor(self.slopes).to(scores)[:, None] * places
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)


def formula_of(view: ModelView, layer: int, traces: Sequence[Trace]) -> ScoreFormula:
    """The formula of a block's scores that reproduces its attention at some positions.

    A position that sees one key tells nothing; if all do, the first positions of some other prompt
    are run.

    Args:
        view: The model.
        layer: The block.
        traces: The positions.

    Raises:
        ModelError: no formula does.
    """
    if str(getattr(view.model.cfg, "positional_embedding_type", "")) == "shortformer":
        raise ModelError(
            f"{view.name} adds its positions to queries and keys after ln1 (shortformer); its "
            f"attention scores cannot be taken apart"
        )
    telling = [t for t in traces if int((t.layers[layer].pattern > 0).sum(-1).max()) > 1]
    if not telling:
        ids = list(range(min(8, view.d_vocab, view.n_ctx)))
        telling = [Trace.run(view, view.encode(ids, False))]
    rows = [(t, products(view, t, layer)) for t in telling]
    rounded = view.W_U.dtype in (torch.bfloat16, torch.float16)
    tried = [
        (_misfit(f, rows, layer, rounded), i, f) for i, f in enumerate(_candidates(view, layer))
    ]
    misfit, _, formula = min(tried)
    # Of formulas that fit alike, the first is the usual one.
    near = [f for error, _, f in tried if error <= 2 * misfit and error <= tolerance(view)]
    if not near:
        raise ModelError(
            f"no scale, softcap or linear bias that visit_tl knows turns the queries and keys of "
            f"blocks.{layer} of {view.name} into its attention (the best is off by {misfit:.2g}, "
            f"tolerance {tolerance(view):.0e}), so its scores cannot be taken apart"
            f"{left_on(view.model)}"
        )
    return near[0] if near else formula


def _candidates(view: ModelView, layer: int) -> Iterator[ScoreFormula]:
    caps = (*softcaps(view), None)
    bridged = hasattr(view.model.blocks[layer].attn, "original_component")
    alibi = getattr(view.model.cfg, "positional_embedding_type", None) == "alibi"
    for scale in _scales(view, layer):
        for cap in caps:
            if alibi:
                # Falcon multiplies the bias by the scale too.
                for factor in (1.0, scale):
                    slopes = tuple(factor * slope for slope in alibi_slopes(view.n_heads))
                    yield ScoreFormula(scale, cap, slopes, relative=not bridged)
            else:
                yield ScoreFormula(scale, cap)


def _scales(view: ModelView, layer: int) -> list[float]:
    """Scales that models use, without repeats, this model's own first."""
    cfg, attn = view.model.cfg, view.model.blocks[layer].attn
    own = getattr(getattr(attn, "original_component", None), "scaling", None)
    divided = getattr(cfg, "attn_scale", None) if getattr(cfg, "use_attn_scale", True) else 1.0
    usual = [float(own)] if isinstance(own, int | float) and own > 0 else []
    usual += [1 / divided] if isinstance(divided, int | float) and divided > 0 else []
    usual += [view.d_head**-0.5, 1.0]
    usual += [scale / (layer + 1) for scale in usual]
    return list(dict.fromkeys(usual))


def alibi_slopes(n_heads: int) -> tuple[float, ...]:
    """The slopes of linear biases, by head (Press et al. 2022)."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2 ** (-4 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return tuple(slopes + between[: n_heads - power])


def products(view: ModelView, trace: Trace, layer: int) -> Float[Tensor, "head key"]:
    """`q . k` of every head and key at a trace's position, as the model scored them."""
    t = trace.layers[layer]
    queries = t.query if t.rotation is None else t.rotation.forward(t.query)
    keys = t.keys[:, view.kv_head(t.keys.shape[1]).to(t.keys.device)]
    return einsum(queries.double(), keys.double(), "head d, key head d -> head key")


def _misfit(
    formula: ScoreFormula, rows: Sequence[tuple[Trace, Tensor]], layer: int, rounded: bool
) -> float:
    """The largest distance of log-attention from scores, up to a constant for each head.

    It is relative to log-attention without that constant. A model in half precision rounds each
    score and the attention by a share of themselves, so there it is relative to their size.
    """
    worst = 0.0
    for trace, products in rows:
        attention = trace.layers[layer].pattern.double()
        seen = attention > 1e-30  # smaller numbers are not rounded like the others
        count = seen.sum(-1, keepdim=True).clamp_min(1)
        pair = []
        for x in (formula.scores(products, trace.position), attention.clamp_min(1e-30).log()):
            x = torch.where(seen, x, 0.0)
            pair.append(torch.where(seen, x - x.sum(-1, keepdim=True) / count, 0.0))
        size = pair[1].norm().clamp_min(1e-3)
        if rounded:
            scores = formula.scores(products, trace.position).abs()
            size = torch.where(seen, scores.clamp_min(1.0), 0.0).norm().maximum(size)
        off = (pair[0] - pair[1]).norm() / size
        worst = max(worst, float(off))
    return worst
