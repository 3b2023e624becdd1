"""Corruptions of an IOI prompt: the names that replace IO, S1 and S2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from visit_tl.circuits.prompts.draws import Draws
from visit_tl.circuits.prompts.pair import Corrupted
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

# Two for the prompt, three others for ABC.
NAMES_NEEDED: Final = 5

Names = tuple[str, str, str]


def corrupted_names(
    io: str, s: str, pool: Sequence[str], key: tuple[str | int, ...]
) -> dict[str, Names]:
    """Choose the names at IO, S1 and S2 for each corruption of one prompt.

    Args:
        io: The name of the indirect object.
        s: The name of the subject.
        pool: Names to choose from; it may include those of the prompt. Corruptions that need more
            other names than the pool has are left out.
        key: Key of the prompt's random choices; each corruption adds its name to the key.
    """
    others = [name for name in pool if name not in (io, s)]
    return {
        name: make(io, s, others, Draws(*key, name))
        for name, (needed, make) in _CORRUPTIONS.items()
        if len(others) >= needed
    }


def replaced(
    tokens: Tokens,
    text: str,
    prepend_bos: bool | None,
    clean: tuple[tuple[int, ...], Mapping[str, int]],
    names: Sequence[int],
) -> Corrupted:
    """Build a corrupted prompt, which may differ from the clean one only at IO, S1 and S2.

    Args:
        tokens: The tokenizer.
        text: The corrupted text.
        prepend_bos: The same value as for the clean prompt.
        clean: The ids of the clean prompt, and its positions.
        names: The ids of the names that are now at IO, S1 and S2.

    Raises:
        InputError: the tokens differ from the clean ones elsewhere too.
    """
    ids, where = clean
    expected = list(ids)
    for slot, name in zip(("IO", "S1", "S2"), names, strict=True):
        expected[where[slot]] = name
    found = tokens.encode(text, prepend_bos).ids
    if found != tuple(expected):
        raise InputError(
            f"replacing the names changes more than their own tokens in {text!r}: "
            f"{[tokens.text(i) for i in found]}; leave out this sentence, or choose other names"
        )
    return Corrupted(text, found)


def _abc(io: str, s: str, others: Sequence[str], draws: Draws) -> Names:
    a, b, c = draws.some(others, 3)
    return a, b, c


def _flip(io: str, s: str, others: Sequence[str], draws: Draws) -> Names:
    return io, s, io


def _random_s2(io: str, s: str, others: Sequence[str], draws: Draws) -> Names:
    return io, s, draws.some(others, 1)[0]


# For each corruption: how many other names it needs, and the function that chooses them.
_CORRUPTIONS: Final[Mapping[str, tuple[int, Callable[[str, str, Sequence[str], Draws], Names]]]] = {
    "ABC": (3, _abc),
    "flip": (0, _flip),
    "random-S2": (1, _random_s2),
}
