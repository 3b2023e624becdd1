"""How queries and keys become what attention scores: rotary positions, and norms before or after.

Models differ in which dimensions form a pair, in how their tables are laid out, in the direction,
and in whether norms of queries and keys come before the rotation or after it. All of these are
tried, and the first that gives what the model computed is used (docs/maths.md, "Keys").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from visit_tl.errors import ModelError
from visit_tl.model.rotation import Angles, Rotation

# Largest allowed error of a rotated query. Measured over SmolLM2-135M (30 layers) and seven random
# architectures in float32: the right pairing reproduces the rotated query to the bit, the wrong one
# is off by at least 0.21. Half precision rounds by about 4e-3.
_SAME = 1e-2
# Largest allowed misfit of attention. Measured over random GPT-J, NeoX and Falcon: 1e-6 in float32
# for the right pairing, at least 0.59 for the wrong one.
_PATTERN = 5e-2

# Attention below this is a rounding error, or masked.
_SEEN = 1e-6
# Fewer numbers than this, beyond one for each head, are too few to tell ways apart.
_FEW = 4

Norms = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""The norm of queries `[*, head, d_head]`, and that of keys."""


@dataclass(frozen=True)
class Way:
    """A way from queries and keys to what is scored, at every position.

    Attributes:
        cos: Cosines; None if the block has no rotation (SmolLM3 and others leave some out).
        sin: Sines; None likewise.
        adjacent: As in `Rotation`.
        norm_last: Whether norms of queries and keys come after the rotation.
        place: Its place in the order in which ways are tried, the same for every prompt.
    """

    cos: Float[Tensor, "pos rotary"] | None
    sin: Float[Tensor, "pos rotary"] | None
    adjacent: bool = False
    norm_last: bool = False
    place: int = 0

    def at(self, position: int) -> Rotation | None:
        """The rotation of one position; None if there is none."""
        if self.cos is None or self.sin is None:
            return None
        return Rotation(self.cos[position], self.sin[position], self.adjacent)

    def each(self, n: int) -> Rotation | None:
        """The rotation of each of the first n positions, for rows `[pos, head, d_head]`."""
        if self.cos is None or self.sin is None:
            return None
        return Rotation(self.cos[:n, None], self.sin[:n, None], self.adjacent)

    def scored(
        self, x: Tensor, rotation: Rotation | None, norm: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Queries or keys as they are scored."""
        if rotation is None:
            return norm(x)
        return norm(rotation.forward(x)) if self.norm_last else rotation.forward(norm(x))


@dataclass(frozen=True, eq=False)
class Seen:
    """What a run shows of one block's queries and keys, and of what it made of them.

    Attributes:
        query: The queries of a position, before norm and rotation.
        keys: The keys of the positions that it sees, from the first on, likewise.
        pattern: The attention of the position to them.
        position: The position.
        rotated: The queries after the rotation (and after a norm before it); None if no hook shows
            them.
        norms: The norms of queries and keys; None if the block has none.
        kv_head: The K/V head of each query head.
        where: Name of the attention, for messages.
    """

    query: Float[Tensor, "head d_head"]
    keys: Float[Tensor, "pos kv_head d_head"]
    pattern: Float[Tensor, "head pos"]
    position: int
    rotated: Float[Tensor, "head d_head"] | None
    norms: Norms | None
    kv_head: Tensor
    where: str


def find_way(tables: Sequence[Angles], seen: Seen, told: Callable[[], int] | None = None) -> Way:
    """The way from queries and keys to what is scored, found by trying.

    Where a hook shows the rotated queries, they must be reproduced. Otherwise the model's attention
    must be, up to one scale and a constant per head. Attention to a single key fits everything, so
    there `told` is asked.

    Args:
        tables: Candidates for the cosines and sines, `[pos, rotary]`.
        seen: What the run shows.
        told: Gives the `place` of the way that was found in another run.

    Raises:
        ModelError: nothing that was tried does; the message says what was.
    """
    found: list[tuple[float, Way]] = []
    vague = seen.rotated is None and _tells_little(seen.pattern)
    for way in _ways(tables, seen):
        error = _error(way, seen)
        found.append((error, way))
        if error < 0.1 and not vague:
            break
    fitting = [way for error, way in found if error <= 1]
    if vague and told is not None and len(fitting) > 1 and not _alike(fitting, seen):
        place = told()
        fitting = [way for way in fitting if way.place == place]
    if not fitting:
        raise ModelError(_misfits(seen, bool(tables)))
    best = min(found, key=lambda one: one[0])[1]
    return fitting[0] if vague else best


def _error(way: Way, seen: Seen) -> float:
    """How far a way is from what the run shows; up to 1 is rounding."""
    if seen.rotated is None:
        return _misfit(_products(way, seen), seen.pattern) / _PATTERN
    error = _rotation_error(way, seen, seen.rotated) / _SAME
    # The hook is before a norm that comes last, so the attention is asked about the norm.
    after = way.norm_last and error <= 1
    return max(error, _misfit(_products(way, seen), seen.pattern) / _PATTERN) if after else error


def _tells_little(pattern: Tensor) -> bool:
    """Whether attention is so much on single keys that wrong ways may fit it too."""
    return int((pattern > _SEEN).sum() - len(pattern)) < _FEW


def _alike(ways: Sequence[Way], seen: Seen) -> bool:
    """Whether ways give the same keys in the query's frame, as at the first position."""
    framed = [_framed_keys(way, seen) for way in ways]
    scale = framed[0].norm().clamp_min(1e-30)
    return all((other - framed[0]).norm() / scale < _SAME for other in framed[1:])


def _misfits(seen: Seen, any_tables: bool) -> str:
    shown = "hook_q into hook_rot_q" if seen.rotated is not None else "hook_q and hook_k into its"
    tried = "pairs of adjacent dimensions, pairs of halves and both directions"
    if seen.norms is not None:
        tried += ", each with the norms of queries and keys before and after it"
    if not any_tables:
        return (
            f"{seen.where} has rotary positions, but neither hook_cos nor a table of angles, and "
            f"none is passed to it; memory keys cannot be read in the query's frame, so this model "
            f"is refused"
        )
    return (
        f"the rotary tables of {seen.where} do not turn {shown}"
        f"{'' if seen.rotated is not None else ' attention'}; tried were {tried}; memory keys "
        f"cannot be read in the query's frame, so this model is refused"
    )


def _ways(tables: Sequence[Angles], seen: Seen) -> Iterator[Way]:
    """Everything that is tried, the usual first."""
    orders = (False,) if seen.norms is None else (False, True)
    width = seen.query.shape[-1]
    laid_out = [
        (cos, sin, adjacent) for table in tables for cos, sin, adjacent in _layouts(table, width)
    ]
    readings = product(orders, (False, True), laid_out)
    for place, (norm_last, backwards, (cos, sin, adjacent)) in enumerate(readings, 1):
        yield Way(cos, -sin if backwards else sin, adjacent, norm_last, place)
    yield Way(None, None, place=0)


def _layouts(table: Angles, width: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Ways to read one table, and the pairing of each: as it says itself, then as others do."""
    cos, sin = table
    half = cos.shape[-1] // 2
    own, other = (slice(0, None, 2), slice(1, None, 2)), (slice(half), slice(half, None))
    adjacent, halves = (
        2 * half == cos.shape[-1] and all(torch.equal(part[:, a], part[:, b]) for part in table)
        for a, b in (own, other)
    )
    if cos.shape[-1] <= width and (adjacent or halves):
        # Both hold if the pairing does not matter: at position 0 alone, or with a single pair.
        yield cos, sin, adjacent and not halves
    # One angle for each pair: the first half of a table in halves, every other of one in pairs.
    singles = [table] if not (adjacent or halves) else []
    singles += [(cos[:, :half], sin[:, :half])] if halves else []
    singles += [(cos[:, ::2], sin[:, ::2])] if adjacent else []
    for one, two in singles:
        if 2 * one.shape[-1] <= width:
            for i, (wide, tall) in enumerate(_spread(one, two)):
                yield wide, tall, i == 0


def _identity(x: Tensor) -> Tensor:
    return x


_PLAIN: Norms = (_identity, _identity)


def _products(way: Way, seen: Seen) -> Float[Tensor, "head pos"]:
    query_norm, key_norm = seen.norms or _PLAIN
    n = len(seen.keys)
    query = way.scored(seen.query, way.at(seen.position), query_norm)
    keys = way.scored(seen.keys, way.each(n), key_norm)[:, seen.kv_head]
    return torch.einsum("hd,jhd->hj", query, keys)


def _framed_keys(way: Way, seen: Seen) -> Tensor:
    """The keys in the frame of the query, as key readings take them."""
    keys = way.scored(seen.keys, way.each(len(seen.keys)), (seen.norms or _PLAIN)[1])
    rotation = way.at(seen.position)
    return keys if rotation is None else rotation.transpose(keys)


def _rotation_error(way: Way, seen: Seen, rotated: Tensor) -> float:
    query_norm = (seen.norms or _PLAIN)[0]
    rotation = way.at(seen.position)
    query = seen.query if way.norm_last else query_norm(seen.query)
    turned = query if rotation is None else rotation.forward(query)
    return float((turned - rotated).norm() / rotated.norm().clamp_min(1e-30))


def _misfit(raw: Tensor, pattern: Tensor) -> float:
    """How far scores are from the logarithms of attention, for the best single scale."""
    seen = pattern > _SEEN
    count = seen.sum(-1, keepdim=True).clamp_min(1)
    logs = torch.where(seen, pattern.clamp_min(1e-30).log(), 0.0)
    raw = torch.where(seen, raw, 0.0)
    logs = torch.where(seen, logs - logs.sum(-1, keepdim=True) / count, 0.0)
    raw = torch.where(seen, raw - raw.sum(-1, keepdim=True) / count, 0.0)
    scale = (raw * logs).sum() / (raw * raw).sum().clamp_min(1e-30)
    return float((scale * raw - logs).norm() / logs.norm().clamp_min(1e-6))


def _spread(cos: Tensor, sin: Tensor) -> list[Angles]:
    """Expand tables with one entry per pair of dimensions, to both layouts of the pairs."""
    return [
        (cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)),
        (torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)),
    ]
