"""Token sequences in which a head shows its role, and the same with their structure broken.

Every sequence begins with one token apart: the BOS that the model puts before texts or, where it
puts none, one more random token. Tokens are drawn uniformly from the first 8192 that are not
special: in vocabularies that were made by merging, these are the frequent ones, which small models
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from visit_tl.errors import InputError
from visit_tl.model.view import ModelView

_SHORTEST: Final = 4
NEEDLE: Final = 8
"""Tokens of a needle that have to be copied."""
POOL: Final = 8192
"""How many tokens are drawn from. Of 64 needle tokens in 256, SmolLM2-135M copied 26; drawn from
all 49149 it copied 11."""


@dataclass(frozen=True, eq=False)
class Repeated:
    """Random tokens s, twice in a row, and the same with other tokens in the second half.

    Attributes:
        tokens: First token, s, s.
        broken: First token, s, other tokens, none of which is in s.
        half: The number of tokens of s.
    """

    tokens: Int[Tensor, "sequence pos"]
    broken: Int[Tensor, "sequence pos"]
    half: int


@dataclass(frozen=True, eq=False)
class Needles:
    """Random tokens with a key and a needle after it in them, and at the end the key again.

    Attributes:
        tokens: First token, hay, key, needle, hay, key, and the needle but for its last token.
        needles: The tokens of each needle.
        at: For each token of a needle, its position.
        queries: The last positions, each of which has to predict a token of the needle.
        others: For each token of a needle, the position of another one, for the control.
    """

    tokens: Int[Tensor, "sequence pos"]
    needles: Int[Tensor, "sequence needle"]
    at: Int[Tensor, "sequence needle"]
    queries: Int[Tensor, " needle"]
    others: Int[Tensor, "sequence needle"]


class Draws:
    """Draws tokens for one model, by a seed.

    Args:
        view: The model.
        prepend_bos: As for `flow_graph`.
        seed: Of all that is drawn.

    Raises:
        InputError: there are too few tokens to draw from.
    """

    def __init__(self, view: ModelView, prepend_bos: bool | None, seed: int) -> None:
        self.view = view
        self.bos = view.tokens.bos(prepend_bos)
        self.ids = torch.tensor(view.tokens.plain()[:POOL])
        self.random = torch.Generator().manual_seed(seed % 2**63)
        if len(self.ids) < 2 * _SHORTEST + 1:
            raise InputError(
                f"{view.name} has {len(self.ids)} tokens that are not special; probes need "
                f"{2 * _SHORTEST + 1} different ones"
            )

    def repeated(self, n: int, length: int) -> Repeated:
        """The repeated sequences and the broken ones.

        Args:
            n: How many of each.
            length: Tokens of a half; fewer where the context or the vocabulary is too small.

        Raises:
            InputError: there is no room for 4 tokens twice.
        """
        half = min(length, (self.view.n_ctx - 1) // 2, (len(self.ids) - 1) // 2)
        if half < _SHORTEST:
            raise InputError(
                f"{self.view.name} has a context of {self.view.n_ctx} tokens, and {length} were "
                f"asked for; a probe needs {_SHORTEST} tokens twice"
            )
        rows, broken = [], []
        for _ in range(n):
            first, own, other = self._distinct(1, half, half)
            rows.append(torch.cat((first, own, own)))
            broken.append(torch.cat((first, own, other)))
        return Repeated(torch.stack(rows), torch.stack(broken), half)

    def needles(self, n: int, length: int) -> Needles | None:
        """Sequences of so many tokens in all, their needles spread evenly; None without room."""
        needle = min(NEEDLE, (len(self.ids) - 2) // 2)
        total = min(length, self.view.n_ctx)
        hay = total - 1 - 2 * (needle + 1) + 1
        if needle < 2 or hay < needle:
            return None
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for i in range(n):
            first, key, own = self._distinct(1, 1, needle)
            before = round((i + 0.5) / n * hay)
            rest = self.ids[~torch.isin(self.ids, torch.cat((key, own)))]
            straw = rest[torch.randint(len(rest), (hay,), generator=self.random)]
            row = torch.cat((first, straw[:before], key, own, straw[before:], key, own[:-1]))
            at = torch.arange(needle) + before + 2
            turn = int(torch.randint(1, needle, (1,), generator=self.random))
            found.append((row, own, at, at.roll(turn)))
        tokens, needles, at, others = (torch.stack(each) for each in zip(*found, strict=True))
        queries = torch.arange(total - needle, total)
        return Needles(tokens, needles, at, queries, others)

    def words(self, ids: Sequence[int]) -> Int[Tensor, "word 2"]:
        """Each token alone, after the first token."""
        (first,) = self._distinct(1)
        return torch.stack([torch.tensor([int(first), i]) for i in ids])

    def derangement(self, n: int) -> Int[Tensor, " n"]:
        """A random order of 0..n-1 in which nothing is at its own place; n is at least 2."""
        order = torch.randperm(n, generator=self.random)
        shifted = torch.empty_like(order)
        shifted[order] = order.roll(1)
        return shifted

    def _distinct(self, *sizes: int) -> list[Tensor]:
        """Groups of tokens, no token twice; the first one is the BOS where there is one."""
        drawn = self.ids[torch.randperm(len(self.ids), generator=self.random)[: sum(sizes)]]
        groups = list(drawn.split(list(sizes)))
        if self.bos is not None:
            groups[0] = torch.tensor([self.bos])
        return groups
