"""The corruptions of an IOI prompt: which names take the places of IO, S1 and S2."""

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
    """The names at IO, S1 and S2 of each corruption of one prompt.

    Args:
        io: The name of the indirect object.
        s: The name of the subject.
        pool: Names to choose from; those of the prompt may be among them. Corruptions that need
            more than it has are left out.
        key: Of the prompt's own stream of random choices; each corruption has one of its own.
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
    """A corrupted prompt, if it differs from the clean one at IO, S1 and S2 alone.

    Args:
        tokens: The tokenizer.
        text: The corrupted text.
        prepend_bos: As the clean prompt was tokenised.
        clean: The ids of the clean prompt, and its positions.
        names: The ids of the names that are now at IO, S1 and S2.

    Raises:
        InputError: the tokens are others than the clean ones with these names.
    """
    ids, where = clean
    expected = list(ids)
    for slot, name in zip(("IO", "S1", "S2"), names, strict=True):
        expected[where[slot]] = name
    found = tokens.encode(text, prepend_bos).ids
    if found != tuple(expected):
        raise InputError(
            f"other names change more than their own tokens in {text!r}: "
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


# How many other names each needs, and how it takes them.
_CORRUPTIONS: Final[Mapping[str, tuple[int, Callable[[str, str, Sequence[str], Draws], Names]]]] = {
    "ABC": (3, _abc),
    "flip": (0, _flip),
    "random-S2": (1, _random_s2),
}
