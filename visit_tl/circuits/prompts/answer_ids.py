"""Whose token ids a file holds: those of this tokenizer, or of another one.

Ids say nothing about the tokenizer they belong to. Where a row also has its answers as words, both
can be held against each other: ids whose words are not those of the row belong to another
tokenizer, and the right ids are found again from the words.
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
    """The answers that one row of a file gives.

    Attributes:
        ids: By column, ids as they stand in the file.
        words: By column, the same as words; None where the row does not tell.
    """

    ids: Mapping[str, Ids]
    words: Mapping[str, str] | None


def settle(
    tokens: Tokens, errors: RowErrors, claims: Mapping[int, Claim], insist: bool
) -> tuple[dict[int, dict[str, Ids]], set[int]]:
    """The ids of each row's answers in this tokenizer, by column.

    The ids of a file are of another tokenizer if they disagree with the words of more rows than
    they agree with, and if an id is outside the vocabulary or each word has one id of its own in
    several rows. Where only some rows disagree, nothing tells which of the two is meant, and those
    rows are refused.

    Args:
        tokens: This tokenizer.
        errors: What becomes of rows that cannot be used.
        claims: What each row says, by row number.
        insist: Whether the words are right in any case.

    Returns:
        The ids, and the rows whose ids were found again from their words.
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
    another = not mostly_ours and (
        outside is not None or (bool(differing) and (insist or _one_id_a_word(differing)))
    )

    def row(index: int) -> dict[str, Ids]:
        claim, verdict = claims[index], verdicts[index]
        if verdict == "differ" and another:
            return {column: _of_word(tokens, word) for column, word in (claim.words or {}).items()}
        found = {column: known_ids(ids, tokens, repr(column)) for column, ids in claim.ids.items()}
        if verdict == "no words" and another:
            raise PairError(
                OTHER_TOKENIZER,
                f"its ids cannot be trusted: those of pair {_first_odd(outside, verdicts)} show "
                f"that the file is for another tokenizer than {name_of(tokens)}, and the words "
                f"here do not tell the answers",
            )
        if verdict in ("differ", "mixed"):
            raise PairError(DISAGREE, _disagreement(tokens, claim))
        return found

    settled = errors.each({index: index for index in claims}, row)
    return settled, {index for index in settled if verdicts[index] == "differ"}


def found_again(tokens: Tokens, count: int) -> tuple[str, ...]:
    """The note for the report, if the answers of any pairs were found again."""
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
    """Whether an id is the word, or the first token of it where it is several."""
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


def _one_id_a_word(claims: Sequence[Claim]) -> bool:
    """Whether each word has one id and each id one word, in several rows."""
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


def _first_odd(outside: int | None, verdicts: Mapping[int, _Verdict]) -> int:
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
        f"{told}; nothing tells which is meant. Say ioi=False to take the ids, or correct the row"
    )
