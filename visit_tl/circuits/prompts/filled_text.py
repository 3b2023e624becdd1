"""A sentence with slots, filled with words of one token each, and where they are in its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from visit_tl.circuits.prompts.pair import END, Corrupted
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_SLOT: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Sentence:
    """A sentence with slots such as {NAME}, each after a space.

    Attributes:
        id: Such as `DOC-01`.
        text: The sentence; each slot occurs once.
    """

    id: str
    text: str

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots, from left to right."""
        return tuple(_SLOT.findall(self.text))


@dataclass(frozen=True)
class Filled:
    """A sentence with a word in each slot.

    Attributes:
        text: The text.
        ids: Its token ids.
        positions: The position of each slot's word, and END, the last position.
    """

    text: str
    ids: tuple[int, ...]
    positions: Mapping[str, int]


def fill(
    tokens: Tokens,
    sentence: Sentence,
    words: Mapping[str, str],
    ids: Mapping[str, int],
    prepend_bos: bool | None,
) -> Filled:
    """Fill in a word for each slot, and find the words in the tokens.

    Args:
        tokens: The tokenizer.
        sentence: The sentence.
        words: The word for each slot.
        ids: The token id of each word after a space.
        prepend_bos: Whether to prepend a BOS; None is the model's own default.

    Raises:
        InputError: a word is not its one token there.
    """
    parts = _SLOT.split(sentence.text)  # text, slot, text, slot, ..., text
    text = "".join(words[part] if i % 2 else part for i, part in enumerate(parts))
    whole = tokens.encode(text, prepend_bos).ids
    positions: dict[str, int] = {}
    before = ""
    for i, part in enumerate(parts):
        before += words[part] if i % 2 else part
        if not i % 2:
            continue
        until = tokens.encode(before, prepend_bos).ids
        if whole[: len(until)] != until or until[-1] != ids[words[part]]:
            raise InputError(
                f"the word {words[part]!r} is not a token of its own in {text!r}: "
                f"{[tokens.text(i) for i in whole]}; leave out the word, or the sentence "
                f"{sentence.id}"
            )
        positions[part] = len(until) - 1
    return Filled(text, whole, {**positions, END: len(whole) - 1})


def refill(
    tokens: Tokens,
    sentence: Sentence,
    words: Mapping[str, str],
    ids: Mapping[str, int],
    clean: Filled,
    prepend_bos: bool | None,
) -> Corrupted:
    """Fill in other words; the tokens may differ from the clean ones only in the slots.

    Raises:
        InputError: they differ elsewhere too.
    """
    expected = list(clean.ids)
    for slot, word in words.items():
        expected[clean.positions[slot]] = ids[word]
    text = _SLOT.sub(lambda slot: words[slot[1]], sentence.text)
    found = tokens.encode(text, prepend_bos).ids
    if found != tuple(expected):
        raise InputError(
            f"replacing words changes more than their own tokens in {text!r}: "
            f"{[tokens.text(i) for i in found]}; leave out the sentence {sentence.id}, or choose "
            f"other words"
        )
    return Corrupted(text, found)
