"""The gradients of one head as words, through the circuits of that head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.lens.readout import read
from visit_tl.model.components import grouped, key_readings, memory_values, query_readings
from visit_tl.model.view import ModelView
from visit_tl.xray.source_model import model_of

if TYPE_CHECKING:
    import pandas as pd

    from visit_tl.gradients.backward_lens_result import BackwardLens


def head_table(lens: BackwardLens, layer: int, head: int, k: int, model: Any) -> pd.DataFrame:
    """The table of `BackwardLens.heads`."""
    import pandas as pd

    lens.factors(layer, next(iter(lens.matrices)))  # whether the lens has the layer
    view = ModelView(model_of(lens, model))
    if not 0 <= head < view.n_heads:
        raise InputError(f"head {head} is outside 0..{view.n_heads - 1} of {view.name}")
    vectors = {
        part: rows[list(lens.positions)] for part, rows in _vectors(lens, view, layer, head).items()
    }
    stack = torch.cat(list(vectors.values()))
    lengths = torch.linalg.vector_norm(stack, dim=-1)
    there = lengths > 0
    readable = torch.where(there, lengths, 1.0)[:, None] if lens.normalised else 1.0
    out = read(view, stack / readable, [lens.target_id], k=min(max(k, 1), view.d_vocab))
    words = {
        side: [[view.tokens.text(int(i)) for i in row] for row in ids.tolist()]
        for side, ids in (("top", out.top_ids), ("bottom", out.bottom_ids))
    }
    places = [(part, i) for part in vectors for i in lens.positions]
    return pd.DataFrame(
        [
            {
                "part": part,
                "position": i,
                "token": lens.tokens[i],
                "norm": float(lengths[row]),
                "rank": int(out.target_ranks[row, 0]) if there[row] else -1,
                "top": words["top"][row][:k] if there[row] else [],
                "bottom": words["bottom"][row][:k] if there[row] else [],
            }
            for row, (part, i) in enumerate(places)
        ]
    )


def _vectors(lens: BackwardLens, view: ModelView, layer: int, head: int) -> dict[str, Tensor]:
    """What has d_head, mapped to the residual stream, `[pos, d_model]` each."""
    missing = [m for m in ("W_Q", "W_K", "W_V", "W_O") if m not in lens.matrices]
    if missing:
        raise InputError(
            f"a head's gradients need W_Q, W_K, W_V and W_O, and this lens has no "
            f"{', '.join(missing)}; ask for them with matrices="
        )
    weights, n = view.weights(layer), len(lens.tokens)
    W_K, W_O = weights.W_K, weights.W_O[head].expand(n, -1, -1)
    own = int(view.kv_head(len(W_K))[head])

    def part(matrix: str, which: str, index: int) -> Tensor:
        return getattr(lens.factors(layer, matrix), which).view(n, -1, view.d_head)[:, index]

    values = lens.factors(layer, "W_V").deltas.view(n, -1, view.d_head)
    return {
        "query": query_readings(part("W_Q", "deltas", head), W_K[own].expand(n, -1, -1)),
        "key": key_readings(part("W_K", "deltas", own), weights.W_Q[head].expand(n, -1, -1), None),
        "value": memory_values(grouped(values, view.kv_head(values.shape[1]))[head], W_O),
        "z": memory_values(part("W_O", "inputs", head), W_O),
    }
