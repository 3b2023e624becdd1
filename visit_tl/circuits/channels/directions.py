"""`channel`: the singular directions through which one head's weights read what another writes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visit_tl.arguments.checked import checked
from visit_tl.arguments.vocabulary import Count, Model, Spelled, Whole
from visit_tl.arguments.vocabulary import HeadInput as Kind
from visit_tl.circuits.channels.channel_result import Channel, Words
from visit_tl.circuits.channels.composition import sides
from visit_tl.circuits.channels.weights import head_factors, rotations
from visit_tl.errors import InputError
from visit_tl.graph.circuit_parts import HEAD_INPUTS, Edge, Part
from visit_tl.lens.readout import read
from visit_tl.model.view import ModelView

_K = 5


@checked
def channel(
    model: Model,
    writer: Spelled,
    reader: Spelled,
    kind: Kind,
    *,
    n: Count = 5,
    offset: Whole = 0,
) -> Channel:
    """The singular value decomposition of the product through which one head talks to another.

    The product is that of the composition score: `W_OV` of the writer times the reader's `W_QK`
    (q), its transpose (k) or its `W_OV` (v), each with norms folded in as in `composition_scores`
    (docs/maths.md, "Channels"; after Merullo et al. 2024). Its rank is at most d_head, and it is
    decomposed as a d_head x d_head matrix, in float64.

    Args:
        model: As for `flow_graph`, or a `ModelView`.
        writer: The head that writes, such as `L16H0`.
        reader: The head that reads, in a later block.
        kind: `q`, `k` or `v`: which input of the reader.
        n: How many directions are read as words; all are kept as numbers.
        offset: As for `composition_scores`.

    Raises:
        InputError: a head is not one of the model, the reader is not later, the kind is unknown or
            n is larger than d_head.
        GraphError: the name of a head cannot be read.
    """
    view = model if isinstance(model, ModelView) else ModelView(model)
    view.require_attention("a channel")
    edge = _edge_of(view, writer, reader, kind)
    if n > view.d_head:
        raise InputError(f"n is {n}, but a channel has at most {view.d_head} directions (d_head)")
    turned = rotations(view, offset)
    first, second = (
        head_factors(view, end.layer or 0, rotation=turned[end.layer or 0], dtype=torch.float64)
        for end in (edge.source, edge.target)
    )
    near, far = (side[edge.target.head] for side in sides(second, kind))
    W_V, W_O = first.W_V[edge.source.head], first.W_O[edge.source.head]
    Q_left, R_left = torch.linalg.qr(W_V)
    Q_right, R_right = torch.linalg.qr(far.mT)
    U, S, Vh = torch.linalg.svd(R_left @ (W_O @ near) @ R_right.mT)
    left, right = (Q_left @ U).mT, (Q_right @ Vh.mT).mT
    left, right, U, V = _signed(left, right, U, Vh.mT)
    own = torch.linalg.matrix_norm(R_left @ W_O) * torch.linalg.matrix_norm(near @ R_right.mT)
    written = left @ W_V @ W_O
    return Channel(
        model=view.name,
        edge=edge,
        offset=offset,
        singular_values=S.cpu().numpy(),
        norms=float(own),
        left=_array(left),
        written=_array(written),
        right=_array(right),
        words=_words(view, left[:n], written[:n], right[:n]),
        from_z=_array(torch.linalg.pinv(R_left) @ U),
        from_far=_array(torch.linalg.pinv(R_right) @ V),
        source=view,
    )


def _edge_of(view: ModelView, writer: object, reader: object, kind: str) -> Edge:
    if kind not in HEAD_INPUTS:
        raise InputError(f"the kind of a channel is q, k or v, the input that reads; got {kind!r}")
    ends = [Part.parse(one) for one in (writer, reader)]
    for end, role in zip(ends, ("writer", "reader"), strict=True):
        if end.kind != "head":
            raise InputError(f"the {role} is a head such as L9H6, got {end}")
        if end.layer >= view.n_layers or end.head >= view.n_heads:  # type: ignore[operator]
            raise InputError(
                f"{view.name} has {view.n_layers} blocks of {view.n_heads} heads, so there is no "
                f"{end} to be the {role}"
            )
    if ends[0].layer >= ends[1].layer:  # type: ignore[operator]
        raise InputError(
            f"the reader must be in a later block than the writer, but {ends[1]} cannot read what "
            f"{ends[0]} writes; exchange them, or choose a later reader"
        )
    return Edge(ends[0], ends[1], kind)


def _signed(left: Tensor, right: Tensor, U: Tensor, V: Tensor) -> tuple[Tensor, ...]:
    """Both sides with the sign in which the largest entry of the left one is positive."""
    largest = left.gather(1, left.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(left)
    return left * sign, right * sign, U * sign.T, V * sign.T


def _words(view: ModelView, *sides: Tensor) -> tuple[Words, ...]:
    """The top tokens of each direction and of its opposite, for each of the first directions."""
    n = len(sides[0])
    stack = torch.cat([*sides, *(-side for side in sides)])
    sizes = torch.linalg.vector_norm(stack, dim=-1, keepdim=True).clamp_min(1e-30)
    # At the length of a normalised state, where the eps of the final norm is nothing.
    out = read(view, (stack / sizes * view.d_model**0.5).float(), k=min(_K, view.d_vocab))
    texts = [tuple(map(view.tokens.text, ids)) for ids in out.top_ids.tolist()]
    left, written, right, *minus = (texts[i * n : (i + 1) * n] for i in range(6))
    return tuple(Words(*both) for both in zip(left, written, right, *minus, strict=True))


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
