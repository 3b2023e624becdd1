"""How a tokenizer splits the two digits that follow the century of a year."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from visit_tl.circuits.prompts.pair import FirstToken
from visit_tl.circuits.prompts.tokenizing import name_of
from visit_tl.circuits.prompts.unusable import YEARS, PairError
from visit_tl.errors import InputError
from visit_tl.model.tokens import Tokens

_CARRIER = "from the year 1352 to the year 13"


@dataclass(frozen=True)
class YearTokens:
    """The token ids of the last two digits of a year. Exactly one of the two fields is not empty.

    Attributes:
        years: Ids of 00 to 99, if each is one token; else empty.
        digits: Ids of 0 to 9, if years are written digit by digit; else empty.
    """

    years: tuple[int, ...]
    digits: tuple[int, ...]


def split_years(
    digits: tuple[int, ...], right: Collection[int], wrong: Collection[int]
) -> tuple[tuple[int, ...], tuple[int, ...], FirstToken]:
    """Split years into first and second digits, for a tokenizer that writes them digit by digit.

    Args:
        digits: Ids of 0 to 9.
        right: Right years, 0 to 99.
        wrong: Wrong years, 0 to 99.

    Returns:
        Ids of the right and of the wrong second digits after one first digit; and that first digit,
        with the other first digits, which decide without a second one.

    Raises:
        PairError: more than one decade is mixed (it has right and wrong years, or some years that
            are neither), and one run can only show the second digits of one decade.
    """
    decades = {digit: range(digit * 10, digit * 10 + 10) for digit in range(10)}
    all_right = [digit for digit, each in decades.items() if all(y in right for y in each)]
    all_wrong = [digit for digit, each in decades.items() if all(y in wrong for y in each)]
    decided = {*all_right, *all_wrong}
    mixed = [
        digit
        for digit, each in decades.items()
        if digit not in decided and any(y in right or y in wrong for y in each)
    ]
    if len(mixed) > 1:
        raise PairError(
            YEARS,
            f"this tokenizer writes years digit by digit, and the decades "
            f"{', '.join(f'{digit}0' for digit in mixed)} are neither all right nor all wrong; one "
            f"run can only tell the years of one such decade apart",
        )
    # If every first digit decides, any can be the prompt's: take the last of the wrong ones.
    first = mixed[0] if mixed else max(all_wrong, default=max(all_right, default=0))
    return (
        tuple(digits[year % 10] for year in decades[first] if year in right),
        tuple(digits[year % 10] for year in decades[first] if year in wrong),
        FirstToken(
            digits[first],
            tuple(digits[digit] for digit in all_right if digit != first),
            tuple(digits[digit] for digit in all_wrong if digit != first),
        ),
    )


def with_digit(
    tokens: Tokens, text: str, prepend_bos: bool | None, digit: str, token: int
) -> tuple[str, tuple[int, ...]]:
    """Append a digit to a prompt; return its text and ids.

    Raises:
        PairError: the digit does not add exactly its own token.
    """
    longer = text + digit
    ids = tokens.encode(longer, prepend_bos).ids
    if ids != (*tokens.encode(text, prepend_bos).ids, token):
        raise PairError(
            YEARS,
            f"{name_of(tokens)} does not write {digit!r} after {text[-12:]!r} as one more token: "
            f"{[tokens.text(i) for i in ids[-3:]]}",
        )
    return longer, ids


def year_tokens(tokens: Tokens) -> YearTokens:
    """Find out whether the tokenizer writes a year such as 52 as one token or as two digits.

    Raises:
        InputError: it does neither.
    """
    years = [_single_token(tokens, f"{year:02d}") for year in range(100)]
    whole = [token for token in years if token is not None]
    if len(whole) == 100:
        return YearTokens(tuple(whole), ())
    digits = [_suffix_ids(tokens, str(digit)) for digit in range(10)]
    single = tuple(ids[0] for ids in digits if len(ids) == 1)
    if len(single) == 10 and all(
        tokens.text(token).strip() == str(digit) for digit, token in enumerate(single)
    ):
        split = {year: _suffix_ids(tokens, f"{year:02d}") for year in range(100)}
        if all(ids == (single[year // 10], single[year % 10]) for year, ids in split.items()):
            return YearTokens((), single)
    raise InputError(
        f"{name_of(tokens)} writes years of two digits neither as one token each nor digit by "
        f"digit: {len(whole)} of 100 are one token, and after '13' it writes '52' as "
        f"{' + '.join(repr(tokens.text(i)) for i in _suffix_ids(tokens, '52')) or 'other tokens'}; "
        f"greater-than cannot be tested with it"
    )


def digits_note(tokens: Tokens) -> str:
    """The note for the report, if years are written digit by digit."""
    return (
        f"{name_of(tokens)} writes years digit by digit: each prompt ends with a first digit, and "
        f"probability_difference reads it and the next"
    )


def _single_token(tokens: Tokens, text: str) -> int | None:
    ids = tokens.encode(text, False).ids
    return ids[0] if len(ids) == 1 and tokens.text(ids[0]) == text else None


def _suffix_ids(tokens: Tokens, digits: str) -> tuple[int, ...]:
    """The tokens that digits add after a century; empty if they change the tokens before them."""
    base = tokens.encode(_CARRIER, False).ids
    ids = tokens.encode(_CARRIER + digits, False).ids
    return ids[len(base) :] if ids[: len(base)] == base else ()
