"""Multi-head latent attention (DeepSeek, Youtu): queries, keys and values from compressed states.

A state x is compressed, normalised and expanded again: `v_h = N(x W_down) W_up^h`, and likewise the
part of keys and queries that has no position. A second part is rotated; that of keys is shared by
all heads. With the scale of N held at its value in the run, each head's query, key and value is a
matrix times x, as in other attention (docs/maths.md, "Latent attention"). Hooks show tensors
`[batch, head, pos, ...]`, after the rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.norm import Norm
from visit_tl.model.rotary_tables import HandedAngles
from visit_tl.model.rotation import Angles, Rotation
from visit_tl.model.view import ModelView

# Largest allowed error of a query made from the state and the weights, relative to the query.
# Measured on random Youtu and DeepSeek models in float32: 3e-7; half precision rounds by 1e-2.
_SAME: Final = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_SAME_FULL: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Projection:
    """A map from states to something of each head, through a normalised latent.

    Attributes:
        down: To the latent; None if there is none (queries of small models).
        norm: The norm of the latent; None likewise.
        up: From the latent, or from the state, to each head.
        down_bias: Added to the latent before its norm.
    """

    down: Float[Tensor, "d_model rank"] | None
    norm: Norm | None
    up: Float[Tensor, "head rank d_head"]
    down_bias: Float[Tensor, " rank"] | None

    def latent(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, " rank"]:
        """The latent of a state, before its norm."""
        assert self.down is not None
        return x @ self.down if self.down_bias is None else x @ self.down + self.down_bias

    def matrix(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, "head d_model d_head"]:
        """The matrix of each head, the scale of the norm held at its value for this state."""
        if self.down is None or self.norm is None:
            return self.up
        gain = self.norm.freeze(self.latent(x)).gain
        return einsum(self.down * gain, self.up, "d rank, head rank out -> head d out")

    def constant(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, "head d_head"]:
        """What the bias of the latent adds for each head, likewise."""
        if self.down_bias is None or self.norm is None:
            return self.up.new_zeros(self.up.shape[0], self.up.shape[2])
        bias = self.norm.freeze(self.latent(x)).gain * self.down_bias
        return einsum(bias, self.up, "rank, head rank out -> head out")


@dataclass(frozen=True, eq=False)
class LatentWeights:
    """The weights of one block's latent attention, float32.

    Attributes:
        queries: To whole queries, the rotated part last.
        keys: To the part of keys without positions.
        rotated_keys: To the rotated part of keys, shared by all heads.
        rotated_bias: Added to that part.
        values: To values.
    """

    queries: Projection
    keys: Projection
    rotated_keys: Float[Tensor, "d_model rotary"]
    rotated_bias: Float[Tensor, " rotary"] | None
    values: Projection

    def W_K(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, "head d_model d_head"]:
        """The key matrix of each head at a state: the part without positions, then the other."""
        plain = self.keys.matrix(x)
        shared = self.rotated_keys.expand(len(plain), -1, -1)
        return torch.cat((plain, shared), dim=-1)

    def b_K(self, x: Float[Tensor, " d_model"]) -> Float[Tensor, "head d_head"]:
        """What biases add to the keys, the scale of the norm held at its value for this state."""
        plain = self.keys.constant(x)
        rotary = self.rotated_keys.shape[1]
        shared = plain.new_zeros(rotary) if self.rotated_bias is None else self.rotated_bias
        return torch.cat((plain, shared.expand(len(plain), -1)), dim=-1)


def latent_weights(view: ModelView, layer: int) -> LatentWeights:
    """The weights of a block whose attention is latent.

    Raises:
        ModelError: they are not of the shapes that such attention has.
    """
    attn, where = view.model.blocks[layer].attn, f"blocks.{layer}.attn of {view.name}"
    inner = attn.original_component

    def weight(name: str) -> Tensor:
        part = getattr(attn, name, None) or getattr(inner, name)
        shown = view.adapters.shown(_owner(part), "weight")
        if not isinstance(shown, Tensor) or shown.ndim != 2 or not shown.is_floating_point():
            raise ModelError(f"{name} of {where} has no readable weight; it is perhaps quantised")
        return shown.detach().float().T

    def there(name: str) -> bool:
        part = _owner(getattr(inner, name, None))
        return isinstance(getattr(part, "weight", None), Tensor)

    def bias(name: str) -> Tensor | None:
        part = _owner(getattr(attn, name, None) or getattr(inner, name))
        found = getattr(part, "bias", None)
        return found.detach().float() if isinstance(found, Tensor) and bool(found.any()) else None

    def heads(matrix: Tensor) -> Tensor:
        return rearrange(matrix, "d (head out) -> head d out", head=view.n_heads)

    kv_norm = view.read_norm(inner.kv_a_layernorm)
    down, rank = weight("kv_a_proj_with_mqa"), _rank(kv_norm, where)
    expanding = [name for name in ("q_proj", "q_b_proj", "kv_b_proj") if there(name)]
    biases = [name for name in expanding if bias(name) is not None]
    down_bias = bias("kv_a_proj_with_mqa")
    if biases:
        raise ModelError(
            f"{', '.join(biases)} of {where} has a bias of queries, keys or values, which is not "
            f"read; this model is refused"
        )
    rotated_bias = None if down_bias is None else down_bias[rank:]
    down_bias = None if down_bias is None else down_bias[:rank]
    if there("q_a_proj"):
        q_norm = view.read_norm(inner.q_a_layernorm)
        up = heads(weight("q_b_proj"))
        queries = Projection(weight("q_a_proj"), q_norm, up, bias("q_a_proj"))
    else:
        queries = Projection(None, None, heads(weight("q_proj")), None)
    rotary = down.shape[1] - rank
    expanded = heads(weight("kv_b_proj"))
    plain = queries.up.shape[-1] - rotary
    if not 0 < rotary < queries.up.shape[-1] or expanded.shape[-1] <= plain:
        raise ModelError(
            f"{where} has queries of {queries.up.shape[-1]} entries and {rotary} rotated ones; its "
            f"latent attention has a shape that is not known, so this model is refused"
        )
    compressed = down[:, :rank]
    return LatentWeights(
        queries,
        Projection(compressed, kv_norm, expanded[..., :plain], down_bias),
        down[:, rank:],
        rotated_bias,
        Projection(compressed, kv_norm, expanded[..., plain:], down_bias),
    )


def _owner(part: Any) -> Any:
    inner = getattr(part, "original_component", None)
    return part if inner is None else inner


def _rank(norm: Norm, where: str) -> int:
    if norm.weight is None:
        raise ModelError(f"the norm of the latent of {where} has no gain; its size is not known")
    return norm.weight.numel()


def read_latent(
    view: ModelView,
    layer: int,
    position: int,
    read: dict[str, Tensor],
    handed: HandedAngles,
) -> dict[str, object]:
    """Put queries, keys and values of a block into `read`, and return what made them so.

    Args:
        view: The model.
        layer: The block.
        position: The position of the trace.
        read: What its hooks show: `latent_query`, `latent_keys`, `latent_values`, `attn_in`.
        handed: Finds rotary angles among what the model passes to its blocks.

    Raises:
        ModelError: the weights do not give the queries and keys that the hooks show.
    """
    weights = latent_weights(view, layer)
    x = read.get("attn_in")
    x = view.norm(layer, "ln1")(read["resid_pre"]) if x is None else x
    scored, keys = read["latent_query"], read["latent_keys"]
    W_Q, W_K = weights.queries.matrix(x), weights.W_K(x)
    b_Q, b_K = weights.queries.constant(x), weights.b_K(x)
    query = einsum(x, W_Q, "d, head d out -> head out") + b_Q
    key = einsum(x, W_K, "d, head d out -> head out") + b_K
    rotary = weights.rotated_keys.shape[-1]
    tables = [(read["cos"], read["sin"])] if "cos" in read else handed(layer)
    allowed = _SAME.get(view.W_U.dtype, _SAME_FULL)
    worst = torch.inf
    for rotation, order in _ways(tables, position, rotary, query.shape[-1]):
        turned = rotation.forward(query[:, order]), rotation.forward(key[:, order])
        error = max(_off(turned[0], scored), _off(turned[1], keys[position]))
        worst = min(worst, error)
        if error <= allowed:
            read["query"], read["keys"] = rotation.inverse(scored), keys
            read["values"], read["z"] = read["latent_values"], view.by_head(layer, read["z"])
            return {
                "rotation": rotation,
                "query_norm": None,
                "key_norm": None,
                "heads_norm": None,
                "latent": tuple(part[..., order] for part in (W_Q, W_K, b_Q, b_K)),
            }
    raise ModelError(
        f"the weights of the latent attention of blocks.{layer} of {view.name} do not give the "
        f"queries and keys that its hooks show (off by {worst:.2g}), with pairs of adjacent "
        f"dimensions or halves; its queries and keys cannot be read, so this model is refused"
    )


def _ways(
    tables: list[Angles], position: int, rotary: int, width: int
) -> list[tuple[Rotation, Tensor]]:
    """Rotations of the last entries of a head, and the order in which the weights give these.

    DeepSeek 3 stores pairs side by side and puts them in halves before it rotates them.
    """
    found: list[tuple[Rotation, Tensor]] = []
    plain = torch.arange(width)
    start = width - rotary
    paired = torch.cat((plain[:start], plain[start::2], plain[start + 1 :: 2]))
    for cos, sin in tables:
        half = cos.shape[-1] if 2 * cos.shape[-1] == rotary else cos.shape[-1] // 2
        if 2 * half != rotary:
            continue
        one, two = cos[position, :half], sin[position, :half]
        halves = Rotation(torch.cat((one, one)), torch.cat((two, two)), False, last=True)
        pairs = Rotation(one.repeat_interleave(2), two.repeat_interleave(2), True, last=True)
        found += [(halves, plain), (halves, paired), (pairs, plain)]
    return found


def _off(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return torch.inf
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
