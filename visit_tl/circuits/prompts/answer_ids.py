"""Decide whether the answer ids of a file belong to this tokenizer or to another one.

Ids alone do not show which tokenizer they belong to. If a row also has its answers as words, the
two are compared: ids that decode to other words than those of the row belong to another tokenizer,
and the right ids are computed from the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from visit_tl.circuits.prompts.foreign import known_ids
from visit_tl.circuits.prompts.tokenizing import first_token, name_of, pieces, token_after_space
from visit_tl.circuits.prompts.unusable import (
    DISAGREE,
    OTHER_TOKENIZER,
    SEVERAL_TOKENS,
    PairError,
    RowErrors,
)
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

Ids = tuple[int, ...]
_Verdict = Literal["agree", "differ", "mixed", "no words"]


@dataclass(frozen=True)
class Claim:
    """The answers that one row of a file gives, as ids and as words.

    Attributes:
        ids: By column, the ids in the file.
        words: By column, the same answers as words; None if the row does not have them.
    """

    ids: Mapping[str, Ids]
    words: Mapping[str, str] | None


def settle(
    tokens: Tokens, errors: RowErrors, claims: Mapping[int, Claim], insist: bool
) -> tuple[dict[int, dict[str, Ids]], set[int]]:
    """Determine the ids of each row's answers in this tokenizer, by column.

    The ids of a file are taken to belong to another tokenizer if both of these hold:

    - The rows whose ids agree with their words are not more than the rows whose ids differ.
    - An id is outside the vocabulary; or some rows differ, and either `insist` is True or the words
      and ids of these rows correspond one to one, with some of them repeated.

    Otherwise it is unclear, in a row that differs, which of the two is meant. Such rows are errors.

    Args:
        tokens: This tokenizer.
        errors: Handles rows that cannot be used.
        claims: The answers of each row, by row number.
        insist: Whether the words are known to be right.

    Returns:
        The ids by row number, and the rows whose ids were computed from their words.
    """
    verdicts: dict[int, _Verdict] = {
        index: _compare(tokens, claim) for index, claim in claims.items()
    }
    counts = Counter(verdicts.values())
    outside = next(
        (index for index, claim in claims.items() if not _all_known(tokens, claim.ids)), None
    )
    differing = [claims[index] for index, verdict in verdicts.items() if verdict == "differ"]
    mostly_ours = counts["agree"] > counts["differ"]
    foreign = not mostly_ours and (
        outside is not None or (bool(differing) and (insist or _one_to_one(differing)))
    )

    def row(index: int) -> dict[str, Ids]:
        claim, verdict = claims[index], verdicts[index]
        if verdict == "differ" and foreign:
            return {column: _of_word(tokens, word) for column, word in (claim.words or {}).items()}
        found = {column: known_ids(ids, tokens, repr(column)) for column, ids in claim.ids.items()}
        if verdict == "no words" and foreign:
            raise PairError(
                OTHER_TOKENIZER,
                f"its ids cannot be trusted: those of pair {_first_foreign(outside, verdicts)} "
                f"show that the file is for another tokenizer than {name_of(tokens)}, and this row "
                f"does not have its answers as words",
            )
        if verdict in ("differ", "mixed"):
            raise PairError(DISAGREE, _disagreement(tokens, claim))
        return found

    settled = errors.each({index: index for index in claims}, row)
    return settled, {index for index in settled if verdicts[index] == "differ"}


def found_again(tokens: Tokens, count: int) -> tuple[str, ...]:
    """The note for the report, if the answers of any pairs were computed from their words."""
    if not count:
        return ()
    return (
        f"the answers of {count} pairs were found again from their words: the file's ids are those "
        f"of another tokenizer than {name_of(tokens)}",
    )


def _compare(tokens: Tokens, claim: Claim) -> _Verdict:
    if claim.words is None or any(len(ids) != 1 for ids in claim.ids.values()):
        return "no words"
    same = {_is_word(tokens, claim.ids[column][0], word) for column, word in claim.words.items()}
    return "mixed" if len(same) > 1 else "agree" if same.pop() else "differ"


def _is_word(tokens: Tokens, token: int, word: str) -> bool:
    """Whether an id is the word, or the first token of a word of several tokens."""
    if not _all_known(tokens, {"": (token,)}):
        return False
    return tokens.text(token).strip() == word or token == first_token(tokens, word)


def _all_known(tokens: Tokens, ids: Mapping[str, Sequence[int]]) -> bool:
    try:
        for those in ids.values():
            known_ids(those, tokens, "")
    except InputError:
        return False
    return True


def _one_to_one(claims: Sequence[Claim]) -> bool:
    """Whether words and ids correspond one to one, with several words and some of them repeated."""
    seen = [
        (word, claim.ids[column][0])
        for claim in claims
        for column, word in (claim.words or {}).items()
    ]
    pairs = set(seen)
    words, ids = {word for word, _ in pairs}, {token for _, token in pairs}
    return len(pairs) == len(words) == len(ids) and 1 < len(pairs) < len(seen)


def _of_word(tokens: Tokens, word: str) -> Ids:
    token = token_after_space(tokens, word)
    if token is None:
        raise PairError(
            SEVERAL_TOKENS,
            f"the answer {word!r} is not a single token, with its space, of {name_of(tokens)}: "
            f"{pieces(tokens, [word])}",
        )
    return (token,)


def _first_foreign(outside: int | None, verdicts: Mapping[int, _Verdict]) -> int:
    if outside is not None:
        return outside
    return next(index for index, verdict in verdicts.items() if verdict == "differ")


def _disagreement(tokens: Tokens, claim: Claim) -> str:
    told = ", ".join(
        f"{column!r} is {claim.ids[column][0]}, which is {tokens.text(claim.ids[column][0])!r}, "
        f"but the words say {word!r}"
        for column, word in (claim.words or {}).items()
        if not _is_word(tokens, claim.ids[column][0], word)
    )
    return (
        f"{told}; it is unclear which is meant. Say ioi=False to take the ids, or correct the row"
    )
