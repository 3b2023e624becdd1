"""Draw different prompts from templates: the same on every machine, templates used evenly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.pair import PromptPair
from visit_tl.circuits.prompts.report import Usable
from visit_tl.errors import InputError

Key = tuple[str | int, ...]


@runtime_checkable
class Named(Protocol):
    """A template, which has an id."""

    @property
    def id(self) -> str:
        """Such as `ABBA-07`."""
        ...


T = TypeVar("T", bound=Named)
T_in = TypeVar("T_in", bound=Named, contravariant=True)
Word = TypeVar("Word")


@runtime_checkable
class Maker(Protocol[T_in]):
    """Makes the prompts of a template from numbers."""

    def radices(self, template: T_in) -> list[int]:
        """Number of choices for each slot of the template."""
        ...

    def pair(self, template: T_in, number: int, key: Key) -> PromptPair:
        """The template's prompt with this number, which is below the product of the radices.

        Args:
            template: The template.
            number: The number, in the mixed radix of `radices`.
            key: Key of the random choices of its corruptions.
        """
        ...


def digits_of(number: int, radices: Sequence[int]) -> list[int]:
    """The digits of a number in a mixed radix, lowest first."""
    digits = []
    for radix in radices:
        number, digit = divmod(number, radix)
        digits.append(digit)
    return digits


def distinct(pool: Sequence[Word], digits: Sequence[int]) -> list[Word]:
    """Different items of a pool: the first digit chooses of all, the next of those left."""
    left = list(pool)
    return [left.pop(digit) for digit in digits]


def radices_of(n: int, k: int) -> list[int]:
    """The radices of `distinct`: k different items of n."""
    return [n - i for i in range(k)]


def different_pairs(
    task: str, maker: Maker[T], templates: Sequence[T], n: int, seed: int, words: str
) -> tuple[PromptPair, ...]:
    """Make n different prompts in random order; uses per template differ by at most one.

    Args:
        task: Name of the task, which begins the keys of all random choices.
        maker: Makes the prompts.
        templates: The templates.
        n: How many.
        seed: Seed of the random choices.
        words: The words that are used, for the message, such as `7 names`.

    Raises:
        InputError: there are fewer than n different prompts.
    """
    room = {template: math.prod(maker.radices(template)) for template in templates}
    total = sum(room.values())
    taken: dict[T, set[int]] = {template: set() for template in templates}
    pairs: list[PromptPair] = []
    if n > total:
        raise InputError(
            f"{n} prompts were asked for, but {len(templates)} templates, {words} "
            f"and these fillers make only {total} different ones; give more words"
        )
    turn = 0
    while len(pairs) < n:
        free = [template for template in templates if len(taken[template]) < room[template]]
        for template in Draws(task, seed, "turn", turn).some(free, len(free)):
            if len(pairs) == n:
                break
            key = (task, seed, "prompt", len(pairs))
            number = Draws(*key).below(room[template])
            while number in taken[template]:
                number = (number + 1) % room[template]
            taken[template].add(number)
            pairs.append(maker.pair(template, number, key))
        turn += 1
    return tuple(pairs)


def all_usable(templates: Sequence[Named]) -> Usable:
    """The row of a report that says that every template was used."""
    return Usable("templates", tuple(template.id for template in templates), (), "")


def of_one_length(maker: Maker[T], templates: Sequence[T]) -> tuple[tuple[T, ...], Usable]:
    """The templates with the most frequent token length; of equally frequent ones the shortest."""
    # Every inserted word is one token, so all prompts of a template have the length of the first.
    lengths = {template: len(maker.pair(template, 0, ("length",)).ids) for template in templates}
    counts = Counter(lengths.values())
    chosen = min(counts, key=lambda length: (-counts[length], length))
    kept = tuple(template for template in templates if lengths[template] == chosen)
    others = tuple(template.id for template in templates if lengths[template] != chosen)
    reason = f"not of {chosen} tokens"
    return kept, Usable("templates", tuple(template.id for template in kept), others, reason)
