"""Words that prompts are filled with: those that are single tokens, and those that are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from visit_tl.circuits.prompts.report import Usable
from visit_tl.circuits.prompts.tokenizing import name_of, pieces, token_after_space
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_SPLIT: Final = "not a single token with its space"


@dataclass(frozen=True)
class Words:
    """Usable words of one kind with their token ids."""

    ids: Mapping[str, int]
    usable: Usable


def usable_words(
    tokens: Tokens, kind: str, given: Sequence[str] | None, own: Sequence[str], needed: int
) -> Words:
    """Select the words that are single tokens; words that the caller gave must all be.

    Args:
        tokens: The tokenizer.
        kind: The plural noun for these words, which is also the argument that gives them.
        given: The caller's words; None is `own`.
        own: The package's words.
        needed: How many must be left.

    Raises:
        InputError: a given word is not a single token, a word is repeated, or too few words are
            left.
    """
    words = own if given is None else list(given)
    repeated = [word for word, count in Counter(words).items() if count > 1]
    if repeated:
        raise InputError(f"the {kind} {', '.join(map(repr, repeated))} were given more than once")
    found = {word: token_after_space(tokens, word) for word in words}
    ids = {word: token for word, token in found.items() if token is not None}
    rejected = [word for word in words if word not in ids]
    if rejected and given is not None:
        raise InputError(
            f"these {kind} are not single tokens of {name_of(tokens)} after a space: "
            f"{pieces(tokens, rejected)}; leave them out or choose others"
        )
    if len(ids) < needed:
        raise InputError(
            f"{len(ids)} of {len(words)} {kind} are single tokens of {name_of(tokens)} after a "
            f"space, and {needed} are needed; give {kind}= of your own that are"
        )
    return Words(ids, Usable(kind, tuple(ids), tuple(rejected), _SPLIT))
