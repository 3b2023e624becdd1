"""What every part of the model wrote to the residual stream at one position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from visit_tl.errors import DecompositionError
from visit_tl.graph.ids import NodeId
from visit_tl.model import components
from visit_tl.model.standing_hooks import left_on
from visit_tl.model.trace import Trace
from visit_tl.model.view import ModelView
from visit_tl.xray.conservation import relative, tolerance

EMBED: Final = "embed"
POS_EMBED: Final = "pos_embed"


@dataclass(frozen=True, eq=False)
class StreamParts:
    """The terms of the residual stream at one position, in the order of the forward pass.

    Attributes:
        names: `embed`, `pos_embed` where positions are learned, heads, `L3.b_O`, `L3.mlp_out`, and
            `L3.opaque` where a part was not opened.
        rows: What each of them wrote, after post-norms.
        ends: By block, how many of them its attention reads.
    """

    names: tuple[str, ...]
    rows: Float[Tensor, "part d_model"]
    ends: tuple[int, ...]

    def before(self, layer: int) -> tuple[tuple[str, ...], Float[Tensor, "part d_model"]]:
        """The parts that a block's attention reads."""
        return self.names[: self.ends[layer]], self.rows[: self.ends[layer]]


def stream_parts(view: ModelView, trace: Trace) -> StreamParts:
    """Take the residual stream at a trace's position apart.

    Raises:
        DecompositionError: the parts do not sum to the stream that enters a block.
    """
    first = trace.layers[0].resid_pre
    both, limit = trace.embeddings, tolerance(view)
    if both is not None and relative(both.sum(0), first) <= limit:
        names, rows = [EMBED, POS_EMBED], [both]
    elif both is not None:
        names, rows = [f"{EMBED} + {POS_EMBED}"], [first[None]]
    else:
        names, rows = [EMBED], [first[None]]
    stream, ends = rows[0].sum(0), []
    with torch.no_grad():
        for layer in range(view.n_layers):
            t = trace.layers[layer]
            if not (error := relative(stream, t.resid_pre)) <= limit:
                raise DecompositionError(
                    f"the embedding, heads and MLPs of {view.name} before block {layer} sum to "
                    f"{t.hooks['resid_pre']} only up to {error:.2g} of it (tolerance {limit:.0e}) "
                    f"at position {trace.position}; no attention score can be taken apart"
                    f"{left_on(view.model)}"
                )
            ends.append(len(names))
            w = components.stream_weights(view, layer, t)
            heads = components.head_outputs(t.z, w.W_O)
            added = [heads]
            names += [str(NodeId("head", layer, h)) for h in range(len(heads))]
            for kind, row in (("b_O", w.b_O), ("opaque", t.opaque), ("mlp_out", t.mlp_out)):
                if row is not None:
                    added.append(row[None])
                    names.append(str(NodeId(kind, layer)))  # type: ignore[arg-type]
            rows += added
            stream = stream + torch.cat(added).sum(0)
    return StreamParts(tuple(names), torch.cat(rows), tuple(ends))


def neuron_rows(
    view: ModelView, trace: Trace, layer: int, neurons: Int[Tensor, " neuron"]
) -> Float[Tensor, "neuron d_model"]:
    """What some neurons of one MLP wrote, after a post-norm."""
    t = trace.layers[layer]
    w = components.stream_weights(view, layer, t)
    assert w.W_out is not None and t.mlp_post is not None
    return t.mlp_post[neurons, None] * w.W_out[neurons]


def neuron_shares(
    view: ModelView,
    trace: Trace,
    layers: Sequence[int],
    direction: Float[Tensor, " d_model"],
) -> list[Float[Tensor, " d_mlp"]]:
    """For each of these blocks, the product of what every neuron wrote with a direction."""
    found = []
    for layer in layers:
        t = trace.layers[layer]
        w = components.stream_weights(view, layer, t)
        if w.W_out is not None and t.mlp_post is not None:
            found.append(t.mlp_post * (w.W_out @ direction))
    return found
